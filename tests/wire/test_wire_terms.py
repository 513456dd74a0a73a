"""The terms of a submit, message for message, in memory and to the moment: docs/protocol.md, section 4."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.framereader import to_frame
from tests.support.wire import (
    OK,
    answer,
    busy_slave_of,
    cancel,
    extended,
    fail,
    failure,
    job,
    join,
    respond,
    served,
    slave_of,
    submit,
)

#: Short, and exact in binary.
TICK = 1 / 64

BASE_0 = "127.0.0.1:50000"
BASE_1 = "127.0.0.1:50001"


def master_of(gloom: MemoryGloom, *accept: str) -> RawPeer:
    return extended(gloom.master(), accept=accept)


# timeout


def test_a_late_answer_is_accepted_and_thrown_away() -> None:
    """A slave that answers after its timeout gets its ok; the answer of the job's present slave counts."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    late, other = slave_of(gloom), slave_of(gloom)
    assert master.ask(submit("a", timeout=5)) == [OK]
    gloom.advance(5 - TICK)
    assert (late.take(), other.take()) == ([job("a")], [])
    gloom.advance(TICK)
    assert (late.take(), other.take()) == ([], [job("a")])
    assert late.ask(respond("late")) == [OK]
    assert master.take() == []
    assert other.ask(respond("in time")) == [OK]
    assert master.take() == [answer("a", "in time")]
    gloom.advance(1000)
    assert master.take() == []


def test_a_late_answer_after_the_outcome_is_thrown_away() -> None:
    """Also when the other slave has answered already, and the id is in use again by then."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    late, other = slave_of(gloom), slave_of(gloom)
    master.ask(submit("a", timeout=5))
    gloom.advance(5)
    other.ask(respond("in time"))
    assert master.ask(submit("a", body="again")) == [answer("a", "in time"), OK]
    assert late.ask(respond("late")) == [job("a"), OK]
    assert other.take() == [job("a", body="again")]
    assert master.take() == []
    assert other.ask(respond("again")) == [OK]
    assert master.take() == [answer("a", "again")]


def test_the_same_slave_may_get_its_job_again() -> None:
    """A slave that lets go of a job that timed out is given it anew, and its second answer counts."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    slave = slave_of(gloom)
    master.ask(submit("a", timeout=5))
    gloom.advance(5)
    assert slave.ask(respond("late")) == [job("a"), OK, job("a")]
    gloom.advance(5 - TICK)
    assert slave.ask(respond("in time")) == [OK]
    assert master.take() == [answer("a", "in time")]


def test_a_slave_with_slots_gets_no_second_attempt_beside_the_first() -> None:
    """A free slot does not help: a slave has a job once, and its answer is that of the attempt it was given."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    slave = slave_of(gloom, slots=2, accept=["cancel"])
    master.ask(submit("a", timeout=5))
    gloom.advance(5)
    master.ask(submit("b"))
    assert slave.take() == [job("a"), cancel("a"), job("b")]
    assert slave.ask(respond("late", id="a")) == [OK, job("a")]
    assert slave.ask(respond("in time", id="a")) == [OK]
    assert master.take() == [answer("a", "in time")]


def test_only_a_slave_that_accepts_it_is_told() -> None:
    """Neither a base slave nor an extended one that did not ask for cancel hears of a timeout."""
    gloom = MemoryGloom(Settings(retries=2))
    master = master_of(gloom)
    slaves = [slave_of(gloom), slave_of(gloom, accept=["quiet"]), slave_of(gloom, accept=["cancel"])]
    master.ask(submit("a", timeout=5))
    for _ in slaves:
        gloom.advance(5)
    assert [slave.take() for slave in slaves] == [[job("a")], [job("a")], [job("a"), cancel("a")]]
    reason = "the attempt on 127.0.0.1:50002 ran longer than 5 s (3 attempts)"
    attempts = [(f"127.0.0.1:5000{n}", 5.0, "timeout") for n in range(3)]
    assert master.take() == [failure("a", "timeout", reason, *attempts)]


def test_a_slave_that_is_not_told_keeps_its_slot() -> None:
    """A base slave whose attempt was ended gets its next job only after its answer."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    slave = slave_of(gloom)
    master.ask(submit("a", timeout=5, retries=0))
    gloom.advance(60)
    assert [message["error"] for message in master.take()] == ["timeout"]
    master.ask(submit("b"))
    assert slave.take() == [job("a")]
    assert slave.ask(respond("late")) == [OK, job("b")]
    assert master.take() == []


