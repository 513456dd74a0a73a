"""A share of the simulation (docs/reliability.md), proofs that it can fail, and the bugs that it found."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gloom.broker.pairing import Pairing
from gloom.broker.records import Slave
from gloom.testing import MemoryGloom
from gloom.transport.lingering import Linger
from tests.support.floor import Floor
from tests.support.recording import assigned
from tests.support.wire import OK, answer, busy_slave_of, respond, stop, submit
from verify.simulation.bounds import Bound, Endless
from verify.simulation.clock import Clock, VirtualTime
from verify.simulation.mirror import Mirror
from verify.simulation.world import SimulationFailed, World


@pytest.mark.parametrize("seed", [1, random.randrange(2**32)], ids=["fixed", "random"])  # one id in all processes
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    """Under faults of every kind each job has one outcome, limits and orders hold, and nothing is left behind."""
    print(f"seed {seed}")  # noqa: T201 (pytest shows it when the test fails)
    # CI runs a million steps besides; every kind of act and of outcome comes in these.
    figures = World(seed).run(5_000)
    assert figures.steps >= 5_000
    # A broker that draws small limits refuses most jobs: only a known seed has a known volume.
    assert sum(figures.outcomes.values()) > (150 if seed == 1 else 0)


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same run, so that a failure can be examined."""
    first, second = (World(7).run(1_500) for _ in range(2))
    first.cpu_seconds = second.cpu_seconds = 0.0
    assert first == second


def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch, logged_errors: Any) -> None:
    """A broker that counts a busy slave as idle fails the run, with seed and step."""

    def unidle(self: Any, slave: Slave, stays: bool) -> None:
        for line in slave.lines:
            line.idle.move_to_end(slave)

    monkeypatch.setattr(Pairing, "_unidle", unidle)
    with pytest.raises(SimulationFailed, match=r"^seed 3, step "):
        World(3).run(1_000)
    logged_errors(AssertionError)  # the account's, in the midst of a verb


def test_a_timer_that_is_due_for_ever_is_found() -> None:
    """If virtual time does not advance, the run fails instead of looping for ever."""
    clock = Clock(VirtualTime())

    def again() -> None:
        clock.callLater(0, again)

    again()
    with pytest.raises(Endless, match=r"^time stands still at 0\.0, last with .*again"):
        clock.time.turn()


def test_a_loop_has_its_bound() -> None:
    """A loop beyond its bound raises an error."""
    bound = Bound("a loop", 3)
    for _ in range(3):
        bound.count()
    with pytest.raises(Endless, match=r"^a loop has gone on for 3 rounds$"):
        bound.count()


def test_a_broker_that_goes_on_for_ever_is_found(monkeypatch: pytest.MonkeyPatch, logged_errors: Any) -> None:
    """A timer that is due again at once, for ever, fails the run with its seed and step."""

    def look(self: Any) -> None:
        self._timer = self._clock.callLater(0.0, self._look)

    monkeypatch.setattr(Linger, "_look", look)
    with pytest.raises(SimulationFailed, match=r"^seed 17, step \d+: Endless: time stands .*\n.*jobs in flight"):
        World(17).run(20_000)


# Bugs that the simulation found


def test_jobs_of_a_lost_slave_go_on_in_their_order() -> None:
    """When a slave with slots is lost, an idle one gets the first of its jobs in order, not the first assigned one."""
    floor = Floor()
    lost = floor.joined(slots=2)
    floor.master().queue("low", priority=-1).queue("high")
    idle = floor.joined(name="idle")
    lost.lost()
    assert idle.take() == [assigned("high")]
    floor.everybody_goes()


def test_the_end_of_a_drain_does_not_interrupt_the_broker() -> None:
    """No connection is closed while the broker processes the answer that ends the drain."""
    gloom = MemoryGloom()
    gloom.masters.around.broker = Mirror(gloom.broker, gloom.settings)  # which says when it is re-entered
    master = gloom.master()
    master.send(submit("j"))
    slave = busy_slave_of(gloom, "j")
    stop(gloom)
    assert not master.lost
    slave.send(respond())
    assert master.take() == [OK, answer("j")]
    assert master.lost
    assert slave.lost
