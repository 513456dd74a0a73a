"""No step of the broker takes long, however much there is, and what slaves join is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gloom.broker import pairing
from gloom.broker.memory import MOST_A_STEP
from gloom.broker.records import Crew, Job
from gloom.errors import Busy, NoSlaves
from tests.broker.test_broker_extended import failed
from tests.support.floor import ASlave, Floor
from tests.support.recording import OK, assigned

MANY = 2500
TYPES = tuple(f"type {number}" for number in range(1000))


@pytest.fixture
def floor() -> Floor:
    return Floor(retries=3)


@pytest.fixture
def forgotten(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many jobs the broker has forgotten since it was last asked."""
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


def steps_of(floor: Floor, forgotten: Callable[[], int]) -> list[int]:
    """Have the alarm ring until nothing is left to do; return how many jobs each step has forgotten."""
    steps = []
    while floor.broker._jobs:
        floor.broker.deadline_passed(floor.now)
        steps.append(forgotten())
    return steps


# Steps


def test_no_more_than_a_thousand_that_are_due_end_in_a_step(floor: Floor, forgotten: Callable[[], int]) -> None:
    """Where a million jobs expire at one moment, others are served between the steps, and the earliest end first."""
    master = floor.master()
    for number in range(MANY):
        master.submit(number, expires_seconds=2.0 - number / MANY)
    master.take()
    floor.now = 3.0
    assert steps_of(floor, forgotten) == [1000, 1000, 500]
    assert [one[1] for one in master.take()] == list(range(MANY))[::-1]


def test_no_more_than_a_thousand_end_in_a_step_of_a_drain(floor: Floor, forgotten: Callable[[], int]) -> None:
    """A broker that is stopped with a million jobs goes on answering; those that wait end in steps, oldest first."""
    master = floor.master().queue(*range(MANY))
    floor.drain()
    assert [forgotten(), *steps_of(floor, forgotten)] == [1000, 1000, 500]
    assert [one[:2] for one in failed(master.take())] == [(number, "draining") for number in range(MANY)]
    assert floor.drained == 1


def test_a_slave_that_comes_during_a_drain_gets_nothing(floor: Floor) -> None:
    """A job that a drain has yet to end is begun by nobody, whether it waits or its delay ends meanwhile."""
    busy = floor.joined(name="busy")
    master = floor.master().queue("in hand", *range(MANY)).queue("delayed", delay_seconds=1.0)
    floor.drain()
    slave = floor.joined(name="late")
    busy.take()
    busy.respond()
    floor.now = 1.0
    floor.wait(0.0)
    assert (slave.take(), busy.take()) == ([], [OK])
    assert sum(one[0] == "failed" for one in master.take()) == MANY + 1
    assert floor.drained == 1


def test_no_more_than_a_thousand_in_hand_are_abandoned_in_a_step(floor: Floor, forgotten: Callable[[], int]) -> None:
    """When a drain's time is over, what is in hand ends step by step too, and then the broker says that it is empty."""
    slaves = [floor.joined(name=name, slots=900) for name in "abc"]
    master = floor.master().queue(*range(MANY))
    floor.drain()
    assert forgotten() == 0
    floor.broker.abandon(floor.now)
    assert [forgotten(), *steps_of(floor, forgotten)] == [1000, 1000, 500]
    assert len(failed(master.take())) == MANY
    assert sum(told[0] == "revoked" for slave in slaves for told in slave.take()) == MANY
    assert floor.drained == 1


def test_a_slave_passes_no_more_than_a_thousand_jobs_of_a_master_that_has_gone(
    floor: Floor, forgotten: Callable[[], int]
) -> None:
    """Who joins behind a million that nobody waits for holds nobody up, and is served when they are forgotten."""
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


def test_a_slave_that_was_postponed_may_go(floor: Floor) -> None:
    """Who leaves, or is lost, before it was served is not served later."""
    for way in (ASlave.leave, ASlave.lost):
        gone = floor.master("gone").queue(*range(4 * MANY))
        gone.lost()
        slave = floor.slave()
        slave.join()
        way(slave)
        floor.wait(0.0)
        floor.master("m").queue("theirs")
        assert assigned("theirs") not in slave.take()
        floor.everybody_goes()