def test_a_fail_of_an_ended_attempt_costs_nothing() -> None:
    """fail after the timeout, with retry or without, is accepted and changes nothing for the job."""
    for retry in (False, True):
        gloom = MemoryGloom(Settings(retries=1))
        master = master_of(gloom)
        slave, other = slave_of(gloom, name="s"), slave_of(gloom)
        master.ask(submit("a", timeout=5))
        gloom.advance(5)
        assert slave.ask(fail(retry=retry)) == [job("a"), OK]
        assert master.take() == []
        assert other.ask(respond()) == [job("a"), OK]
        assert master.take() == [answer("a")]


def test_a_slave_that_goes_after_its_timeout_costs_nothing() -> None:
    """A slave that disappears with an attempt that has been ended spends no second one."""
    gloom = MemoryGloom(Settings(retries=1))
    master = master_of(gloom)
    first = slave_of(gloom)
    master.ask(submit("a", timeout=5))
    gloom.advance(5)
    first.drop()
    second = busy_slave_of(gloom, "a")
    second.drop()
    reason = f"the slave {BASE_1} disappeared (2 attempts)"
    assert master.take() == [failure("a", "job_failed", reason, (BASE_0, 5.0, "timeout"), (BASE_1, 0.0, "lost"))]


def test_the_timer_of_one_attempt_does_not_end_the_next() -> None:
    """A second attempt has its whole time, however short the first one was of its own."""
    gloom = MemoryGloom(Settings(retries=1))
    master = master_of(gloom)
    master.ask(submit("a", timeout=5))
    first = busy_slave_of(gloom, "a")
    gloom.advance(4)
    first.drop()
    busy_slave_of(gloom, "a")
    gloom.advance(5 - TICK)
    assert master.take() == []
    gloom.advance(TICK)
    assert [message["error"] for message in master.take()] == ["timeout"]


def test_the_timer_of_one_attempt_does_not_end_the_waiting() -> None:
    """A job that waits again after an attempt waits on when that attempt's time would have been over."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    master.ask(submit("a", timeout=5))
    busy_slave_of(gloom, "a").drop()
    gloom.advance(100)
    assert master.take() == []
    assert served(slave_of(gloom)) == ["a"]
    assert master.take() == [answer("a")]


def test_the_timeout_of_an_answered_job_does_not_end_the_next_of_its_id() -> None:
    """An id that is used again after an answer has its own time."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    slave = slave_of(gloom)
    master.ask(submit("a", timeout=5))
    gloom.advance(4)
    slave.ask(respond())
    master.ask(submit("a", timeout=5, retries=0))
    master.take()
    gloom.advance(5 - TICK)
    assert master.take() == []
    gloom.advance(TICK)
    assert [message["error"] for message in master.take()] == ["timeout"]


