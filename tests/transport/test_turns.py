"""Turns of connections, on a clock that the work itself advances: gloom.transport.turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from gloom.transport.collector import CollectorTime
from gloom.transport.turns import SLICE_SECONDS, TURN_SECONDS, Turns

#: The time of the fastest request.
PING_SECONDS = 50e-6


class Reactor(Clock):
    """A clock that advances during work, and not only between turns."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_seconds = 0.0
        self.turns = Turns(self, lambda: self.cpu_seconds)
        self.turns._is_real = True
        self.served: list[str] = []

    def work(self, seconds: float) -> None:
        self.rightNow += seconds
        self.cpu_seconds += seconds

    def wait(self, name: str, seconds: float, *, is_new: bool = False, again: int = 0) -> None:
        """Queue *name* for work of that length, and *again* as many times more."""

        def work() -> None:
            self.work(seconds)
            self.served.append(name)
            if again:
                self.wait(name, seconds, again=again - 1)

        self.turns.add(name, work, is_new=is_new)

    def turn(self) -> None:
        """Serve one turn."""
        self.turns.share(self.seconds() + TURN_SECONDS)

    def run(self, until: Callable[[], bool]) -> float:
        """Serve until a condition holds; return the elapsed time."""
        begun = self.seconds()
        for _ in range(100_000):
            if until():
                break
            self.turn()
            if self.turns.is_resting:
                self.rightNow += 0.001
        return self.seconds() - begun


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


def test_a_turn_ends_in_time(reactor: Reactor) -> None:
    """However many connections wait, the reactor's timers run after 10 ms plus one slice."""
    for number in range(1000):
        reactor.wait(f"heavy {number}", SLICE_SECONDS, again=100)
    reactor.turn()
    assert TURN_SECONDS <= reactor.seconds() <= TURN_SECONDS + SLICE_SECONDS


@pytest.mark.parametrize("heavy", [1, 64, 3000])
def test_a_light_peer_is_never_behind_the_heavy_ones(reactor: Reactor, heavy: int) -> None:
    """A ping is served after the current slice, however many connections wait and for however long."""
    reactor.wait("light", PING_SECONDS)
    reactor.turn()
    for number in range(heavy):
        reactor.wait(f"heavy {number}", SLICE_SECONDS, again=10)
    for _ in range(15):
        reactor.turn()
        reactor.served.clear()
        reactor.wait("light", PING_SECONDS)
        reactor.run(lambda: "light" in reactor.served)
        assert reactor.served.index("light") <= 1


def test_equal_peers_have_equal_shares_whatever_their_requests_take(reactor: Reactor) -> None:
    """A connection whose slices take ten times as long has a tenth as many."""
    reactor.wait("long", 0.01, again=10**6)
    reactor.wait("short", 0.001, again=10**6)
    reactor.run(lambda: reactor.seconds() > 2.0)
    assert reactor.served.count("short") == pytest.approx(10 * reactor.served.count("long"), rel=0.1)


def test_a_long_slice_is_paid_for(reactor: Reactor) -> None:
    """After a request of 100 ms that could not be cut, the other connections get 100 ms, if they want them."""
    reactor.wait("bomb", 0.1)
    reactor.turn()
    reactor.wait("bomb", 0.1)
    reactor.wait("other", 0.001, again=10**6)
    reactor.run(lambda: reactor.served.count("bomb") == 2)
    assert reactor.served.count("other") >= 99


def at_work(reactor: Reactor, name: str, seconds: float, pause_seconds: float) -> None:
    """Have *name* work repeatedly for that long, each time after its reply and a pause."""

    def work() -> None:
        reactor.work(seconds)
        reactor.served.append(name)
        reactor.callLater(pause_seconds, again)

    def again() -> None:
        reactor.turns.add(name, work)
        reactor.turns.run_turn()
        if reactor.turns.is_waiting:
            reactor.turns.wake()

    reactor.callLater(0, again)


def without_end(reactor: Reactor, name: str, seconds: float) -> None:
    """Have *name* request work without end, each piece of that length."""

    def work() -> None:
        reactor.work(seconds)
        reactor.served.append(name)
        reactor.turns.add(name, work)

    reactor.turns.add(name, work)
    reactor.turns.wake()


def pass_seconds(reactor: Reactor, seconds: float) -> None:
    """Advance the clock from timer to timer."""
    ends = reactor.seconds() + seconds
    while reactor.seconds() < ends:
        calls = reactor.getDelayedCalls()
        next_call = min((call.getTime() for call in calls), default=ends)
        reactor.advance(max(0.0, min(next_call, ends) - reactor.seconds()))


