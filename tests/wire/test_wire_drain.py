"""A broker that is stopped, message for message, in memory: docs/protocol.md, sections 3.10, 4.9 and 4.10."""

from __future__ import annotations

from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom
from tests.support.wire import (
    LEAVE,
    OK,
    PING,
    answer,
    busy_slave_of,
    cancel,
    extended,
    fail,
    failure,
    job,
    join,
    respond,
    slave_of,
    stop,
    submit,
)

QUIET = {"action": "quiet"}
DRAINING = {"error": "draining", "reason": "the broker is shutting down"}
ABANDONED = "the broker shut down before the job was done"


def draining(id: Any) -> dict[str, Any]:
    """Return a base master's message for a job that the shutdown has ended."""
    return {"id": id, **DRAINING}


@pytest.fixture
def gloom() -> MemoryGloom:
    return MemoryGloom(Settings(drain_seconds=30, retries=1))


def test_what_waits_is_told_at_once(gloom: MemoryGloom) -> None:
    """Queued and delayed jobs have the outcome draining when the stop begins, in the form of each master's level."""
    master, base = extended(gloom.master()), gloom.master()
    base.ask(submit("in hand"))
    busy_slave_of(gloom, "in hand")
    base.ask(submit("queued"))
    master.ask(submit("queued", attach=True))
    master.ask(submit("delayed", delay=9))
    stop(gloom)
    assert base.take() == [draining("queued")]
    reason = DRAINING["reason"]
    assert master.take() == [failure("queued", "draining", reason), failure("delayed", "draining", reason)]


def test_what_is_in_hand_may_finish(gloom: MemoryGloom) -> None:
    """The answer of a job in hand is told as ever; when the last one is out, all connections end."""
    master = gloom.master()
    slaves = []
    for id in ("a", "b"):
        master.ask(submit(id))
        slaves.append(busy_slave_of(gloom, id))
    stop(gloom)
    gloom.advance(20)
    assert slaves[0].ask(respond()) == [OK]
    assert master.take() == [answer("a")]
    assert not master.lost
    assert slaves[1].ask(respond()) == [OK]
    assert master.take() == [answer("b")]
    assert master.lost and slaves[0].lost and slaves[1].lost


def test_with_nothing_in_hand_it_ends_at_once(gloom: MemoryGloom) -> None:
    """An idle broker closes its connections as soon as it is stopped; nothing is left running."""
    master, slave = gloom.master(), slave_of(gloom)
    stop(gloom)
    assert master.lost and slave.lost
    assert master.take() == slave.take() == []
    gloom.advance(60)
    assert gloom.clock.getDelayedCalls() == []


def test_new_jobs_are_refused(gloom: MemoryGloom) -> None:
    """submit is answered draining, at both levels and in a list; an id in hand is still told as such."""
    base, master = gloom.master(), extended(gloom.master())
    base.ask(submit("a"))
    busy_slave_of(gloom, "a")
    stop(gloom)
    assert base.ask(submit("b")) == [DRAINING]
    assert master.ask({"action": "submit_many", "jobs": [submit("b")]}) == [{"ok": True, "jobs": [DRAINING]}]
    assert base.ask(submit("a")) == [{"error": "id_exists", "reason": "a"}]
    assert master.ask(PING) == [OK]


def test_a_job_in_hand_can_be_attached_to_and_cancelled(gloom: MemoryGloom) -> None:
    """A master that comes to a job in hand gets its outcome, or ends it, which may be the end of all."""
    first, second = gloom.master(), extended(gloom.master())
    first.ask(submit("a"))
    slave = busy_slave_of(gloom, "a", accept=["cancel"])
    stop(gloom)
    assert second.ask(submit("a", attach=True)) == [OK]
    assert second.ask(cancel("a"))[0] == {"ok": True, "state": "cancelling"}
    assert [message["error"] for message in first.take()] == ["cancelled"]
    assert slave.take() == [cancel("a")]
    assert first.lost and second.lost and slave.lost


def test_quiet_is_told_to_those_that_accept_it(gloom: MemoryGloom) -> None:
    """Before anything else each peer that asked for it is told quiet, once; no other peer is."""
    told = [extended(peer, accept=["quiet", "cancel"]) for peer in (gloom.master(), gloom.slave())]
    others = [gloom.master(), gloom.slave(), extended(gloom.master()), extended(gloom.slave(), accept=["cancel"])]
    told[0].ask(submit("queued"))
    stop(gloom)
    assert [message.get("action") or message["error"] for message in told[0].take()] == ["quiet", "draining"]
    assert told[1].take() == [QUIET]
    assert [peer.take() for peer in others] == [[]] * 4


def test_slaves_get_no_more_jobs(gloom: MemoryGloom) -> None:
    """Slaves may answer, join and leave as ever, and nothing comes any more."""
    master = gloom.master()
    master.ask(submit("a"))
    master.ask(submit("b", "u"))
    slave, holding = busy_slave_of(gloom, "a", name="s"), slave_of(gloom, "u")
    master.ask(submit("c"))
    stop(gloom)
    assert slave.ask(respond()) == [OK]
    assert slave.ask(LEAVE) == slave.ask(join()) == [OK]
    assert master.take() == [draining("c"), answer("a")]
    holding.drop()
    assert master.take() == [draining("b")]


@pytest.mark.parametrize("end", ["lost", "retry", "timeout"])
def test_no_attempt_follows_another(gloom: MemoryGloom, end: str) -> None:
    """A running job whose attempt ends without an outcome is not retried, even if a slave waits."""
    master = extended(gloom.master())
    master.ask(submit("a", timeout=10))
    slave, waiting = busy_slave_of(gloom, "a", name="s"), slave_of(gloom)
    stop(gloom)
    if end == "lost":
        slave.drop()
    elif end == "retry":
        slave.send(fail(retry=True))
    else:
        gloom.advance(10)
    ended = "failed" if end == "retry" else end
    seconds = 10.0 if end == "timeout" else 0.0
    assert master.take() == [failure("a", "draining", DRAINING["reason"], ("s", seconds, ended))]
    assert waiting.take() == []
    assert master.lost


