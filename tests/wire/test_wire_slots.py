"""Slaves with several slots and several types, message for message, in memory: docs/protocol.md, 3.7, 4.6, 4.7."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.framereader import to_frame
from tests.support.wire import (
    LEAVE,
    OK,
    answer,
    cancel,
    extended,
    fail,
    job,
    join,
    join_types,
    respond,
    slave_of,
    submit,
)


def ids(messages: list[Any]) -> list[Any]:
    """Return the ids of the jobs among *messages*."""
    return [message["id"] for message in messages if message.get("action") == "job"]


def refusal(error: str, reason: str) -> list[dict[str, Any]]:
    return [{"error": error, "reason": reason}]


# Slots


def test_as_many_jobs_as_slots() -> None:
    """A slave gets a job for each slot, after its ok, in the strict order; one more for each that it answers."""
    gloom = MemoryGloom()
    master = gloom.master()
    for n, priority in enumerate((0, 5, 0, 5, 0)):
        master.ask(submit(n, priority=priority))
    slave = extended(gloom.slave())
    assert slave.ask(join(slots=3)) == [OK, job(1), job(3), job(0)]
    assert slave.ask(respond(id=3)) == [OK, job(2)]
    assert slave.ask(respond(id=1)) == [OK, job(4)]
    assert slave.ask(respond(id=0)) == [OK]
    assert master.take() == [answer(3), answer(1), answer(0)]


def test_answers_may_come_in_any_order() -> None:
    """Each answer goes to the job that it names, whichever was given first."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, slots=1000)
    for n in range(1000):
        master.sendString(json.dumps(submit(n)).encode())
    gloom.advance()
    assert ids(slave.take()) == list(range(1000))
    master.take()
    for n in reversed(range(1000)):
        slave.sendString(json.dumps(respond(n, id=n)).encode())
    gloom.advance()
    assert master.take() == [answer(n, n) for n in reversed(range(1000))]
    assert slave.take() == [OK] * 1000


@pytest.mark.parametrize("message", [respond(), respond(id=None), fail(), fail(retry=True)], ids=str)
def test_an_id_is_required_with_several_jobs_in_hand(message: dict[str, Any]) -> None:
    """Which job is meant must be said; nothing is let go of by guess."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, slots=3)
    master.ask(submit("a"))
    master.ask(submit("b"))
    slave.take()
    reason = "id is required when more than one job is in hand, 2 are"
    assert slave.ask(message) == refusal("missing_field", reason)
    assert slave.ask(respond("B", id="b")) == [OK]
    assert slave.ask(message) == [OK, *([job("a")] if message.get("retry") else [])]
    assert master.take()[0] == answer("b", "B")


def test_an_ended_attempt_counts_as_in_hand() -> None:
    """While a cancelled job has not been let go of, an answer to the other must say which it is."""
    gloom = MemoryGloom()
    master, slave = extended(gloom.master()), slave_of(gloom, slots=2)
    master.ask(submit("a"))
    master.ask(submit("b"))
    master.ask(cancel("a"))
    slave.take()
    reason = "id is required when more than one job is in hand, 2 are"
    assert slave.ask(respond("B")) == refusal("missing_field", reason)
    assert slave.ask(respond("A", id="a")) == [OK]
    assert slave.ask(respond("B")) == [OK]
    assert master.take()[-1] == answer("b", "B")


def test_an_answer_that_is_sent_twice_is_refused() -> None:
    """A named answer is never taken for another job's."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, slots=2)
    for id in ("a", "b", "c"):
        master.ask(submit(id))
    slave.take()
    slave.send_bytes(to_frame(json.dumps(respond("A", id="a")).encode()) * 2)
    assert slave.take() == [OK, job("c"), *refusal("invalid_state", "the job 'a' is not in hand")]
    assert master.take() == [answer("a", "A")]


def test_all_jobs_of_a_lost_slave_come_back() -> None:
    """Each of them is an attempt spent, and stands in its old place."""
    gloom = MemoryGloom(Settings(retries=1))
    master, slave = extended(gloom.master()), slave_of(gloom, slots=3)
    for n in range(4):
        master.ask(submit(n))
    slave.drop()
    again = slave_of(gloom, slots=4, name="again")
    assert ids(again.take()) == [0, 1, 2, 3]
    again.drop()
    outcomes = master.take()
    assert [outcome["id"] for outcome in outcomes] == [0, 1, 2]
    assert {outcome["reason"] for outcome in outcomes} == {"the slave again disappeared (2 attempts)"}
    assert ids(slave_of(gloom).take()) == [3]