@pytest.mark.parametrize("bomb_seconds", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("bombs", [1, 3])
def test_one_that_waits_for_replies_has_its_share_too(reactor: Reactor, bombs: int, bomb_seconds: float) -> None:
    """A connection that waits for each reply keeps its share: heavier ones do not use the gaps between its requests."""
    at_work(reactor, "good", 0.0003, 0.0004)
    pass_seconds(reactor, 0.01)
    for number in range(bombs):
        without_end(reactor, f"bomb {number}", bomb_seconds)
    reactor.served.clear()
    pass_seconds(reactor, 4.0)
    # Without other connections it would have 3/7 of the time.
    part = 0.0003 * reactor.served.count("good") / 4.0
    assert part >= 0.5 / (1 + bombs) / 2
    assert len(reactor.served) - reactor.served.count("good") >= 4.0 / bomb_seconds * 0.3


def test_nobody_rests_where_nobody_else_is_at_work(reactor: Reactor) -> None:
    """The only active connection has all of the broker's time."""
    at_work(reactor, "good", 0.0003, 10.0)
    pass_seconds(reactor, 0.2)
    without_end(reactor, "busy", 0.02)
    reactor.served.clear()
    pass_seconds(reactor, 2.0)
    assert reactor.served.count("busy") >= 99


def test_nobody_rests_for_one_that_does_not_come(reactor: Reactor) -> None:
    """An occasional ping costs an active connection a moment, not half of its time."""
    at_work(reactor, "good", 0.0003, 0.5)
    pass_seconds(reactor, 0.01)
    without_end(reactor, "busy", 0.02)
    pass_seconds(reactor, 4.0)
    assert reactor.served.count("busy") >= 0.9 * 4.0 / 0.02


def test_one_that_comes_again_owes_what_it_owed(reactor: Reactor) -> None:
    """A heavy connection that closes and reconnects waits as if it had stayed."""
    reactor.wait("other", 0.001, again=10**6)
    for number in range(100):
        name = f"attacker {number}"
        # The broker has known it for light requests before.
        reactor.wait(name, PING_SECONDS, is_new=True)
        reactor.run(lambda name=name: name in reactor.served)  # type: ignore[misc]
        reactor.wait(name, 0.05)
        reactor.run(lambda name=name: reactor.served.count(name) == 2)  # type: ignore[misc]
        reactor.turns.forget(name)
    assert 0.001 * reactor.served.count("other") > 0.9 * 100 * 0.05
    # Other new connections do not wait for it for ever.
    reactor.wait("new", PING_SECONDS, is_new=True)
    assert reactor.run(lambda: "new" in reactor.served) < 0.25


def test_nobody_saves_up_time(reactor: Reactor) -> None:
    """A connection that was silent for long does not delay the others afterwards."""
    reactor.wait("busy", 0.001, again=10**6)
    reactor.wait("late", 0.001)
    reactor.run(lambda: reactor.seconds() > 5.0)
    reactor.served.clear()
    reactor.wait("late", 0.001, again=10**6)
    reactor.run(lambda: len(reactor.served) > 100)
    assert reactor.served.count("busy") > 45


def test_newcomers_share_one_share(reactor: Reactor) -> None:
    """Thousands of new connections share one share: they do not overtake the existing ones."""
    reactor.wait("here", 0.001, again=10**6)
    for number in range(3000):
        reactor.wait(f"new {number}", 0.001, is_new=True)
    reactor.run(lambda: reactor.seconds() > 1.0)
    assert reactor.served.count("here") > 300
    # The new connections are served in the end.
    assert len(set(reactor.served)) > 100


def test_time_that_another_process_took_is_nobody_s(reactor: Reactor) -> None:
    """A connection that the system interrupts for 50 ms is not charged for that time."""
    reactor.wait("other", 0.001, again=10**6)

    def interrupted() -> None:
        reactor.rightNow += 0.05
        reactor.work(PING_SECONDS)

    reactor.turns.add("unlucky", interrupted)
    reactor.turn()
    reactor.wait("unlucky", PING_SECONDS)
    assert reactor.run(lambda: "unlucky" in reactor.served) <= TURN_SECONDS + SLICE_SECONDS


def test_the_collector_s_time_is_nobody_s(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full collection runs at any allocation, so the connection being served is not charged for it."""
    collector = CollectorTime()
    monkeypatch.setattr("gloom.transport.turns.COLLECTOR", collector)

    def ping() -> None:
        reactor.work(PING_SECONDS + 0.04)
        collector.seconds += 0.04

    reactor.turns.add("light", ping)
    for number in range(16):
        reactor.wait(f"heavy {number}", SLICE_SECONDS, again=10**3)
    reactor.turn()
    for _ in range(20):
        reactor.served.clear()
        reactor.wait("light", PING_SECONDS)
        reactor.run(lambda: "light" in reactor.served)
        assert reactor.served.index("light") <= 1


def test_one_that_waits_is_not_added_twice(reactor: Reactor) -> None:
    """A waiting connection has one turn; a second request follows after it."""
    then: list[str] = []
    assert reactor.turns.add("one", lambda: reactor.served.append("one"))
    assert not reactor.turns.add("one", lambda: reactor.served.append("again"))
    reactor.turns.when_served("one", lambda: then.append("then"))
    reactor.turn()
    assert (reactor.served, then) == (["one"], ["then"])
    assert not reactor.turns.is_waiting


def test_one_that_has_gone_is_not_served(reactor: Reactor) -> None:
    """A connection that has ended is not served, and no state of it is kept."""
    reactor.wait("gone", 0.001)
    reactor.turns.forget("gone")
    reactor.turns.settle("gone")
    reactor.turn()
    assert reactor.served == []
    assert not reactor.turns._shares


def test_one_that_owes_nothing_is_settled(reactor: Reactor) -> None:
    """Only connections above their share are remembered."""
    reactor.wait("heavy", 0.01)
    reactor.turn()
    reactor.turns.settle("heavy")
    assert set(reactor.turns._shares) == {"heavy"}
    reactor.wait("other", 0.001, again=20)
    reactor.run(lambda: len(reactor.served) > 20)
    reactor.turns.settle("heavy")
    assert "heavy" not in reactor.turns._shares


def test_an_exception_ends_no_turns(reactor: Reactor, logged_errors: Any) -> None:
    """An exception is logged, and the other connections are served."""

    def fail() -> None:
        raise RuntimeError("a bug")

    reactor.turns.add("bad", fail)
    reactor.wait("good", 0.001)
    reactor.turn()
    assert reactor.served == ["good"]
    assert len(logged_errors(RuntimeError)) == 1


def test_a_backlog_goes_on_in_later_turns(reactor: Reactor) -> None:
    """Between two turns of a backlog, the reactor handles every other event."""
    for number in range(50):
        reactor.wait(str(number), 0.001)
    reactor.turns.wake()
    reactor.turns.wake()
    turns: list[int] = []
    run = reactor.turns.run_turn

    def counted() -> None:
        run()
        turns.append(len(reactor.served))

    reactor.turns.run_turn = counted
    while reactor.getDelayedCalls():
        reactor.advance(0)
    assert turns == [10, 20, 30, 40, 50]


def test_judging_waits_until_what_was_there_has_been_read(reactor: Reactor) -> None:
    """A deadline does not apply to an answer that is already in the socket; a later answer is too late."""
    for number in range(15):
        reactor.wait(str(number), 0.001)
    reactor.turns.after_reading(lambda: reactor.served.append("judged"))
    reactor.wait("late", 0.02)
    while reactor.getDelayedCalls():
        reactor.advance(0)
        reactor.wait("later", 0.001)
        if "judged" in reactor.served:
            break
    assert set(reactor.served[: reactor.served.index("judged")]) >= {str(number) for number in range(15)}


@pytest.mark.parametrize(("late_seconds", "least", "most"), [(0.0, 0.05, 0.1), (3.0, 1.0, 1.05), (0.3, 0.3, 0.35)])
def test_judging_does_not_wait_for_ever(reactor: Reactor, late_seconds: float, least: float, most: float) -> None:
    """Judging is delayed by at most 50 ms under any attack, and after a pause by at most the pause or a second."""
    for number in range(3000):
        reactor.wait(str(number), 0.001)
    judged: list[float] = []
    reactor.turns.after_reading(lambda: judged.append(reactor.seconds()), late_seconds)
    while not judged:
        reactor.advance(0)
    assert least <= judged[0] <= most
    reactor.turns.stop()
    assert reactor.getDelayedCalls() == []


def test_judging_waits_for_nothing_where_nothing_is_to_be_read(reactor: Reactor) -> None:
    """On an idle broker the alarm rings in its own turn."""
    judged: list[bool] = []
    reactor.turns.after_reading(lambda: judged.append(True))
    assert judged
    reactor.turns.reactor_reads = 1
    reactor.turns.after_reading(lambda: judged.append(True))
    assert judged == [True]
    reactor.advance(0)
    assert judged == [True, True]
    assert reactor.getDelayedCalls() == []


def test_on_a_virtual_clock_nothing_waits() -> None:
    """On a virtual clock sockets are in memory, and time does not advance within a turn: judging is immediate."""
    judged: list[bool] = []
    turns = Turns(Clock())
    turns.reactor_reads = 1
    turns.after_reading(lambda: judged.append(True), 5.0)
    assert judged