def test_the_time_in_the_queue_is_not_the_attempts() -> None:
    """timeout counts from when a slave is given the job."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    master.ask(submit("a", timeout=5))
    gloom.advance(100)
    slave = busy_slave_of(gloom, "a")
    gloom.advance(5 - TICK)
    assert slave.ask(respond()) == [OK]
    assert master.take() == [answer("a")]


def test_an_orphans_timeout_frees_its_id() -> None:
    """A job in hand that nobody waits for ends with its timeout; the slave hears of it, and nobody else."""
    gloom = MemoryGloom()
    master, other = master_of(gloom), gloom.master()
    master.ask(submit("a", timeout=5))
    slave = busy_slave_of(gloom, "a", accept=["cancel"])
    master.drop()
    gloom.advance(5 - TICK)
    assert other.ask(submit("a"))[0]["error"] == "id_exists"
    gloom.advance(TICK)
    assert slave.take() == [cancel("a")]
    assert other.ask(submit("a")) == [OK]
    assert slave.ask(respond("late")) == [OK, job("a")]
    assert other.take() == []


def test_the_first_moment_counts_in_whatever_order_they_come() -> None:
    """Of many jobs with many times each ends at its own, also one that is submitted after a longer one."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    for seconds in (10, 3, 7, 1, 60):
        master.ask(submit(seconds, expires=seconds))
    expired = []
    for _ in range(60):
        gloom.advance(1)
        expired += [(gloom.clock.seconds(), message["id"]) for message in master.take()]
    assert expired == [(1, 1), (3, 3), (7, 7), (10, 10), (60, 60)]


def test_attaching_does_not_change_the_terms() -> None:
    """The timeout, the retries and the delay of a job are those of its first master."""
    gloom = MemoryGloom()
    first, second = master_of(gloom), master_of(gloom)
    first.ask(submit("a", timeout=5, retries=0))
    assert second.ask(submit("a", attach=True, timeout=50, retries=7, delay=9, expires=1)) == [OK]
    busy_slave_of(gloom, "a")
    gloom.advance(5)
    assert [message["error"] for message in first.take()] == ["timeout"]
    assert [message["error"] for message in second.take()] == ["timeout"]


# expires and delay


def test_a_job_expires_to_the_moment() -> None:
    """A job that waited its whole time has the outcome expired, no slave gets it, and its id is free."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    master.ask(submit("a", expires=2.5))
    gloom.advance(2.5 - TICK)
    assert master.take() == []
    gloom.advance(TICK)
    assert master.take() == [failure("a", "expired", "no slave took it within 2.5 s")]
    assert served(slave_of(gloom)) == []
    assert master.ask(submit("a")) == [OK]


def test_a_job_that_was_taken_in_time_does_not_expire() -> None:
    """The expiry of a job ends when a slave takes it."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    master.ask(submit("a", expires=2))
    slave = busy_slave_of(gloom, "a")
    gloom.advance(100)
    assert slave.ask(respond()) == [OK]
    assert master.take() == [answer("a")]


def test_a_retried_job_expires_when_its_time_is_over() -> None:
    """A job that comes back expires at the same moment as without the attempt, or at once if that has passed."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    master.ask(submit("a", expires=10))
    master.ask(submit("b", expires=10))
    first = busy_slave_of(gloom, "a")
    gloom.advance(6)
    first.drop()
    second = busy_slave_of(gloom, "a")
    master.take()
    gloom.advance(4 - TICK)
    second.drop()
    assert master.take() == []
    third = busy_slave_of(gloom, "a")
    gloom.advance(TICK)
    assert [(message["id"], message["error"]) for message in master.take()] == [("b", "expired")]
    third.drop()
    attempts = [(BASE_0, 6.0, "lost"), (BASE_1, 3.984375, "lost"), ("127.0.0.1:50002", 0.015625, "lost")]
    assert master.take() == [failure("a", "expired", "no slave took it within 10 s", *attempts)]


def test_expires_0_waits_for_nobody() -> None:
    """A job that may not wait goes to a free slave, or expires after its ok."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    assert master.ask(submit("a", expires=0)) == [OK, failure("a", "expired", "no slave took it within 0 s")]
    slave = slave_of(gloom)
    assert master.ask(submit("b", expires=0)) == [OK]
    assert slave.ask(respond()) == [job("b"), OK]
    assert master.take() == [answer("b")]