def test_spent_attempts_are_told_as_such(gloom: MemoryGloom) -> None:
    """If its last attempt is lost during the drain, a job has failed; the outcome draining invites another submit."""
    master = extended(gloom.master())
    master.ask(submit("a", retries=0))
    slave = busy_slave_of(gloom, "a", name="s")
    stop(gloom)
    slave.drop()
    reason = "the slave s disappeared (1 attempt)"
    assert master.take() == [failure("a", "job_failed", reason, ("s", 0.0, "lost"))]


def test_fail_is_an_outcome_as_ever(gloom: MemoryGloom) -> None:
    """A slave that says that its job failed is believed."""
    master = gloom.master()
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a", name="s")
    stop(gloom)
    slave.send(fail("no"))
    assert master.take() == [{"id": "a", "error": "job_failed", "reason": "no"}]


def test_after_its_time_the_broker_waits_no_longer(gloom: MemoryGloom) -> None:
    """After --drain-seconds running jobs end as draining, slaves that accept it get a cancel, and connections end."""
    master = extended(gloom.master())
    slaves = []
    for id, hello in (("a", {}), ("b", {"name": "s", "accept": ["cancel"]})):
        master.ask(submit(id))
        slaves.append(busy_slave_of(gloom, id, **hello))
    stop(gloom)
    gloom.advance(29)
    assert not master.lost and master.take() == []
    gloom.advance(1)
    assert master.take() == [
        failure("a", "draining", ABANDONED, ("127.0.0.1:50000", 30.0, "draining")),
        failure("b", "draining", ABANDONED, ("s", 30.0, "draining")),
    ]
    assert [slave.take() for slave in slaves] == [[], [cancel("b")]]
    assert master.lost and slaves[0].lost and slaves[1].lost
    gloom.advance(60)
    assert gloom.clock.getDelayedCalls() == []


def test_a_broker_that_has_stopped_leaves_no_timer(gloom: MemoryGloom) -> None:
    """Neither a job's timer nor a peer's half frame keeps the process from ending."""
    master = extended(gloom.master())
    master.ask(submit("a", timeout=3600))
    busy_slave_of(gloom, "a")
    stop(gloom)
    gloom.advance(29.5)
    half = gloom.master()
    half.send_bytes(b"\x00")
    gloom.advance(0.5)
    assert master.lost and half.lost
    assert gloom.clock.getDelayedCalls() == []


def test_an_orphan_is_waited_for(gloom: MemoryGloom) -> None:
    """A slave that works for nobody is given its time as well."""
    master = gloom.master()
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a")
    master.drop()
    stop(gloom)
    assert not slave.lost
    assert slave.ask(respond()) == [OK]
    assert slave.lost


def test_a_master_that_goes_while_draining(gloom: MemoryGloom) -> None:
    """The jobs in hand of others are still waited for."""
    one, other = gloom.master(), gloom.master()
    one.ask(submit("a"))
    busy_slave_of(gloom, "a")
    other.ask(submit("b"))
    slave = busy_slave_of(gloom, "b")
    stop(gloom)
    one.drop()
    slave.send(respond())
    assert other.take() == [answer("b")]
    assert not other.lost
    gloom.advance(30)
    assert other.lost


def test_an_attempt_that_was_ended_before_is_not_waited_for(gloom: MemoryGloom) -> None:
    """A slave that has not let go of a cancelled job holds nothing up."""
    master = extended(gloom.master())
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a")
    master.ask(cancel("a"))
    stop(gloom)
    assert master.lost and slave.lost


def test_without_time_everything_ends_at_once() -> None:
    """With --drain-seconds 0 no job in hand is waited for; each has its outcome all the same."""
    gloom = MemoryGloom(Settings(drain_seconds=0))
    master = gloom.master()
    master.ask(submit("a"))
    slave = busy_slave_of(gloom, "a")
    stop(gloom)
    gloom.advance()
    assert master.take() == [{"id": "a", "error": "draining", "reason": ABANDONED}]
    assert master.lost and slave.lost


def test_a_master_that_is_not_read_by_anybody_does_not_hold_up_the_end(gloom: MemoryGloom) -> None:
    """A peer that reads nothing is cut off a second after it was told to go."""
    master = gloom.master()
    master.ask(submit("queued"))
    master.transport.stalled = True
    stop(gloom)
    assert not master.lost
    gloom.advance(1)
    assert master.lost


def test_a_job_takes_its_time_though_the_drain_is_over_for_others(gloom: MemoryGloom) -> None:
    """Time that passes in the drain counts for timeouts as ever."""
    master = extended(gloom.master())
    master.ask(submit("a", timeout=5, retries=0))
    slave = slave_of(gloom, slots=2)
    master.ask(submit("b"))
    slave.take()
    stop(gloom)
    gloom.advance(5)
    assert [message["error"] for message in master.take()] == ["timeout"]
    assert slave.ask(respond("B", id="b")) == [OK]
    assert master.take() == [answer("b", "B")]
    assert slave.lost


def test_a_slave_that_comes_late_gets_nothing(gloom: MemoryGloom) -> None:
    """A connection that was made before the stop may join after it, and waits for nothing."""
    master, late = gloom.master(), gloom.slave()
    master.ask(submit("a"))
    busy_slave_of(gloom, "a")
    stop(gloom)
    assert late.ask(join()) == [OK]
    assert job("a") not in late.take()
