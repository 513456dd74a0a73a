"""
The time limit of a blocking call.
"""

from __future__ import annotations

from time import monotonic

from msgspec import UnsetType

_LONGEST_POLL_MILLISECONDS = 2**31 - 1


class Deadline:
    """
    The end of a call.

    Args:
        seconds: The call's time limit, from now on.
    """

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = monotonic() + seconds

    def milliseconds_left(self) -> float:
        """Return the timeout for `select.poll`; 0 after the end."""
        return min(max(0.0, self._at - monotonic()) * 1000, _LONGEST_POLL_MILLISECONDS)


#: Reads only the events that have arrived already.
AT_ONCE = Deadline(0.0)

#: A call's own timeout: seconds, or None for no limit; UNSET for the connection's.
Timeout = float | None | UnsetType


def deadline_after(timeout: float | None) -> Deadline | None:
    """Return the end of a call that may take *timeout* seconds; None for no limit."""
    return None if timeout is None else Deadline(timeout)
