"""
The tracebacks in a worker's log: at most one a minute for each error.
"""

from __future__ import annotations

from collections.abc import Callable

from gloom.wire.messages import Fail

_SECONDS = 60.0
# Beyond this number of different errors the oldest is forgotten, and may be logged sooner.
_MOST_ERRORS = 100


class RecentTracebacks:
    """
    The errors whose traceback is in the log already.

    Two failures are the same error if they have the same kind and were raised in the same
    lines of code: their texts may name the job.

    Args:
        seconds: Returns the time of a monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._logged: dict[int, float] = {}

    def admit(self, fail: Fail) -> bool:
        """
        Return whether the traceback of *fail* is to be logged, and remember that it is.

        Args:
            fail: The failure of a job. One that asks for another try has no error to log.
        """
        if fail.traceback is None or fail.retry:
            return False
        now, error = self._seconds(), _identity(fail.kind, fail.traceback)
        if now - self._logged.get(error, -_SECONDS) < _SECONDS:
            return False
        # Last, since it is the youngest now.
        self._logged.pop(error, None)
        self._logged[error] = now
        if len(self._logged) > _MOST_ERRORS:
            del self._logged[next(iter(self._logged))]
        return True


def _identity(kind: str | None, traceback: str) -> int:
    return hash((kind, *(line for line in traceback.splitlines() if line.startswith('  File "'))))