def test_a_delayed_job_begins_to_the_moment() -> None:
    """A job is given to a slave when its delay is over, not before, in the place of its submission."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    busy, free = slave_of(gloom), slave_of(gloom)
    master.ask(submit("first"))
    master.ask(submit("a", delay=3))
    master.ask(submit("b", delay=3))
    gloom.advance(3 - TICK)
    assert (busy.take(), free.take()) == ([job("first")], [])
    gloom.advance(TICK)
    assert free.take() == [job("a")]
    master.ask(submit("c"))
    assert busy.ask(respond()) == [OK, job("b")]


def test_a_delayed_job_whose_master_goes_never_begins() -> None:
    """A lost master's delayed job is dropped, and its id is free for a job with its own delay."""
    gloom = MemoryGloom()
    gone, master, slave = master_of(gloom), master_of(gloom), slave_of(gloom)
    gone.ask(submit("a", delay=3))
    gone.drop()
    assert master.ask(submit("a", delay=5, body="mine")) == [OK]
    gloom.advance(5 - TICK)
    assert slave.take() == []
    gloom.advance(TICK)
    assert slave.take() == [job("a", body="mine")]


def test_a_delayed_job_can_be_attached_to() -> None:
    """A delayed job is in flight: its id is taken, and it lives while one of its masters does."""
    gloom = MemoryGloom()
    first, second, slave = master_of(gloom), master_of(gloom), slave_of(gloom)
    first.ask(submit("a", delay=3))
    assert second.ask(submit("a"))[0]["error"] == "id_exists"
    assert second.ask(submit("a", attach=True)) == [OK]
    first.drop()
    gloom.advance(3)
    assert slave.ask(respond()) == [job("a"), OK]
    assert second.take() == [answer("a")]


def test_numbers_of_seconds_may_be_whole_or_null() -> None:
    """Integers, fractions and null are all understood; null and 0 ask for nothing."""
    gloom = MemoryGloom()
    master, slave = master_of(gloom), slave_of(gloom)
    for n, seconds in enumerate((None, 0, 0.0)):
        assert master.ask(submit(n, delay=seconds, timeout=None, expires=None, retries=None)) == [OK]
        assert slave.ask(respond()) == [job(n), OK]
        assert master.take() == [answer(n)]


# retries and require_slave


@pytest.mark.parametrize("retries", [0, 1, 100])
def test_a_job_may_bring_its_own_retries(retries: int) -> None:
    """retries of the submit counts, however many the broker's own are."""
    gloom = MemoryGloom(Settings(retries=2))
    master = master_of(gloom)
    master.ask(submit("a", retries=retries))
    for _ in range(retries + 1):
        assert master.take() == []
        busy_slave_of(gloom, "a").drop()
    (outcome,) = master.take()
    assert len(outcome["attempts"]) == retries + 1


def test_require_slave_sees_slaves_that_come_go_and_work() -> None:
    """no_slaves says that nobody has joined the type now; a slave at work counts, one that left does not."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    wanted = [{"error": "no_slaves", "reason": "no slave has joined the type 't'"}]
    slave = slave_of(gloom, "other", name="s")
    assert master.ask(submit(1, require_slave=True)) == wanted
    slave.ask(join())
    assert master.ask(submit(1, require_slave=True)) == [OK]
    assert master.ask(submit(2, require_slave=True)) == [OK]
    slave.ask({"action": "leave"})
    assert master.ask(submit(3, require_slave=True)) == wanted
    slave.ask(join())
    slave.drop()
    assert master.ask(submit(3, require_slave=True)) == wanted


# submit_many


def many(*jobs: Any) -> dict[str, Any]:
    return {"action": "submit_many", "jobs": jobs}


def one(id: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "t", "body": 1, **more}


def test_many_jobs_have_one_reply() -> None:
    """Each job of the list is said to be ok, in order, before any outcome; a slave that waits has begun."""
    gloom = MemoryGloom()
    master, slave = master_of(gloom), slave_of(gloom)
    master.sendString(json.dumps(many(one(1), one(2, priority=1), one(3, delay=1))).encode())
    slave.sendString(b'{"action":"respond","body":2}')
    gloom.advance()
    assert master.take() == [{"ok": True, "jobs": [OK] * 3}, answer(1)]
    gloom.advance(1)
    assert slave.take() == [job(1), OK, job(2)]
    slave.send(respond())
    slave.send(respond())
    assert master.take() == [answer(2), answer(3)]


BAD_JOBS: list[tuple[Any, str]] = [
    ({"type": "t", "body": 1}, "missing_field"),
    ({"id": 2, "type": "t"}, "missing_field"),
    (one(2, priority="high"), "invalid_type"),
    (one(2, timeout=0), "invalid_type"),
    (one(2, action="join"), "invalid_type"),
    (one(1), "id_exists"),
    (one(2, type="u", require_slave=True), "no_slaves"),
    (5, "invalid_type"),
    (None, "invalid_type"),
    ([], "invalid_type"),
    ("job", "invalid_type"),
]


@pytest.mark.parametrize(("bad", "code"), BAD_JOBS, ids=range(len(BAD_JOBS)))
def test_one_bad_job_does_not_spoil_the_others(bad: Any, code: str) -> None:
    """A job that is refused is told in its place, and those before and after it are queued."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    (reply,) = master.ask(many(one(1), bad, one(3)))
    first, refusal, third = reply["jobs"]
    assert (first, third) == (OK, OK)
    assert set(refusal) == {"error", "reason"} and refusal["error"] == code
    assert served(slave_of(gloom)) == [1, 3]


