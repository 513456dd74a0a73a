"""
Monotonic time for all timers: no step of the wall clock makes a timer early or late.

Twisted's reactors take their time from the wall clock. Where the process is
gloom's own, `make_monotonic` gives the whole reactor another clock. Where the
reactor is the user's, `monotonic` returns a clock beside it, which a timer of
the kernel wakes (docs/decisions/0019-monotonic-time.md).
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar, cast

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

# The reactor's own timer makes a call that is due at once, in its next turn. If a step
# of the wall clock delays that timer, the kernel's timer makes the call so much later.
_GUARD_SECONDS = 0.05
# The heap may hold so many cancelled calls, and as many as there are live ones.
_MOST_CANCELLED = 50
# The kernel takes a delay of 0 as "never".
_LEAST_NANOSECONDS = 1


def make_monotonic(reactor: Any) -> None:
    """
    Have *reactor* take its time from the monotonic clock, with the timers that it has already.

    For a process that is gloom's own; a user's reactor is left as it is, see `monotonic`.

    Args:
        reactor: One of Twisted's; a virtual clock of tests is left alone.
    """
    if not _is_on_wall_time(reactor):
        return
    ahead_seconds = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        # All by the same difference: their order in the reactor's heap stays right.
        call.time += ahead_seconds
        call.seconds = time.monotonic
    reactor.seconds = time.monotonic


def monotonic(reactor: Any) -> IReactorTime:
    """
    Return a clock on *reactor* that only goes forward, at the rate of real seconds.

    Args:
        reactor: One of Twisted's, or a virtual clock of tests.

    Returns:
        *reactor* itself if it is virtual, or was made monotonic; else the one `SteadyClock` of it.
    """
    if not _is_on_wall_time(reactor):
        return cast(IReactorTime, reactor)
    clock: SteadyClock | None = getattr(reactor, "_gloom_clock", None)
    if clock is None:
        # Kept there, so that it lives as long as the reactor does.
        clock = reactor._gloom_clock = SteadyClock(reactor)
    return clock


def _is_on_wall_time(reactor: Any) -> bool:
    return isinstance(reactor, ReactorBase) and reactor.seconds is not time.monotonic


class _TimerSpec(ctypes.Structure):
    """``struct itimerspec``: no interval, and the first ring."""

    _fields_: ClassVar = [(name, ctypes.c_long) for name in ("every", "every_ns", "seconds", "nanoseconds")]


class _KernelTimer:
    """A timer on the kernel's monotonic clock, as a descriptor that can be read once it has rung: timerfd_create(2)."""

    def __init__(self, library: Any) -> None:
        self._set_time = library.timerfd_settime
        self.descriptor: int = library.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError("no descriptor is left for a timer")

    def set(self, delay_seconds: float) -> None:
        """Ring after *delay_seconds*, instead of any time before."""
        nanoseconds = max(_LEAST_NANOSECONDS, int(delay_seconds * 1e9))
        spec = _TimerSpec(0, 0, *divmod(nanoseconds, 1_000_000_000))
        self._set_time(self.descriptor, 0, ctypes.byref(spec), None)

    def heard(self) -> None:
        """Note that it has rung, so that it can be read only after the next ring."""
        with suppress(BlockingIOError):  # it was set anew since it rang
            os.read(self.descriptor, 8)

    def close(self) -> None:
        os.close(self.descriptor)


def _kernel_timers(reactor: Any) -> Callable[[], _KernelTimer] | None:
    """Return a factory of timers that *reactor* can read; None where there are none."""
    try:
        library = ctypes.CDLL(None)
        library.timerfd_create, library.timerfd_settime  # noqa: B018 (an AttributeError says that it is not Linux)
    except (OSError, AttributeError):
        return None
    return (lambda: _KernelTimer(library)) if IReactorFDSet.providedBy(reactor) else None