def test_leaving_with_several_jobs_in_hand() -> None:
    """All of them are still answered, and no other comes; a join brings the next."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, slots=2)
    for n in range(3):
        master.ask(submit(n))
    assert slave.ask(LEAVE) == [job(0), job(1), OK]
    assert slave.ask(respond(id=1)) == [OK]
    assert slave.ask(respond(id=0)) == [OK]
    assert slave.ask(join()) == [OK, job(2)]


def test_other_slots_count_from_the_next_job_on() -> None:
    """More slots are filled at once; with fewer, jobs in hand stay, and none comes until there is room."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, slots=2)
    for n in range(6):
        master.ask(submit(n))
    slave.take()
    assert slave.ask(join(slots=3)) == [OK, job(2)]
    assert slave.ask(join(slots=1)) == [OK]
    assert slave.ask(respond(id=0)) == [OK]
    assert slave.ask(respond(id=1)) == [OK]
    assert slave.ask(respond()) == [OK, job(3)]


def test_at_the_base_level_slots_are_an_unknown_key() -> None:
    """A base slave has one job at a time, whatever it says."""
    gloom = MemoryGloom()
    slave, master = gloom.slave(), gloom.master()
    master.ask(submit(1))
    master.ask(submit(2))
    assert slave.ask(join(slots=5, types=["u"])) == [OK, job(1)]
    assert slave.ask(respond()) == [OK, job(2)]


# Which slave


def serve_round(slaves: list[RawPeer], master: RawPeer, *submitted: Any) -> list[int]:
    """Submit jobs one after the other, and return which slave got each."""
    got = []
    for id in submitted:
        master.ask(submit(id))
        got += [n for n, slave in enumerate(slaves) if ids(slave.take()) == [id]]
    return got


def test_jobs_go_round_among_slots() -> None:
    """A slave that was given a job waits behind the others for its next, so that work is spread."""
    gloom = MemoryGloom()
    master = gloom.master()
    slaves = [slave_of(gloom, slots=2), slave_of(gloom, slots=3), slave_of(gloom)]
    assert serve_round(slaves, master, *range(6)) == [0, 1, 2, 0, 1, 1]


def test_a_slave_with_room_keeps_its_place_when_it_answers() -> None:
    """Answering does not send a slave back that still had a free slot; one that had none waits from then on."""
    gloom = MemoryGloom()
    master = gloom.master()
    roomy, full = slave_of(gloom, slots=3), slave_of(gloom)
    assert serve_round([roomy, full], master, 1, 2) == [0, 1]
    full.ask(respond())
    roomy.ask(respond(id=1))
    assert serve_round([roomy, full], master, 3, 4, 5) == [0, 1, 0]


def test_a_slave_idle_in_all_slots_is_no_better() -> None:
    """The longest waiting slave is next, not the one with the most free slots."""
    gloom = MemoryGloom()
    master = gloom.master()
    first = slave_of(gloom, slots=2)
    assert serve_round([first], master, 1) == [0]
    second = slave_of(gloom, slots=9)
    assert serve_round([first, second], master, 2, 3) == [0, 1]


# Several types


def test_several_types_are_served_in_one_order() -> None:
    """A slave takes jobs of all its types and untyped ones by priority and age, and leaves others alone."""
    gloom = MemoryGloom()
    master = gloom.master()
    order = [("t", 0), ("u", 1), (None, 1), ("v", 9), ("t", 1), ("u", 0), ("u", 2)]
    for n, (type, priority) in enumerate(order):
        master.ask(submit(n, type, priority=priority))
    slave = extended(gloom.slave())
    got = ids(slave.ask(join_types("t", "u", slots=7)))
    assert got == [6, 1, 2, 4, 0, 5]


def test_a_type_that_is_named_twice_is_one_type() -> None:
    """Naming a type again changes nothing."""
    gloom = MemoryGloom()
    slave = extended(gloom.slave())
    slave.ask(join_types("t", "t", "u", "t"))
    gloom.master().ask(submit(1))
    assert slave.take() == [job(1)]
    slave.ask(LEAVE)
    assert slave.ask(respond()) == [OK]
    gloom.master().ask(submit(2))
    assert slave.take() == []


def test_a_slave_of_several_types_takes_turns() -> None:
    """Being given a job of one type sends it back in the lines of the others too."""
    gloom = MemoryGloom()
    master = gloom.master()
    both = extended(gloom.slave())
    both.ask(join_types("t", "u", slots=2))
    only = slave_of(gloom, "u")
    master.ask(submit(1, "t"))
    master.ask(submit(2, "u"))
    assert (ids(both.take()), ids(only.take())) == ([1], [2])


def test_joining_one_type_after_several() -> None:
    """The last join counts, all of it: the other types are left."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), extended(gloom.slave())
    slave.ask(join_types("t", "u", slots=3))
    assert slave.ask(join("v")) == [OK]
    for n, type in enumerate(("t", "u", "v", "v")):
        master.ask(submit(n, type))
    assert slave.take() == [job(2, "v")]
    master.ask(submit("required", "t", require_slave=True))
    assert extended(master).ask(submit("too", "t", require_slave=True))[0]["error"] == "no_slaves"


def test_a_thousand_types() -> None:
    """A slave may join the most types that there may be, and is idle in each of them."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), extended(gloom.slave())
    slave.ask(join_types(*map(str, range(1000)), slots=1000))
    for n in range(0, 1000, 37):
        master.ask(submit(n, str(n)))
        assert slave.take() == [job(n, str(n))]
