"""Virtual time: like `twisted.internet.task.Clock`, with a heap, and with each call at its exact time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from .bounds import MOST_AT_A_MOMENT, Endless


def _no_reset(call: Any) -> None:
    raise NotImplementedError("nobody resets a call here")


class VirtualTime:
    """
    State shared by all clocks of one world.

    Attributes:
        now: The time; each moment of it must end.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._moment = -1.0
        self._at_this_moment = 0
        self._heap: list[tuple[float, int, DelayedCall, Clock]] = []
        self._ties = count()
        self._held: list[tuple[float, int, DelayedCall, Clock]] = []

    def seconds(self) -> float:
        return self.now

    def count(self, what: object) -> None:
        """
        Count an event at the present moment.

        Raises:
            Endless: Too many events at this moment: time would never advance.
        """
        if self.now != self._moment:
            self._moment, self._at_this_moment = self.now, 0
        self._at_this_moment += 1
        if self._at_this_moment > MOST_AT_A_MOMENT:
            raise Endless(f"time stands still at {self.now!r}, last with {what}")

    def add(self, call: DelayedCall, owner: Clock) -> None:
        heappush(self._heap, (call.time, next(self._ties), call, owner))

    def next(self) -> float | None:
        """Return when the next call is due."""
        heap = self._heap
        while heap and heap[0][2].cancelled:
            heappop(heap)
        return heap[0][0] if heap else None

    def turn(self) -> bool:
        """Make the calls that are due; return whether there was one."""
        made = False
        while (when := self.next()) is not None and when <= self.now:
            call = heappop(self._heap)[2]
            self.count(call.func)
            call.called = 1
            call.func(*call.args, **call.kw)
            made = True
        return made

    def hold(self, owner: Clock) -> None:
        """Hold back *owner*'s calls until `release`: its program is stopped."""
        self._held = [entry for entry in self._heap if entry[3] is owner]
        self._heap = [entry for entry in self._heap if entry[3] is not owner]
        heapify(self._heap)

    def release(self) -> None:
        """Make the held calls."""
        for entry in self._held:
            heappush(self._heap, entry)
        self._held = []

    def left(self, owner: Clock) -> list[DelayedCall]:
        """Return *owner*'s pending calls."""
        return [call for _, _, call, whose in self._heap if whose is owner and not call.cancelled]


@implementer(IReactorTime)
class Clock:
    """
    The reactor of one program: its calls are distinguishable from those of other programs.

    The calls of a program vanish when it dies; a check for leftover calls comes before that.
    """

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.seconds = time.seconds

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:
        call = DelayedCall(self.time.now + delay, callable, args, kw, lambda _call: None, _no_reset, self.seconds)
        self.time.add(call, self)
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        return self.time.left(self)

    # Other reactor methods that gloom.server.service needs

    def callWhenRunning(self, callable: Callable[..., object], *args: object) -> None:
        callable(*args)

    def stop(self) -> None:
        raise AssertionError("the broker stopped by itself")