def test_jobs_with_many_masters_take_their_part_of_a_step(floor: Floor) -> None:
    """A job that a hundred masters have attached to counts as several when one of them goes."""
    masters = [floor.master(str(number)) for number in range(100)]
    for master in masters:
        master.queue(*range(900), attach=True)
    masters[0].lost()
    assert 600 < len(masters[0].record.jobs) < 700
    floor.wait(0.0)
    assert not masters[0].record.jobs


@pytest.mark.parametrize("types", [("echo",), (*TYPES, "echo")], ids=["few types", "many types"])
def test_ended_attempts_in_a_hand_are_passed_and_stay_where_they_are(floor: Floor, types: tuple[str, ...]) -> None:
    """A slave that holds 900 ended attempts is given the next job for no more than a look at each of them."""
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


def test_ended_attempts_of_masters_that_have_gone_are_passed(floor: Floor) -> None:
    """What nobody waits for behind the ended attempts is dropped, some at a time, and then the next one is given."""
    slave = floor.joined(slots=100)
    stays = floor.master().queue(*range(99), timeout_seconds=1.0)
    floor.wait(1.0)
    slave.respond(id=98)
    gone = floor.master("gone").queue(*(f"gone {number}" for number in range(3 * MANY)), priority=0)
    slave.take()
    held = [id for id in slave.record.hand if str(id).startswith("gone")]
    stays.queue("last")
    gone.lost()
    for id in held:
        slave.respond(id=id)
    floor.wait(0.0)
    assert "last" in slave.record.hand


# Joined types


def test_joined_types_are_bounded() -> None:
    """A join beyond the limit is refused, and the slave keeps what it had joined."""
    floor = Floor(max_joined_types=20)
    slave = floor.joined("echo")
    other = floor.joined(*TYPES[:16], name="other")
    with pytest.raises(Busy, match=r"20 joined types \(--max-joined-types\)"):
        floor.slave("third").join("echo")
    with pytest.raises(Busy):
        slave.join(*TYPES[:5])
    floor.master().queue("j")
    assert slave.take() == [assigned("j")]
    other.lost()
    floor.slave("fourth").join(*TYPES[:5])


def test_slaves_of_the_same_many_types_count_once() -> None:
    """A farm of a hundred slaves with the same thousand types needs no more than a few places for each."""
    floor = Floor(max_joined_types=1300)
    for number in range(100):
        floor.joined(*TYPES, name=str(number))
    assert floor.broker._pairing.places == 1200


def test_a_slave_may_join_ever_other_types() -> None:
    """What a slave had joined before makes room, however often it joins in one go."""
    floor = Floor(max_joined_types=2500)
    slave = floor.slave()
    for number in range(20):
        slave.join(*(f"{number} {other}" for other in range(1000)))
    floor.wait(0.0)
    assert floor.broker._pairing.places == 1002


def test_many_types_are_left_step_by_step(floor: Floor) -> None:
    """When slaves of a thousand types each go at once, their places go in steps; meanwhile none counts as there."""
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
    assert floor.joined("b 7").record.hand.keys() == {"j"}


def test_the_same_many_types_may_be_joined_while_they_are_left(floor: Floor) -> None:
    """A slave that comes back at once, before its places are cleared, is served, and has its own."""
    floor.joined(*TYPES).lost()
    slave = floor.joined(*TYPES[:900])
    floor.master().queue(*range(3), type=TYPES[5])
    floor.wait(0.0)
    for _ in range(3):
        slave.respond()
    assert slave.take()[-1] == OK
    assert len(floor.broker._lines) == 901
    floor.everybody_goes()


def test_crews_share_the_names_of_types(floor: Floor) -> None:
    """A type's name is kept once, however many slaves send it."""

    def crew_of(slave: ASlave) -> Any:
        return next(line for line in slave.record.lines if isinstance(line, Crew))

    names = [[f"{number:0200}" for number in range(100)] for _ in range(2)]
    crews = [crew_of(floor.joined(*names[0])), crew_of(floor.joined(*names[1], "one more"))]
    assert {id(type) for type in crews[0].types} <= {id(type) for type in crews[1].types}
