"""A monotonic clock on a reactor, independent of the wall clock: gloom.transport.clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import AlreadyCalled
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from gloom.transport.clock import make_monotonic, monotonic

HOUR = 3600.0


class Wall:
    """The wall clock of a reactor."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def seconds(self) -> float:
        return time.time() + self.ahead


def _asyncio() -> Any:
    return AsyncioSelectorReactor(asyncio.new_event_loop())


class Reactor:
    """
    A reactor run by hand, on a wall clock of its own.

    Attributes:
        events: The calls, in order.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.wall = Wall()
        self.reactor = make()
        self.reactor.seconds = self.wall.seconds
        self.clock = monotonic(self.reactor)
        self.events: list[str] = []

    def later(self, delay: float, name: str) -> Any:
        return self.clock.callLater(delay, self.events.append, name)

    def run_until(self, *names: str, seconds: float = 2.0) -> float:
        """Run until all of *names* were called; return the elapsed time."""
        begun = time.monotonic()
        # Without this timer, a reactor whose only timer is an hour away would not return.
        while not set(names) <= set(self.events) and time.monotonic() < begun + seconds:
            self.reactor.iterate(0.005)
        assert set(names) <= set(self.events), f"only {self.events} after {seconds} s"
        return time.monotonic() - begun

    def end(self) -> None:
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.reactor.removeAll()
        for reader in list(self.reactor._internalReaders):
            reader.connectionLost(None)
        loop = getattr(self.reactor, "_asyncioEventloop", None)
        if loop is not None:
            loop.close()


@pytest.fixture(params=[EPollReactor, SelectReactor, _asyncio], ids=["epoll", "select", "asyncio"])
def around(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    around = Reactor(request.param)
    yield around
    around.end()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_step_of_the_wall_clock_makes_no_timer_early_or_late(around: Reactor, ahead: float) -> None:
    """A timer of 0.1 s rings after 0.1 s, and one of 600 s does not, however the wall clock is set meanwhile."""
    around.later(0.1, "short")
    around.later(600.0, "long")
    around.wall.ahead = ahead
    assert 0.09 < around.run_until("short") < 0.5
    assert around.events == ["short"]


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
def test_what_is_due_at_once_is_not_held_up(around: Reactor, ahead: float) -> None:
    """A wall clock put back between a request for the next turn and that turn delays neither it nor later turns."""
    around.later(0, "first")
    around.wall.ahead = ahead
    assert around.run_until("first") < 0.5
    around.later(0, "next")
    assert around.run_until("next") < 0.04


def test_calls_come_in_the_order_of_their_times(around: Reactor) -> None:
    """Calls run in time order; calls for the same moment run in the order of their requests."""
    for name, delay in (("c", 0.03), ("a", 0.0), ("b", 0.0), ("d", 0.06)):
        around.later(delay, name)
    around.run_until("d")
    assert around.events == ["a", "b", "c", "d"]


def test_calls_can_be_cancelled_put_off_and_brought_forward(around: Reactor) -> None:
    """The clock's delayed calls keep the contract of `IDelayedCall`."""
    calls = {name: around.later(0.05, name) for name in ("cancelled", "put off", "brought forward")}
    calls["cancelled"].cancel()
    calls["put off"].delay(0.1)
    calls["brought forward"].reset(0.0)
    assert {call.getTime() for call in around.clock.getDelayedCalls()} == {
        calls[name].getTime() for name in ("put off", "brought forward")
    }
    assert around.run_until("put off") > 0.1
    assert around.events == ["brought forward", "put off"]
    with pytest.raises(AlreadyCalled):
        calls["put off"].cancel()


def test_what_a_call_asks_for_comes_in_a_later_turn(around: Reactor) -> None:
    """A call that reschedules itself at once does not block the reactor."""

    def again() -> None:
        around.events.append("again")
        around.clock.callLater(0, again)

    around.clock.callLater(0, again)
    around.run_until("again")
    assert len(around.clock.getDelayedCalls()) == 1


def test_an_exception_ends_no_timers(around: Reactor, logged_errors: Any) -> None:
    """An exception in a call is logged, and the other calls still run."""

    def fail() -> None:
        raise RuntimeError("a bug")

    around.clock.callLater(0, fail)
    around.later(0, "other")
    around.run_until("other")
    assert len(logged_errors(RuntimeError)) == 1


def test_a_clock_with_nothing_to_call_leaves_nothing_in_the_reactor(around: Reactor) -> None:
    """An idle clock leaves no reader and no timer in the reactor, so a program's own tests find none."""
    for _ in range(200):
        around.later(HOUR, "never").cancel()
    keeps = around.later(HOUR, "never")
    for _ in range(200):
        around.later(HOUR, "never").cancel()
    assert len(around.clock._heap) < 100  # type: ignore[attr-defined]
    around.later(0, "at once")
    around.run_until("at once")
    keeps.cancel()
    assert around.reactor.getDelayedCalls() == []
    assert around.clock not in around.reactor.getReaders()


def test_a_system_without_kernel_timers_makes_no_call_early(around: Reactor) -> None:
    """Without kernel timers, the reactor's timers wake the clock, which then checks the elapsed time itself."""
    around.clock._make_timer = None  # type: ignore[attr-defined]
    around.later(0.1, "short")
    around.wall.ahead = HOUR
    assert 0.09 < around.run_until("short") < 0.5
    around.later(0, "at once")
    assert around.run_until("at once") < 0.5
    assert around.clock not in around.reactor.getReaders()


def test_a_negative_delay_is_refused(around: Reactor) -> None:
    """A negative delay is refused, as a reactor refuses it."""
    with pytest.raises(ValueError, match="at least 0"):
        around.clock.callLater(-1, list)


def test_a_reactor_has_one_clock_for_all(around: Reactor) -> None:
    """All masters and slaves of a program share one clock for a reactor."""
    assert monotonic(around.reactor) is around.clock


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
@pytest.mark.parametrize("make", [EPollReactor, SelectReactor, _asyncio], ids=["epoll", "select", "asyncio"])
def test_a_reactor_of_our_own_is_monotonic_as_a_whole(make: Callable[[], Any], ahead: float) -> None:
    """gloom's own reactor is monotonic: timers set before and after keep their time, and it needs no second clock."""
    around = Reactor(make)
    calls = [around.reactor.callLater(delay, around.events.append, str(delay)) for delay in (0.1, 0.05)]
    make_monotonic(around.reactor)
    make_monotonic(around.reactor)
    around.wall.ahead = ahead
    calls[0].reset(0.15)
    assert monotonic(around.reactor) is around.reactor
    assert 0.14 < around.run_until("0.1", "0.05") < 0.6
    assert around.events == ["0.05", "0.1"]
    around.end()


@pytest.mark.parametrize("make", [Clock, MemoryReactorClock])
def test_a_virtual_clock_is_taken_as_it_is(make: Callable[[], Any]) -> None:
    """A virtual clock is used directly: the test controls the time."""
    clock = make()
    make_monotonic(clock)
    assert monotonic(clock) is clock
    assert clock.seconds() == 0.0