def test_a_job_of_many_has_the_words_of_a_submit() -> None:
    """An invalid job in a batch has the error text of a submit; a value that is no job is quoted."""
    master = master_of(MemoryGloom())
    (reply,) = master.ask(many({"id": 1}, "x" * 1000))
    assert [refusal["reason"] for refusal in reply["jobs"]] == [
        "body is required by submit: any JSON value",
        'jobs must be a list of objects, one is "' + "x" * 99 + "...",
    ]


def test_many_may_be_none_or_ten_thousand() -> None:
    """An empty list has an empty reply, and 10,000 jobs are taken in one frame, in order, with action or without."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    assert master.ask(many()) == [{"ok": True, "jobs": []}]
    (reply,) = master.ask(many(*(one(n) if n % 2 else submit(n) for n in range(10_000))))
    assert reply["jobs"] == [OK] * 10_000
    assert served(slave_of(gloom, slots=1)) == list(range(10_000))


def test_the_bodies_of_many_arrive_byte_for_byte() -> None:
    """A body in a list is handed on as it was sent, like any other."""
    gloom = MemoryGloom()
    master, slave = master_of(gloom), slave_of(gloom)
    master.send(b'{"action":"submit_many","jobs":[{"id":1,"type":"t","body": {"b": 1.0,"a":[1e2, 3]} }]}')
    assert slave.frames == [b'{"action":"job","id":1,"type":"t","body":{"b": 1.0,"a":[1e2, 3]}}']


def test_a_require_type_broker_wants_types_of_many_too() -> None:
    """With --require-type an untyped job in a list is refused, and the others are not."""
    gloom = MemoryGloom(Settings(require_type=True))
    (reply,) = master_of(gloom).ask(many(one(1), {"id": 2, "body": 1}))
    assert [refusal.get("error", "ok") for refusal in reply["jobs"]] == ["ok", "missing_field"]


def test_replies_keep_their_order_around_many() -> None:
    """A list between other requests is answered between theirs."""
    gloom = MemoryGloom()
    master = master_of(gloom)
    requests = [submit(1), many(one(2), one(1)), {"action": "ping"}, submit(2), cancel(1)]
    master.send_bytes(b"".join(to_frame(json.dumps(request).encode()) for request in requests))
    replies = [message for message in master.take() if "id" not in message]
    kinds = [reply.get("error") or reply.get("state") or len(reply.get("jobs", [])) for reply in replies]
    assert kinds == [0, 2, 0, "id_exists", "cancelled"]


# progress


def test_progress_comes_in_order_before_the_outcome() -> None:
    """A master that accepts it gets each progress as it was sent, then the outcome; the slave gets no reply."""
    gloom = MemoryGloom()
    master = master_of(gloom, "progress")
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a", name="s")
    for n in range(3):
        slave.send(b'{"action":"progress","body": {"done": %d.0} }' % n)
    assert slave.ask(respond()) == [OK]
    assert master.frames == [b'{"id":"a","progress":{"done": %d.0}}' % n for n in range(3)] + [b'{"id":"a","body":2}']


def test_only_masters_that_accept_progress_get_it() -> None:
    """A base master and one that did not ask for it hear nothing but the outcome."""
    gloom = MemoryGloom()
    base, silent, asking = gloom.master(), master_of(gloom, "receipts"), master_of(gloom, "progress")
    base.ask(submit("a"))
    for master in (silent, asking):
        master.ask(submit("a", attach=True))
    slave = busy_slave_of(gloom, "a", name="s")
    slave.send({"action": "progress", "body": 0.5})
    slave.send(respond())
    assert base.take() == silent.take() == [answer("a")]
    assert asking.take() == [{"id": "a", "progress": 0.5}, answer("a")]


def test_progress_of_an_ended_attempt_is_not_told() -> None:
    """Progress after the timeout is dropped, since the job belongs to another slave."""
    gloom = MemoryGloom()
    master = master_of(gloom, "progress")
    master.ask(submit("a", timeout=5))
    late = busy_slave_of(gloom, "a", name="late")
    gloom.advance(5)
    other = busy_slave_of(gloom, "a", name="other")
    late.send({"action": "progress", "body": "late"})
    late.send({"action": "progress", "body": "late", "id": "a"})
    other.send({"action": "progress", "body": "other"})
    assert master.take() == [{"id": "a", "progress": "other"}]
    assert late.take() == other.take() == []


@pytest.mark.parametrize("message", [{}, {"id": "b"}, {"id": 7}], ids=str)
@pytest.mark.parametrize("works", [False, True])
def test_progress_of_what_is_not_in_hand_is_ignored(message: dict[str, Any], works: bool) -> None:
    """A slave with no job, or that names another's, is not answered, and nobody is told."""
    gloom = MemoryGloom()
    master = master_of(gloom, "progress")
    slave = slave_of(gloom, name="s")
    if works:
        master.ask(submit("a"))
    master.ask(submit("b", "u"))
    slave_of(gloom, "u")
    slave.take()
    assert slave.ask({"action": "progress", "body": 1} | message) == []
    assert master.take() == ([{"id": "a", "progress": 1}] if works and not message else [])


