"""The broker's only timer: gloom.server.timer on a clock."""

from __future__ import annotations

from twisted.internet.task import Clock

from gloom.server.timer import Alarm


class Rung:
    """
    An alarm on a clock.

    Attributes:
        moments: When it rang.
        following: The moments that ringing answers with, next first.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.alarm = Alarm(self.clock)
        self.moments: list[float] = []
        self.following: list[float] = []
        self.alarm.ring = self._ring

    def _ring(self, now: float) -> float | None:
        self.moments.append(now)
        return self.following.pop(0) if self.following else None

    def advance(self, *steps: float) -> list[float]:
        for step in steps:
            self.clock.advance(step)
        return self.moments


def test_it_rings_once_at_its_moment() -> None:
    """The alarm rings at its moment, not before and not again."""
    rung = Rung()
    rung.alarm.set(5.0)
    assert rung.advance(4.9) == []
    assert rung.advance(0.1, 10.0) == [5.0]
    assert rung.clock.getDelayedCalls() == []


def test_the_earliest_of_several_moments_counts() -> None:
    """An earlier moment replaces a later one, a later one has no effect, and there is one timer."""
    rung = Rung()
    for moment in (5.0, 3.0, 4.0, 3.0):
        rung.alarm.set(moment)
    assert len(rung.clock.getDelayedCalls()) == 1
    assert rung.advance(1.0, 1.0, 1.0, 10.0) == [3.0]


def test_ringing_says_when_to_ring_next() -> None:
    """The return value of ringing is the next moment; None means no next moment."""
    rung = Rung()
    rung.following = [2.0, 7.0]
    rung.alarm.set(1.0)
    assert rung.advance(1.0, 1.0, 5.0, 10.0) == [1.0, 2.0, 7.0]


def test_a_moment_that_has_passed_rings_in_the_next_turn() -> None:
    """A moment in the past rings in the next turn, never inside the call that sets it."""
    rung = Rung()
    rung.advance(5.0)
    rung.alarm.set(1.0)
    assert rung.moments == []
    assert rung.advance(0.0) == [5.0]


def test_an_alarm_that_is_stopped_leaves_no_timer() -> None:
    """A stopped alarm does not ring, and may be stopped again."""
    rung = Rung()
    rung.alarm.set(1.0)
    rung.alarm.stop()
    rung.alarm.stop()
    assert rung.clock.getDelayedCalls() == []
    assert rung.advance(2.0) == []


def test_an_alarm_that_nobody_listens_to_is_silent() -> None:
    """An alarm without a callback has no effect when it rings."""
    clock = Clock()
    Alarm(clock).set(1.0)
    clock.advance(1.0)
    assert clock.getDelayedCalls() == []
