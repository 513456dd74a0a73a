"""
Time limits for a broker that count only after a last read of the socket.

After a pause of this process (SIGSTOP, a suspended machine) or a long turn of
the reactor, timers fire before sockets are read. The broker's bytes may have
arrived in time, and still be in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

#: Within this time the reactor reads every socket that was ready when a timer fired.
LOOK_SECONDS = 0.01

Result = TypeVar("Result")


def bounded(
    deferred: Deferred[Result], seconds: float, clock: IReactorTime, too_late: Callable[[], Exception]
) -> Deferred[Result]:
    """
    Cancel *deferred* after *seconds*, as `Deferred.addTimeout` does, but read the socket once more before that.

    Args:
        deferred: Fires with the broker's answer.
        seconds: The time limit.
        clock: For the time limit.
        too_late: Returns the exception with which *deferred* fails then.

    Returns:
        *deferred*.
    """
    timed_out = False
    timer: IDelayedCall

    def look() -> None:
        nonlocal timer
        timer = clock.callLater(LOOK_SECONDS, end)

    def end() -> None:
        nonlocal timed_out
        timed_out = True
        deferred.cancel()

    def ended(result: Result | Failure) -> Result | Failure:
        if timer.active():
            timer.cancel()
        if timed_out and isinstance(result, Failure) and result.check(CancelledError):
            return Failure(too_late())
        return result

    timer = clock.callLater(max(0.0, seconds - LOOK_SECONDS), look)
    deferred.addBoth(ended)
    return deferred