@implementer(IReactorTime, IReadDescriptor)
class SteadyClock:
    """
    Monotonic timers beside a reactor with timers that follow the wall clock.

    A kernel timer wakes the clock; the reactor reads that timer as it reads a
    socket. Without a pending call there is no kernel timer. On systems that have
    none (other than Linux), the reactor's own timer wakes the clock: then no call
    is early, but a call may be late by as much as the wall clock was put back.

    Args:
        reactor: The reactor that runs the calls.
    """

    log = Logger()
    seconds = staticmethod(time.monotonic)

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._make_timer = _kernel_timers(reactor)
        self._timer: _KernelTimer | None = None
        # When the kernel timer rings.
        self._rings = math.inf
        # The time at which each call is checked: it may have been cancelled or put off meanwhile.
        self._heap: list[tuple[float, int, DelayedCall]] = []
        self._serial = 0
        self._left = 0
        # The reactor's timer: for calls that are due at once, and for all calls where there is no kernel timer.
        self._turn: IDelayedCall | None = None

    # IReactorTime

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        if delay < 0:
            raise ValueError(f"delay must be at least 0 seconds, got {delay}")
        when = self.seconds() + delay
        call = DelayedCall(when, callable, args, kw, self._cancelled, self._push, self.seconds)
        self._left += 1
        self._push(call)
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        calls = {id(call): call for _, _, call in self._heap if call.active()}
        return list(calls.values())

    def _push(self, call: DelayedCall) -> None:
        """Look at *call* when it is due, which may be sooner than before."""
        heappush(self._heap, (call.getTime(), self._serial, call))
        self._serial += 1
        self._wake_at(call.getTime())

    def _cancelled(self, call: DelayedCall) -> None:
        self._left -= 1
        if not self._left:
            self._rest()
        elif len(self._heap) > 2 * self._left + _MOST_CANCELLED:
            self._heap = [entry for entry in self._heap if entry[2].active() and entry[2] is not call]
            heapify(self._heap)

    # Waking

    def _wake_at(self, when: float) -> None:
        now = self.seconds()
        if self._make_timer is None:
            self._wake_by_reactor(when, now)
        elif when > now:
            self._ring_at(when, now)
        else:
            if self._turn is None:
                self._turn = self._reactor.callLater(0, self._run)
            self._ring_at(now + _GUARD_SECONDS, now)

    def _wake_by_reactor(self, when: float, now: float) -> None:
        if when < self._rings:
            self._leave_turn()
            self._rings = when
            self._turn = self._reactor.callLater(max(0.0, when - now), self._run)

    def _ring_at(self, when: float, now: float) -> None:
        if when >= self._rings:
            return
        if self._timer is None and not self._begin_timer():
            self._wake_by_reactor(when, now)
            return
        self._rings = when
        cast(_KernelTimer, self._timer).set(when - now)

    def _begin_timer(self) -> bool:
        """Return whether there is a descriptor for a timer; if not, the reactor's own must do from now on."""
        try:
            self._timer = None if self._make_timer is None else self._make_timer()
        except OSError as error:
            self.log.warn("timers follow the wall clock: {error}", error=error)
        if self._timer is None:
            self._make_timer = None
            return False
        self._reactor.addReader(self)
        return True

    def _leave_turn(self) -> None:
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self._turn = None

    def _rest(self) -> None:
        """Nothing is to be called: leave nothing in the reactor."""
        self._heap.clear()
        self._leave_turn()
        self._rings = math.inf
        if self._timer is not None:
            self._reactor.removeReader(self)
            self._timer.close()
            self._timer = None

    def _run(self) -> None:
        """Make the calls that are due, and none that they ask for meanwhile."""
        # The reactor's timer may still be there: a step of the wall clock has delayed it, and the kernel's rang first.
        self._leave_turn()
        if self._make_timer is None:
            self._rings = math.inf
        now, serial = self.seconds(), self._serial
        while self._heap and self._heap[0][0] <= now and self._heap[0][1] < serial:
            call = heappop(self._heap)[2]
            if call.active():
                self._look_at(call, now)
        if not self._left:
            self._rest()
        else:
            self._wake_at(self._heap[0][0])

    def _look_at(self, call: DelayedCall, now: float) -> None:
        if call.getTime() > now:
            call.activate_delay()
            self._push(call)
            return
        self._left -= 1
        call.called = 1
        try:
            call.func(*call.args, **call.kw)
        except Exception:
            self.log.failure("an exception in a timer's call")

    # IReadDescriptor

    def fileno(self) -> int:
        return -1 if self._timer is None else self._timer.descriptor

    def logPrefix(self) -> str:
        return "gloom"

    def doRead(self) -> None:
        if self._timer is not None:
            self._timer.heard()
        self._rings = math.inf
        self._run()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has ended, and reads nothing more."""
        self._rest()
