"""The steps of the in-memory broker: none takes long, however many jobs and types there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gloom.broker import pairing
from gloom.broker.memory import MOST_A_STEP
from gloom.broker.records import Job
from gloom.errors import NoSlaves
from tests.support.floor import MemoryFloor
from tests.support.recording import OK, assigned, failed

MANY = 2500
TYPES = tuple(f"type {number}" for number in range(1000))


@pytest.fixture
def floor() -> MemoryFloor:
    return MemoryFloor()


@pytest.fixture
def forgotten(floor: MemoryFloor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns the number of jobs that the broker has forgotten since the last call."""
    counted = 0
    forget = floor.broker._forget

    def count(job: Job) -> None:
        nonlocal counted
        counted += 1
        forget(job)

    def take() -> int:
        nonlocal counted
        counted, taken = 0, counted
        return taken

    for forgetting in (floor.broker, floor.broker._gone_masters):
        monkeypatch.setattr(forgetting, "_forget", count)
    return take


def steps_of(floor: MemoryFloor, forgotten: Callable[[], int]) -> list[int]:
    """Have the alarm ring until no job is left; return the number of jobs that each step has forgotten."""
    steps = []
    while floor.broker._jobs:
        floor.broker.deadline_passed(floor.now)
        steps.append(forgotten())
    return steps


# Steps


def test_at_most_a_thousand_jobs_expire_in_a_step(floor: MemoryFloor, forgotten: Callable[[], int]) -> None:
    """Many jobs that expire together end in several steps, between which others are served; the earliest end first."""
    master = floor.master()
    for number in range(MANY):
        master.submit(number, expires_seconds=2.0 - number / MANY)
    master.take()
    floor.now = 3.0
    assert steps_of(floor, forgotten) == [1000, 1000, 500]
    assert [one[1] for one in master.take()] == list(range(MANY))[::-1]


def test_at_most_a_thousand_jobs_of_a_lost_master_are_forgotten_in_a_step(floor: MemoryFloor) -> None:
    """Each step asks for the next one at once, until no job is left."""
    floor.master().queue(*range(MANY)).lost()
    left = [floor.broker.unanswered]
    while floor.broker.deadline_passed(floor.now) is not None:
        left.append(floor.broker.unanswered)
    assert left == [1500, 500]
    assert floor.is_empty()


def test_at_most_a_thousand_jobs_end_in_a_step_of_a_drain(floor: MemoryFloor, forgotten: Callable[[], int]) -> None:
    """A broker that drains with many waiting jobs ends them in several steps, the oldest first."""
    master = floor.master().queue(*range(MANY))
    floor.drain()
    assert [forgotten(), *steps_of(floor, forgotten)] == [1000, 1000, 500]
    assert [one[:2] for one in failed(master.take())] == [(number, "draining") for number in range(MANY)]
    assert floor.drained == 1


def test_at_most_a_thousand_jobs_are_abandoned_in_a_step(floor: MemoryFloor, forgotten: Callable[[], int]) -> None:
    """When the time of a drain is over, the jobs in hand end in several steps, and then the broker is drained."""
    slaves = [floor.joined(name=name, slots=900) for name in "abc"]
    master = floor.master().queue(*range(MANY))
    floor.drain()
    assert forgotten() == 0
    floor.broker.abandon(floor.now)
    assert [forgotten(), *steps_of(floor, forgotten)] == [1000, 1000, 500]
    assert len(failed(master.take())) == MANY
    assert sum(told[0] == "revoked" for slave in slaves for told in slave.take()) == MANY
    assert floor.drained == 1


def test_a_slave_passes_at_most_a_thousand_abandoned_jobs_in_a_step(
    floor: MemoryFloor, forgotten: Callable[[], int]
) -> None:
    """A slave that joins behind many abandoned jobs is served in a later step, when they are forgotten."""
    gone = floor.master("gone").queue(*range(4 * MANY))
    floor.master("m").queue("theirs", "next")
    gone.lost()
    forgotten()
    slave = floor.slave()
    slave.join()
    assert forgotten() == pairing.MOST_DROPPED
    assert (slave.take(), slave.record.turn) == ([OK], 0)
    floor.broker.deadline_passed(floor.now)
    assert forgotten() <= MOST_A_STEP + pairing.MOST_DROPPED
    floor.wait(0.0)
    assert slave.take() == [assigned("theirs")]
    assert not floor.broker._pairing.postponed


def test_jobs_with_many_masters_count_for_more_in_a_step(floor: MemoryFloor) -> None:
    """A job with a hundred masters counts as several jobs when one of them is lost."""
    masters = [floor.master(str(number)) for number in range(100)]
    for master in masters:
        master.queue(*range(900), attach=True)
    masters[0].lost()
    assert 600 < len(masters[0].record.jobs) < 700
    floor.wait(0.0)
    assert not masters[0].record.jobs


@pytest.mark.parametrize("types", [("echo",), (*TYPES, "echo")], ids=["few types", "many types"])
def test_ended_attempts_in_a_hand_are_passed_without_a_move(floor: MemoryFloor, types: tuple[str, ...]) -> None:
    """A slave that holds 900 ended attempts is assigned the job behind those jobs, which stay in their places."""
    slave = floor.joined(*types, slots=901)
    master = floor.master().queue(*range(900), timeout_seconds=1.0)
    floor.wait(1.0)
    line = floor.broker._lines.get("echo")
    assert line is not None
    queue = line.queue
    waiting = list(queue)
    assert len(waiting) == 900
    slave.take()
    master.queue("a", "b", "c")
    for id in "abc":
        assert slave.take()[-1] == assigned(id)
        slave.respond(id=id)
    assert list(queue) == waiting


# Joined types


def test_the_places_of_former_types_are_cleared() -> None:
    """A slave that has joined a thousand types twenty times takes the places of the last ones only."""
    floor = MemoryFloor(max_joined_types=2500)
    slave = floor.slave()
    for number in range(20):
        slave.join(*(f"{number} {other}" for other in range(1000)))
    floor.wait(0.0)
    assert floor.broker._pairing.places == 1002


def test_the_places_of_lost_slaves_are_cleared_in_steps(floor: MemoryFloor) -> None:
    """When slaves of a thousand types each are lost, their places are cleared in steps; their types have no slave."""
    slaves = [floor.joined(*(f"{name} {other}" for other in range(1000)), name=name) for name in "abcdef"]
    for slave in slaves:
        slave.lost()
    assert len(floor.broker._lines) == 6000
    master = floor.master()
    with pytest.raises(NoSlaves):
        master.submit("j", "a 7", require_slave=True)
    master.queue("j", type="b 7")
    left = []
    while floor.broker._pairing.crews.deserted:
        floor.broker.deadline_passed(floor.now)
        left.append(len(floor.broker._lines))
    assert left[0] >= 5000
    assert left[-1] == 1
    assert floor.broker._lines._by_type.__sizeof__() < 1000
    assert floor.joined("b 7").hand == ["j"]
