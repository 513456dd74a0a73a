"""Cancelling, message for message, in memory: docs/protocol.md, sections 4.5 and 4.9."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom
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
    respond,
    served,
    slave_of,
    submit,
)

CANCELLED = {"ok": True, "state": "cancelled"}
CANCELLING = {"ok": True, "state": "cancelling"}
REASON = "a master cancelled it"


def test_a_queued_job_is_cancelled_for_good() -> None:
    """The reply says that no slave had it; the outcome follows; nobody serves it, and its id is free."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    for id in ("a", "b"):
        master.ask(submit(id))
    assert master.ask(cancel("a")) == [CANCELLED, failure("a", "cancelled", REASON)]
    assert served(slave_of(gloom)) == ["b"]
    assert master.take() == [answer("b")]
    assert master.ask(submit("a")) == [OK]


def test_a_job_in_hand_is_cancelled_at_once() -> None:
    """The reply says that a slave is at it; the outcome follows at once, with the attempt; the slave is told."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a", name="s", accept=["cancel"])
    gloom.advance(1.5)
    assert master.ask(cancel("a")) == [CANCELLING, failure("a", "cancelled", REASON, ("s", 1.5, "cancelled"))]
    assert slave.take() == [cancel("a")]


@pytest.mark.parametrize("accept", [None, [], ["quiet", "progress"]])
def test_a_slave_that_does_not_accept_cancel_is_not_told(accept: list[str] | None) -> None:
    """It works on, its answer is accepted and thrown away, and then comes its next job."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a"))
    master.ask(submit("b"))
    slave = busy_slave_of(gloom, "a", **({} if accept is None else {"accept": accept}))
    master.ask(cancel("a"))
    gloom.advance(60)
    assert slave.take() == []
    assert slave.ask(respond("late")) == [OK, job("b")]
    assert master.take() == []


@pytest.mark.parametrize(
    "let_go", [respond(), respond(id="a"), fail(), fail(retry=True), fail(id="a", retry=True)], ids=str
)
def test_the_slot_is_taken_until_the_slave_lets_go(let_go: dict[str, Any]) -> None:
    """However the slave lets go of a cancelled job, it gets its ok and the next job; nothing is tried again."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a"))
    slave, waiting = busy_slave_of(gloom, "a", accept=["cancel"]), slave_of(gloom, "u")
    master.ask(cancel("a"))
    master.ask(submit("b"))
    assert slave.take() == [cancel("a")]
    assert slave.ask(let_go) == [OK, job("b")]
    assert master.take() == waiting.take() == []


def test_a_slave_that_goes_with_a_cancelled_job() -> None:
    """Nothing is left of it: the job is not tried again, and nobody is told once more."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a")
    master.ask(cancel("a"))
    slave.drop()
    assert served(slave_of(gloom)) == []
    assert master.take() == []


def test_the_same_id_after_a_cancel_is_another_job() -> None:
    """The id may be used again at once; the answer to the cancelled one does not answer it."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a", body="old"))
    slave = slave_of(gloom, accept=["cancel"])
    assert slave.take() == [job("a", body="old")]
    master.ask(cancel("a"))
    assert master.ask(submit("a", body="new")) == [OK]
    assert slave.take() == [cancel("a")]
    assert slave.ask(respond("of the old", id="a")) == [OK, job("a", body="new")]
    assert master.take() == []
    assert slave.ask(respond("of the new", id="a")) == [OK]
    assert master.take() == [answer("a", "of the new")]


def test_the_same_id_after_a_cancel_goes_to_another_slave() -> None:
    """A free slave takes it; a slave with a free slot that still has the old one in hand does not."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    holding = slave_of(gloom, slots=2)
    master.ask(submit("a", body="old"))
    master.ask(cancel("a"))
    master.ask(submit("a", body="new"))
    assert holding.take() == [job("a", body="old")]
    free = slave_of(gloom)
    assert free.take() == [job("a", body="new")]
    assert holding.ask(respond("old", id="a")) == [OK]
    assert free.ask(respond("new")) == [OK]
    assert master.take() == [answer("a", "new")]


