"""
Delays between attempts at a broker: each failure in a row makes the next one longer.
"""

from __future__ import annotations

import random

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 15.0
_DELAY_FACTOR = 1.7
# A connection that lasted longer was healthy: an unreadable message on it begins a new series.
_HEALTHY_SECONDS = 60.0


def retry_delay_seconds(failures: int) -> float:
    """Return the delay after *failures* in a row: growing, and jittered so that the clients of a farm spread out."""
    # The exponent is bounded: a float overflows after some days of failing.
    longest = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * _DELAY_FACTOR ** min(failures, 64))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


class Backoff:
    """
    The failures in a row of one client, and the delay that follows from them.

    A connection ends the row. An unreadable message does not: a broker that
    sends one on each connection is asked ever less often.

    Attributes:
        failures: Failures in a row; unreadable messages on connections in a row count too.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._unreadable = 0
        self._connected_at = 0.0

    def restart(self) -> None:
        """Forget the failed attempts: the service starts."""
        self.failures = 0

    def attempt_failed(self) -> bool:
        """Count a failed attempt; return whether it is the first in the row."""
        self.failures += 1
        return self.failures == 1

    def connected(self, now: float) -> None:
        """End the row of failed attempts."""
        self.failures = self._unreadable
        self._connected_at = now

    def disconnected(self) -> None:
        """End the row of unreadable messages: the connection ended without one."""
        self._unreadable = 0

    def message_was_unreadable(self, now: float) -> bool:
        """Count a connection that ended with an unreadable message; return whether it is the first in the row."""
        if now - self._connected_at > _HEALTHY_SECONDS:
            self._unreadable = 0
        self._unreadable += 1
        self.failures = self._unreadable
        return self._unreadable == 1

    def delay_seconds(self) -> float:
        """Return the delay before the next attempt."""
        return retry_delay_seconds(self.failures)
