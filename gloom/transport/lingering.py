"""
The wait for a peer that still reads after its connection was closed.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: How long at most a closed connection waits for a peer that reads on.
LONGEST_LINGER_SECONDS = 30.0
# How often the timer looks for progress, in the time that a peer may take nothing.
_LINGER_LOOKS = 4


class Closing(Protocol):
    """A connection that was closed, and has bytes left for its peer."""

    def taken_bytes(self) -> int:
        """Return a count that grows by each byte that the peer takes."""

    def abort(self) -> None:
        """Reset the connection."""


class Linger:
    """
    Resets a closed connection when its peer takes nothing for too long.

    Args:
        connection: The connection; it calls `stop` when it has ended.
        clock: Time.
        linger_seconds: How long the peer may take nothing.
        within_seconds: When the connection is reset at the latest, if that is longer.
    """

    def __init__(self, connection: Closing, clock: IReactorTime, linger_seconds: float, within_seconds: float) -> None:
        self._connection = connection
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._since = clock.seconds()
        self._ends = self._since + max(within_seconds, linger_seconds)
        self._taken = 0
        self._timer: IDelayedCall | None = None
        self._begin_timer()

    def note_progress(self) -> None:
        """Begin to count from the bytes that the peer has taken by now."""
        self._taken = self._connection.taken_bytes()

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _over_at(self) -> float:
        return min(self._since + self._linger_seconds, self._ends)

    def _begin_timer(self) -> None:
        left = self._over_at - self._clock.seconds()
        wait = min(max(left, 0.0), self._linger_seconds / _LINGER_LOOKS)
        self._timer = self._clock.callLater(wait, self._look)

    def _look(self) -> None:
        self._timer = None
        now, taken = self._clock.seconds(), self._connection.taken_bytes()
        if taken != self._taken:
            self._since, self._taken = now, taken
        # The same sum as the timer's: the difference of two rounded times may be less than the time waited
        # for, and then the timer would be due again at this very moment, for ever where a clock stands still.
        if now >= self._over_at:
            self._connection.abort()
        else:
            self._begin_timer()