def test_a_job_of_many_attempts_is_cancelled_while_it_waits_again() -> None:
    """The outcome tells of the attempts that there were, though none was cancelled."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    master.ask(submit("a"))
    busy_slave_of(gloom, "a").drop()
    lost = ("127.0.0.1:50000", 0.0, "lost")
    assert master.ask(cancel("a")) == [CANCELLED, failure("a", "cancelled", REASON, lost)]


def test_a_delayed_job_is_cancelled() -> None:
    """A job that is cancelled during its delay never begins."""
    gloom = MemoryGloom()
    master, slave = extended(gloom.master()), slave_of(gloom)
    master.ask(submit("a", delay=5))
    assert master.ask(cancel("a")) == [CANCELLED, failure("a", "cancelled", REASON)]
    gloom.advance(60)
    assert slave.take() == []


@pytest.mark.parametrize("terms", [{"timeout": 5}, {"expires": 5}, {"delay": 5}, {"delay": 2, "expires": 3}], ids=str)
@pytest.mark.parametrize("served_at_once", [True, False])
def test_no_timer_survives_a_cancel(terms: dict[str, Any], served_at_once: bool) -> None:
    """Timers of a cancelled job do not affect the next job of its id."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    slaves = [slave_of(gloom)] if served_at_once else []
    master.ask(submit("a", **terms))
    assert [message.get("error") for message in master.ask(cancel("a"))] == [None, "cancelled"]
    for slave in slaves:
        slave.drop()
    master.ask(submit("a"))
    gloom.advance(60)
    assert master.take() == []
    assert served(slave_of(gloom)) == ["a"]
    assert master.take() == [answer("a")]


def test_every_master_of_the_job_gets_the_outcome() -> None:
    """Attached masters hear it in the form of their level; only the one that cancelled has a reply."""
    gloom = MemoryGloom()
    base, attached, cancelling = gloom.master(), extended(gloom.master()), extended(gloom.master())
    base.ask(submit("a"))
    for master in (attached, cancelling):
        master.ask(submit("a", attach=True))
    assert cancelling.ask(cancel("a")) == [CANCELLED, failure("a", "cancelled", REASON)]
    assert attached.take() == [failure("a", "cancelled", REASON)]
    assert base.take() == [{"id": "a", "error": "cancelled", "reason": REASON}]


def test_an_orphan_can_be_cancelled_by_who_attaches() -> None:
    """A master that returns may cancel the jobs that it had left."""
    gloom = MemoryGloom()
    gone, back = gloom.master(), extended(gloom.master())
    gone.ask(submit("a"))
    slave = busy_slave_of(gloom, "a", accept=["cancel"])
    gone.drop()
    assert back.ask(cancel("a"))[0]["error"] == "unknown_job"
    back.ask(submit("a", attach=True))
    assert back.ask(cancel("a"))[0] == CANCELLING
    assert slave.take() == [cancel("a")]


def test_a_job_that_is_over_cannot_be_cancelled() -> None:
    """After its outcome a job is unknown: the truth is that it was answered, failed, expired or cancelled."""
    gloom = MemoryGloom(Settings(retries=0))
    master = extended(gloom.master())
    slave = slave_of(gloom, name="s")
    for id, end in (("answered", respond()), ("failed", fail())):
        master.ask(submit(id))
        slave.send(end)
    slave.drop()
    master.ask(submit("expired", expires=1))
    gloom.advance(1)
    master.ask(submit("cancelled"))
    master.ask(cancel("cancelled"))
    for id in ("answered", "failed", "expired", "cancelled", "never there"):
        assert master.ask(cancel(id))[-1] == {
            "error": "unknown_job",
            "reason": f"'{id}' is no job of this master in flight",
        }


def test_a_cancel_that_crosses_the_answer() -> None:
    """Whoever comes first wins: an answer that the broker has before the cancel is the outcome, and the only one."""
    for first in ("answer", "cancel"):
        gloom = MemoryGloom()
        master = extended(gloom.master())
        master.ask(submit("a"))
        slave = busy_slave_of(gloom, "a", accept=["cancel"])
        ends = [slave, master] if first == "answer" else [master, slave]
        for end in ends:
            end.transport.write(to_frame(json.dumps(respond() if end is slave else cancel("a")).encode()))
            end.transport.carry()
        gloom.advance()
        outcomes = [message for message in master.take() if "id" in message]
        if first == "answer":
            assert outcomes == [answer("a")]
            assert slave.take() == [OK]
        else:
            assert [outcome["error"] for outcome in outcomes] == ["cancelled"]
            assert slave.take() == [cancel("a"), OK]


def test_cancelling_many_of_a_long_queue() -> None:
    """Any of 1,000 waiting jobs can be cancelled, and the others keep their order."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    for n in range(1000):
        master.sendString(json.dumps(submit(n, priority=n % 3)).encode())
    for n in range(0, 1000, 2):
        master.sendString(json.dumps(cancel(n)).encode())
    gloom.advance()
    assert sum(message == CANCELLED for message in master.take()) == 500
    assert served(slave_of(gloom)) == sorted(range(1, 1000, 2), key=lambda n: (-(n % 3), n))
