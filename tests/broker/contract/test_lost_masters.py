"""A disconnected master with many jobs: however the broker forgets them, no peer notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gloom.errors import Busy
from tests.support.floor import AMaster, ASlave, Floor
from tests.support.recording import OK, assigned

MANY = 2500  # more than any broker should forget in one step


def lost(floor: Floor, **terms: Any) -> AMaster:
    """Return a master that was lost with the queued jobs 0, 1, 2..."""
    master = floor.master("lost").queue(*range(MANY), **terms)
    master.lost()
    return master


def test_abandoned_jobs_are_forgotten_without_time_passing(floor: Floor) -> None:
    """The alarm rings for them at once."""
    lost(floor)
    floor.wait(0.0)
    assert floor.is_empty()


def test_a_slave_gets_no_abandoned_job(floor: Floor) -> None:
    """A slave that joins right after the loss is assigned the first job of a master that is there."""
    floor.master("m").queue("theirs", priority=-1)
    lost(floor)
    slave = floor.joined(name="s")
    floor.wait(0.0)
    assert slave.hand == ["theirs"]
    assert floor.broker.unanswered == 1


def test_the_id_of_an_abandoned_job_is_free(floor: Floor) -> None:
    """Another master may use the id right after the loss, and gets its answer."""
    lost(floor)
    master = floor.master("m").queue(0)
    floor.wait(0.0)
    slave = floor.slave("s")
    slave.join()
    assert slave.take() == [OK, assigned(0)]
    slave.respond()
    assert master.take() == [("answered", 0, b"1")]
    assert floor.broker.unanswered == 0


def test_abandoned_jobs_count_for_no_limit(new_floor: Callable[..., Floor]) -> None:
    """A broker that is full of abandoned jobs has room for others."""
    floor = new_floor(max_jobs=MANY, master_share=1.0)
    lost(floor)
    master = floor.master("m").queue(*range(MANY, MANY + 1200))
    assert floor.broker.unanswered <= MANY
    with pytest.raises(Busy):
        for number in range(MANY):
            master.submit(10_000 + number)


@pytest.mark.parametrize("verb", ["respond", "fail", "progress", "cancel", "drain"])
def test_a_lost_master_is_never_called(floor: Floor, verb: str) -> None:
    """Of a job in hand that another master has attached to, only that master hears after the loss of the first."""
    slave = floor.joined()
    first, second = floor.master("first").queue(*range(MANY)), floor.master("second")
    second.submit(0, attach=True)
    second.take()
    first.lost()
    if verb == "cancel":
        second.cancel(0)
    elif verb == "drain":
        floor.drain()
        floor.broker.abandon(floor.now)
        floor.wait(0.0)
    else:
        getattr(slave, verb)()
    assert [call[0] for call in second.take()] == {
        "respond": ["answered"], "progress": ["progressed"], "cancel": ["cancelling", "failed"],
    }.get(verb, ["failed"])  # fmt: skip


def test_an_orphan_beside_abandoned_jobs_is_not_tried_again(floor: Floor) -> None:
    """The attempt in hand of a lost master is the last one, also when its slave is lost right after it."""
    slave, other = floor.joined(name="s"), floor.joined("other", name="o")
    floor.master("lost").queue(*range(MANY)).lost()
    other.join()
    other.take()
    slave.lost()
    assert other.take() == []
    floor.wait(0.0)
    assert floor.broker.unanswered == 0


def test_the_end_of_an_abandoned_delay_starts_nothing(floor: Floor) -> None:
    """A delayed job of a lost master is never assigned, however many there are."""
    slave = floor.joined()
    lost(floor, delay_seconds=5.0)
    floor.now = 5.0
    floor.broker.deadline_passed(floor.now)
    assert slave.take() == []
    assert floor.broker.unanswered == 0


def test_a_job_with_another_master_stays(floor: Floor) -> None:
    """Of all jobs of the lost master, the one with an attached master is run and answered."""
    first, second = floor.master("first"), floor.master("second")
    first.queue(*range(MANY))
    second.queue(7, attach=True)
    first.lost()
    floor.wait(0.0)
    slave = floor.slave()
    slave.join()
    assert slave.take() == [OK, assigned(7)]
    slave.respond()
    assert second.take() == [("answered", 7, b"1")]


def test_a_drain_waits_for_no_abandoned_job(floor: Floor) -> None:
    """A shutdown right after the loss has nothing to wait for."""
    lost(floor)
    floor.drain()
    floor.wait(0.0)
    assert floor.drained == 1
    assert floor.is_empty()


def test_two_masters_may_be_lost_together(floor: Floor) -> None:
    """The jobs of both are forgotten; those of a third stay, in order."""
    a, b, c = (floor.master(name) for name in "abc")
    for number in range(MANY):
        a.submit(f"a{number}")
        b.submit(f"b{number}")
        c.submit(f"c{number}")
    a.lost()
    b.lost()
    floor.wait(0.0)
    assert floor.broker.unanswered == MANY
    assert floor.joined(slots=3).hand == ["c0", "c1", "c2"]


@pytest.mark.parametrize("way", [ASlave.leave, ASlave.lost])
def test_a_slave_that_found_only_abandoned_jobs_may_go(floor: Floor, way: Callable[[ASlave], None]) -> None:
    """A slave that leaves, or is lost, while the jobs before it are being forgotten is assigned nothing later."""
    floor.master("lost").queue(*range(4 * MANY)).lost()
    slave = floor.slave()
    slave.join()
    way(slave)
    floor.wait(0.0)
    floor.master("m").queue("theirs")
    assert slave.hand == []


def test_abandoned_jobs_behind_ended_attempts_are_passed(floor: Floor) -> None:
    """A slave that holds ended attempts is assigned the first job that is not abandoned."""
    slave = floor.joined(slots=100)
    stays = floor.master().queue(*range(99), timeout_seconds=1.0)
    floor.wait(1.0)
    slave.respond(id=98)
    gone = floor.master("lost").queue(*(f"gone {number}" for number in range(3 * MANY)), priority=0)
    held = [id for id in slave.hand if str(id).startswith("gone")]
    stays.queue("last")
    gone.lost()
    for id in held:
        slave.respond(id=id)
    floor.wait(0.0)
    assert "last" in slave.hand
