"""Slaves of many job types: all rules hold for them as for slaves of few."""

from __future__ import annotations

import pytest

from gloom.broker.values import JobKey
from tests.support.floor import ASlave, Floor
from tests.support.recording import OK, assigned

MANY = tuple(f"type {number}" for number in range(1000))


def answer_all(slave: ASlave) -> list[JobKey]:
    """Have *slave* answer its jobs until it has none; return the ids in order."""
    order: list[JobKey] = []
    while slave.hand:
        order += slave.hand
        slave.respond()
    return order


def test_all_jobs_of_many_types_share_one_order(floor: Floor) -> None:
    """The larger priority is first, then the older submission, over all types and the untyped jobs."""
    master = floor.master()
    for number in range(200):
        master.submit(number, None if number % 7 == 0 else f"type {number * 37 % 1000}", number * 13 % 5)
    expected = sorted(range(200), key=lambda number: (-(number * 13 % 5), number))
    assert answer_all(floor.joined(*MANY)) == expected


def test_jobs_that_come_while_a_slave_is_busy_share_one_order(floor: Floor) -> None:
    """A job that comes later goes before others of its type and of other types where its priority is larger."""
    slave, master = floor.joined(*MANY), floor.master().queue("first", type=MANY[0])
    for id, type, priority in ((1, 5, 0), (2, 6, 0), (3, 5, 1), (4, 5, 2), (5, 6, 2), (6, 7, 3), (7, 5, -1)):
        master.submit(id, MANY[type], priority)
    assert answer_all(slave) == ["first", 6, 4, 5, 3, 1, 2, 7]


def test_a_job_that_comes_back_has_its_place_among_many_types(floor: Floor) -> None:
    """The job of a lost slave goes before those of its type, and of others, that were submitted after it."""
    slave, lost = floor.joined(*MANY, name="slave"), floor.joined(MANY[1], name="lost")
    floor.master().queue(1, type=MANY[0]).queue(2, type=MANY[1]).queue(3, type=MANY[2]).queue(4, type=MANY[1])
    lost.lost()
    assert answer_all(slave) == [1, 2, 3, 4]


def test_jobs_of_many_types_are_shared_with_slaves_of_few(floor: Floor) -> None:
    """A slave of one type and a slave of many never get the same job, and its type does not block the others."""
    many, one = floor.joined(*MANY, name="many"), floor.joined(MANY[1], name="one")
    floor.master().queue(1, 2, 3, 4, 5, type=MANY[1]).queue(6, type=MANY[2])
    one.respond()
    one.respond()
    assert one.hand == [4]
    assert answer_all(many) == [1, 5, 6]


@pytest.mark.parametrize("type", [MANY[0], None])
def test_idleness_is_one_order_over_slaves_of_few_and_of_many_types(floor: Floor, type: str | None) -> None:
    """The slave that is idle longest gets the job, whether it joined one type, many, or the same many as another."""
    joins = ([MANY[0]], MANY, MANY[:20], [MANY[0]], MANY[::-1], MANY[:20], MANY)
    slaves = [floor.joined(*types, name=str(number)) for number, types in enumerate(joins)]
    master = floor.master()
    master.queue("first", type=type)
    slaves[0].respond()
    ids = list(range(1, 8))
    master.queue(*ids, type=type)
    assert [slave.take()[-1] for slave in slaves[1:] + slaves[:1]] == [assigned(id) for id in ids]


def test_jobs_go_round_among_slaves_of_many_types_with_free_slots(floor: Floor) -> None:
    """A slave of many types that was given a job waits behind the others for its next slot."""
    slaves = [floor.joined(*types, name=str(types)[:9], slots=2) for types in (MANY, ["type 0"], MANY, MANY[:30])]
    master = floor.master().queue(1, 2, 3, 4, 5, type="type 0")
    assert [slave.hand for slave in slaves] == [[1, 5], [2], [3], [4]]
    slaves[0].respond(id=1)
    master.queue(6, 7, 8, 9, type="type 0")
    assert [slave.hand for slave in slaves] == [[5, 9], [2, 6], [3, 7], [4, 8]]


def test_many_sets_of_types_may_share_a_type(floor: Floor) -> None:
    """The orders of jobs and of idleness hold when forty slaves with different sets of types share one type."""
    slaves = [floor.joined("shared", *(f"{number} {other}" for other in range(250))) for number in range(40)]
    master = floor.master().queue(*range(40), type="shared")
    assert [slave.hand for slave in slaves] == [[number] for number in range(40)]
    master.queue("low", type="shared", priority=-1).queue("high", type="30 249")
    assert answer_all(slaves[30]) == [30, "high", "low"]