# receipts and attempts


def test_a_receipt_tells_of_waiting_and_running() -> None:
    """A receipt gives the job's waiting time, running time, slave and attempts."""
    gloom = MemoryGloom()
    master = master_of(gloom, "receipt")
    master.ask(submit("a"))
    gloom.advance(1.5)
    busy_slave_of(gloom, "a").drop()
    gloom.advance(1)
    slave = busy_slave_of(gloom, "a", name="farm-1")
    gloom.advance(0.125)
    slave.send(respond())
    receipt = {"queued": 2.5, "ran": 0.125, "attempts": 2, "slave": "farm-1"}
    assert master.take() == [answer("a") | {"receipt": receipt}]


def test_only_masters_that_accept_receipts_get_them() -> None:
    """The other masters of the same job get its answer in the form of the base level."""
    gloom = MemoryGloom()
    base, silent, asking = gloom.master(), master_of(gloom), master_of(gloom, "receipt")
    base.ask(submit("a"))
    for master in (silent, asking):
        master.ask(submit("a", attach=True))
    busy_slave_of(gloom, "a").send(respond())
    assert base.take() == silent.take() == [answer("a")]
    assert set(asking.take()[0]) == {"id", "body", "receipt"}


def test_a_failure_has_no_receipt() -> None:
    """A failure lists its attempts, and has no receipt."""
    gloom = MemoryGloom()
    master = master_of(gloom, "receipt")
    master.ask(submit("a"))
    busy_slave_of(gloom, "a", name="s").send(fail("no"))
    assert master.take() == [failure("a", "job_failed", "no", ("s", 0.0, "failed"))]
