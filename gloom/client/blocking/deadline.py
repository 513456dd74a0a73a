"""
The time that a blocking call may take.
"""

from __future__ import annotations

from time import monotonic

from msgspec import UnsetType

_LONGEST_POLL_MILLISECONDS = 2**31 - 1


class Deadline:
    """
    The end of a call's time.

    Args:
        seconds: How long the call may take from now on.
    """

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = monotonic() + seconds

    def milliseconds_left(self) -> float:
        """Return what `select.poll` may wait; 0 when the time is over."""
        return min(max(0.0, self._at - monotonic()) * 1000, _LONGEST_POLL_MILLISECONDS)


#: For a look at what is here already.
AT_ONCE = Deadline(0.0)

#: A call's own timeout: seconds, None for ever; absent, the connection's.
Timeout = float | None | UnsetType


def deadline_after(timeout: float | None) -> Deadline | None:
    """Return when a call with *timeout* seconds must end; None for never."""
    return None if timeout is None else Deadline(timeout)