def test_a_slave_may_join_many_types_without_untyped_jobs(floor: Floor) -> None:
    """Where access rules keep untyped jobs from a slave of many types, they wait for another."""
    slave = floor.slave("restricted")
    slave.join(*MANY, untyped=False)
    floor.master().queue("untyped", type=None).queue("typed", type=MANY[0])
    assert slave.take() == [OK, assigned("typed")]


def test_joining_many_types_again_begins_a_new_wait(floor: Floor) -> None:
    """An idle slave of many types that joins them again stands behind those that were waiting."""
    first, second = floor.joined(*MANY, name="a"), floor.joined(*MANY, name="b")
    first.join(*MANY)
    floor.master().queue("j", type=MANY[3])
    assert (first.take(), second.take()) == ([OK], [assigned("j")])


def test_slaves_of_the_same_many_types_come_and_go(floor: Floor) -> None:
    """Of slaves with the same types some leave, join others or are lost: the jobs go to those that are left."""
    slaves = [floor.joined(*MANY, name=name) for name in "abcd"]
    slaves[0].leave()
    slaves[1].join("echo")
    slaves[2].lost()
    floor.master().queue(1, type=MANY[0])
    assert [slave.hand for slave in slaves] == [[], [], [], [1]]
    slaves[3].lost()
    assert answer_all(floor.joined(*MANY[:100])) == [1]


def test_a_slave_of_many_types_counts_for_require_slave(floor: Floor) -> None:
    """A job that requires a slave is accepted while one of many types has joined its type."""
    floor.joined(*MANY)
    floor.master().queue("j", type=MANY[500], require_slave=True)


def test_ended_attempts_do_not_block_a_slave_of_many_types(floor: Floor) -> None:
    """A slave that holds an ended attempt of the first job takes the next one, and the first one later."""
    slave, master = floor.joined(*MANY, slots=2), floor.master()
    master.submit("a", MANY[0], timeout_seconds=1.0)
    floor.wait(1)
    master.submit("b", MANY[0])
    master.submit("c", MANY[1])
    assert slave.hand == ["a", "b"]
    slave.respond(id="b")
    slave.respond(id="c")
    slave.respond(id="a")  # late
    assert slave.hand == ["a"]
    other = floor.joined(*MANY[:50], name="other")
    slave.lost()
    assert other.hand == ["a"]


@pytest.mark.parametrize("types", [MANY, MANY[:1]])
def test_an_ended_attempt_passes_the_slave_that_holds_it(floor: Floor, types: tuple[str, ...]) -> None:
    """A job is not given to the slave that still holds its ended attempt, but to the next one that waits."""
    holder = floor.joined(*types, name="holder", slots=3)
    floor.master().submit("j", MANY[0], timeout_seconds=1.0)
    others = [floor.joined(*MANY, name=name) for name in "ab"]
    holder.join(*types, slots=3)
    for other in others:
        other.join(*MANY)
    floor.wait(1)
    assert others[0].hand == ["j"]


def test_a_slave_that_waits_for_more_keeps_its_turn(floor: Floor) -> None:
    """A slave with a free slot all the time is idle longer than one that came in between, also after an answer."""
    first = floor.joined(MANY[0], name="first", slots=2)
    master = floor.master().queue(1, type=MANY[0])
    second = floor.joined(*MANY, name="second")
    first.respond()
    master.queue(2, type=MANY[0])
    assert (first.hand, second.hand) == ([2], [])


def test_a_slave_of_many_types_gets_no_abandoned_job(floor: Floor) -> None:
    """Abandoned jobs that the broker has not forgotten yet are passed, in every type."""
    gone = floor.master()
    for number in range(2500):
        gone.submit(number, MANY[number % 1000])
    floor.master().queue("last", type=MANY[7])
    gone.lost()
    slave = floor.joined(*MANY)
    floor.wait(0.0)
    assert answer_all(slave) == ["last"]
    floor.wait(1)
    floor.everybody_goes()


def test_many_types_may_be_joined_again_at_once(floor: Floor) -> None:
    """A slave that joins nearly the same types right after another was lost gets their jobs, and answers them."""
    floor.joined(*MANY).lost()
    slave = floor.joined(*MANY[:900])
    floor.master().queue(*range(3), type=MANY[5])
    floor.wait(0.0)
    for _ in range(3):
        slave.respond()
    assert slave.take()[-1] == OK
