"""A master's jobs from submit to outcome, message for message, in memory: docs/protocol.md, sections 3 and 4."""

from __future__ import annotations

from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer
from tests.support.wire import (
    HELLO,
    OK,
    PING,
    answer,
    busy_slave_of,
    extended,
    fail,
    job,
    respond,
    served,
    slave_of,
    submit,
)

# Submitting, and outcomes

BODIES = [
    b"123456789012345678901234567890123456789012345678901234567890",
    b"-0",
    b"1.0",
    b"1e2",
    b"1E400",
    b"0.10000000000000000555",
    b'{"b":1,"a":2,"b":3}',
    b'{ "a" : [ 1 ,\t2\n] }',
    '"é \\u00e9 \\/ \\ud83d\\ude00 😀 \\u0000"'.encode(),
    b'"\x7f"',
    b"null",
    b"true",
    b'""',
    b"[]",
    b"[" + b"0," * 100_000 + b"0]",
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_arrive_byte_for_byte(body: bytes) -> None:
    """The slave gets the master's very bytes, and the master gets the slave's."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    master.send(b'{"action":"submit","id":1,"type":"t","body": %b }' % body)
    assert slave.frames[-1] == b'{"action":"job","id":1,"type":"t","body":' + body + b"}"
    slave.send(b'{"body":%b,"action":"respond"}' % body)
    assert master.frames[-1] == b'{"id":1,"body":' + body + b"}"


IDS = ["a", "ünïcödé", "😀" * 255, "\u0000", "a b\n", 0, -1, 2**64, -(2**200), int("9" * 4300)]


@pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
def test_ids_come_back_as_they_were(id: Any) -> None:
    """An id is the same string or integer in the job, in the outcome, and in the refusal of a second submit."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    assert master.ask(submit(id)) == [OK]
    assert slave.take()[-1] == job(id)
    assert master.ask(submit(id)) == [{"error": "id_exists", "reason": str(id)}]
    slave.send(respond())
    assert master.take() == [{"id": id, "body": 2}]


def test_an_id_is_its_value() -> None:
    """1 and "1" are two ids; two ways to write one string are one id."""
    master = MemoryGloom().master()
    assert master.ask(submit(1)) == master.ask(submit("1")) == [OK]
    assert master.ask(submit("é")) == [OK]
    (reply,) = master.ask(b'{"action":"submit","id":"\\u00e9","body":1}')
    assert reply == {"error": "id_exists", "reason": "é"}


def test_the_ok_comes_before_the_outcome() -> None:
    """However fast a slave is, a submit is accepted before its job is done."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    for n in range(20):
        master.sendString(b'{"action":"submit","id":%d,"type":"t","body":1}' % n)
        slave.sendString(b'{"action":"respond","body":2}')
        gloom.advance()
    messages = master.take()
    assert [message for message in messages if "ok" in message] == [OK] * 20
    for n, message in enumerate([message for message in messages if "ok" not in message]):
        assert message == answer(n)
        assert messages[: messages.index(message)].count(OK) > n


def test_an_id_is_free_after_its_outcome() -> None:
    """The moment a master has its outcome, the id can be used again, by anybody."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    for _ in range(3):
        assert master.ask(submit("again")) == [OK]
        slave.send(respond())
        assert master.take() == [{"id": "again", "body": 2}]
    assert gloom.master().ask(submit("again")) == [OK]


PRIORITIES = [0, -(2**63), 1, 2**63 - 1, -1, 0, 2**63 - 1, -(2**63)]


def test_priorities_then_arrival() -> None:
    """Larger priorities are served first, up to the ends of 64 bits; equals are served as they came."""
    gloom = MemoryGloom()
    master = gloom.master()
    for n, priority in enumerate(PRIORITIES):
        assert master.ask(submit(n, priority=priority)) == [OK]
    assert served(slave_of(gloom)) == sorted(range(8), key=lambda n: (-PRIORITIES[n], n))


def test_the_total_order_holds_between_typed_and_untyped_jobs() -> None:
    """A slave takes its own type and untyped jobs in one order, and leaves other types alone."""
    gloom = MemoryGloom()
    master = gloom.master()
    for n, (type, priority) in enumerate([("t", 0), (None, 0), ("other", 9), (None, 1), ("t", 1), (None, 2)]):
        assert master.ask(submit(n, type, priority=priority)) == [OK]
    assert served(slave_of(gloom)) == [5, 3, 4, 0, 1]
    assert served(slave_of(gloom, "other")) == [2]


def test_an_absent_type_is_null() -> None:
    """A job without a type is the same as one with null, and its slave is told so."""
    gloom = MemoryGloom()
    slave = slave_of(gloom, None)
    gloom.master().ask({"action": "submit", "id": 1, "body": 1})
    assert slave.take() == [job(1, None)]


# A master that goes


def test_the_queued_jobs_of_a_gone_master_are_dropped() -> None:
    """When a master disconnects, its queued jobs are dropped, and their ids are free."""
    gloom = MemoryGloom()
    master, other = gloom.master(), gloom.master()
    for n in range(3):
        master.ask(submit(n))
    other.ask(submit("other"))
    master.drop()
    assert other.ask(submit(0)) == [OK]
    assert served(slave_of(gloom)) == ["other", 0]


def test_a_running_job_of_a_gone_master_completes_unheard() -> None:
    """The slave gets its ok and its next job; till then the id is taken, then it is free."""
    gloom = MemoryGloom()
    master, other = gloom.master(), gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    other.ask(submit(2))
    master.drop()
    assert other.ask(submit(1)) == [{"error": "id_exists", "reason": "1"}]
    assert slave.ask(respond()) == [OK, job(2)]
    assert other.take() == []
    assert other.ask(submit(1)) == [OK]


def test_an_orphan_is_not_tried_again() -> None:
    """A job whose master and slave have both disconnected is dropped, and its id is free."""
    gloom = MemoryGloom()
    master, other = gloom.master(), gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    master.drop()
    slave.drop()
    assert served(slave_of(gloom)) == []
    assert other.ask(submit(1)) == [OK]


# Failures


def spend(gloom: MemoryGloom, id: Any, attempts: int) -> None:
    for _ in range(attempts):
        busy_slave_of(gloom, id).drop()


def test_a_base_master_gets_a_failure_of_three_keys() -> None:
    """After four attempts a job has failed: id, error and reason, and nothing else."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit("a"))
    spend(gloom, "a", 3)
    assert master.take() == []
    spend(gloom, "a", 1)
    reason = "the slave 127.0.0.1:50003 disappeared (4 attempts)"
    assert master.frames == [b'{"id":"a","error":"job_failed","reason":"%b"}' % reason.encode()]
    assert master.ask(submit("a"))[-1] == OK


@pytest.mark.parametrize("retries", [0, 1, 100])
def test_how_often_a_job_is_tried_is_a_setting(retries: int) -> None:
    """With --retries N a job is attempted N + 1 times."""
    gloom = MemoryGloom(Settings(retries=retries))
    master = gloom.master()
    master.ask(submit("a"))
    spend(gloom, "a", retries)
    assert master.take() == []
    spend(gloom, "a", 1)
    assert [message["error"] for message in master.take()] == ["job_failed"]
    assert served(slave_of(gloom)) == []


def test_an_extended_master_gets_every_attempt() -> None:
    """A failure names each slave that had the job, for how long, and how it ended."""
    gloom = MemoryGloom(Settings(retries=2))
    master = extended(gloom.master())
    master.ask(submit("a"))
    lost = busy_slave_of(gloom, "a")
    gloom.advance(1.5)
    lost.drop()
    failing = busy_slave_of(gloom, "a", name="farm-1")
    assert failing.ask(fail("once more", retry=True)) == [OK, job("a")]
    failing.send(fail("no use", kind="ValueError", traceback="line 1"))
    assert master.take() == [
        {
            "id": "a",
            "error": "job_failed",
            "reason": "no use",
            "kind": "ValueError",
            "traceback": "line 1",
            "attempts": [
                {"slave": "127.0.0.1:50000", "seconds": 1.5, "ended": "lost"},
                {"slave": "farm-1", "seconds": 0.0, "ended": "failed"},
                {"slave": "farm-1", "seconds": 0.0, "ended": "failed"},
            ],
        }
    ]


def test_a_hello_after_the_submit_counts_for_the_failure() -> None:
    """The form of a failure depends on the master's level when the job ends."""
    gloom = MemoryGloom(Settings(retries=0))
    master = gloom.master()
    master.ask(submit("a"))
    extended(master)
    spend(gloom, "a", 1)
    assert [set(message) for message in master.take()] == [{"id", "error", "reason", "attempts"}]


# Attaching


def attach(id: Any, **more: Any) -> dict[str, Any]:
    return submit(id, **more) | {"attach": True}


def test_attaching_to_a_running_job() -> None:
    """A second master of a job in hand gets the outcome too; the job runs once."""
    gloom = MemoryGloom()
    first, second = gloom.master(), extended(gloom.master())
    first.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    assert second.ask(attach(1, body="ignored", priority=5)) == [OK]
    assert slave.ask(respond()) == [OK]
    assert first.take() == second.take() == [answer(1)]


def test_a_queued_job_lives_while_one_master_does() -> None:
    """A job that another master has attached to stays queued when its first master goes."""
    gloom = MemoryGloom()
    first, second = gloom.master(), extended(gloom.master())
    first.ask(submit(1))
    assert second.ask(attach(1)) == [OK]
    first.drop()
    assert served(slave_of(gloom)) == [1]
    assert second.take() == [answer(1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_queued_job_is_dropped_with_its_last_master(order: tuple[int, int]) -> None:
    """When both of its masters have gone, in whichever order, nobody serves a job, and its id is free."""
    gloom = MemoryGloom()
    masters = [gloom.master(), extended(gloom.master())]
    masters[0].ask(submit(1))
    masters[1].ask(attach(1))
    for which in order:
        assert gloom.master().ask(submit(1))[0]["error"] == "id_exists"
        masters[which].drop()
    assert served(slave_of(gloom)) == []
    assert gloom.master().ask(submit(1)) == [OK]


def test_an_orphan_finds_a_master_again() -> None:
    """A master that comes back in time gets the answer of the job that it had left."""
    gloom = MemoryGloom()
    first = gloom.master()
    first.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    first.drop()
    again = extended(gloom.master())
    assert again.ask(attach(1)) == [OK]
    slave.drop()
    assert served(slave_of(gloom)) == [1]
    assert again.take() == [answer(1)]


def test_attaching_twice_gives_one_outcome() -> None:
    """The connection that submitted, and attaches again and again, gets one outcome."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    assert master.ask(attach(1)) == master.ask(attach(1)) == master.ask(attach(1)) == [OK]
    assert served(slave_of(gloom)) == [1]
    assert master.take() == [answer(1)]


def test_attached_masters_share_a_failure() -> None:
    """Each master of a failed job is told, in the form of its own level."""
    gloom = MemoryGloom(Settings(retries=0))
    first, second = gloom.master(), extended(gloom.master())
    first.ask(submit(1))
    second.ask(attach(1))
    spend(gloom, 1, 1)
    assert [set(message) for message in first.take()] == [{"id", "error", "reason"}]
    assert [set(message) for message in second.take()] == [{"id", "error", "reason", "attempts"}]


def test_attach_must_be_said_at_the_extended_level() -> None:
    """At the base level attach is an unknown key, and at the extended level it is false unless said."""
    master = MemoryGloom().master()
    master.ask(submit(1))
    exists = [{"error": "id_exists", "reason": "1"}]
    assert master.ask(attach(1)) == exists
    assert extended(master).ask(submit(1)) == master.ask(submit(1, attach=False)) == exists
    (reply,) = master.ask(submit(1, attach=1))
    assert reply == {"error": "invalid_type", "reason": "attach must be true or false, got 1"}


# Hello and heartbeats


def test_a_refused_hello_leaves_the_base_level() -> None:
    """After unsupported_version a master is where it was, and may try again."""
    master = MemoryGloom().master()
    assert master.ask(HELLO | {"version": 2})[0]["error"] == "unsupported_version"
    assert master.ask(PING)[0]["error"] == "invalid_state"
    assert extended(master).ask(PING) == [OK]


def test_a_silent_master_is_dropped() -> None:
    """A master that agreed on a heartbeat and is silent goes, and its queued jobs with it."""
    gloom = MemoryGloom()
    silent, alive = extended(gloom.master(), heartbeat=10), extended(gloom.master(), heartbeat=10)
    silent.ask(submit("silent"))
    alive.ask(submit("alive"))
    for _ in range(10):
        gloom.advance(5)
        assert alive.ask(PING) == [OK]
    assert silent.lost and silent.take() == []
    assert served(slave_of(gloom)) == ["alive"]


def test_a_master_without_a_heartbeat_may_be_silent() -> None:
    """Neither a base master nor one that agreed on no heartbeat is ever dropped for silence."""
    gloom = MemoryGloom()
    masters: list[RawPeer] = [gloom.master(), extended(gloom.master()), extended(gloom.master(), heartbeat=0)]
    gloom.advance(10_000_000)
    assert [master.lost for master in masters] == [False] * 3
    assert [master.take() for master in masters] == [[]] * 3


def test_a_heartbeat_is_an_hour_at_most() -> None:
    """The welcome grants the requested heartbeat, up to the broker's maximum of an hour."""
    gloom = MemoryGloom()
    (welcome,) = gloom.master().ask(HELLO | {"heartbeat": 0.25})
    assert welcome["heartbeat"] == 0.25
    master = gloom.master()
    (welcome,) = master.ask(HELLO | {"heartbeat": 1e9})
    assert welcome["heartbeat"] == 3600
    gloom.advance(3600)
    assert master.lost
