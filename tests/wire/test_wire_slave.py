"""A slave from join to leave, message for message, in memory: docs/protocol.md, sections 3 and 4."""

from __future__ import annotations

import json

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom
from gloom.wire.framereader import to_frame
from tests.support.wire import (
    LEAVE,
    OK,
    PING,
    answer,
    busy_slave_of,
    extended,
    fail,
    job,
    join,
    respond,
    served,
    slave_of,
    submit,
)

# Joining and answering


def test_nothing_comes_before_join() -> None:
    """A slave that has not joined gets no job, of whatever type."""
    gloom = MemoryGloom()
    slave, master = gloom.slave(), gloom.master()
    master.ask(submit(1))
    master.ask(submit(2, None))
    assert slave.take() == []
    assert slave.ask(join()) == [OK, job(1)]


def test_the_ok_comes_before_the_next_job() -> None:
    """join, respond and fail are answered before the job that they make room for."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), extended(gloom.slave())
    for n in range(4):
        master.ask(submit(n))
    assert slave.ask(join()) == [OK, job(0)]
    assert slave.ask(respond()) == [OK, job(1)]
    assert slave.ask(fail()) == [OK, job(2)]
    assert slave.ask(fail(retry=True)) == [OK, job(2)]
    assert slave.ask(respond()) == [OK, job(3)]


def test_one_job_at_a_time() -> None:
    """A slave that pipelines its answers is refused those for which it has no job."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    slave.send_bytes(to_frame(json.dumps(respond()).encode()) * 3)
    assert [reply.get("error", "ok") for reply in slave.take()] == ["ok", "invalid_state", "invalid_state"]
    master.ask(submit(2))
    master.ask(submit(3))
    assert slave.take() == [job(2)]


def test_joining_again_keeps_the_job_in_hand() -> None:
    """The type changes from the next job on; the job in hand is still to be answered."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    master.ask(submit("old"))
    master.ask(submit("new", "other"))
    assert slave.ask(join("other")) == [OK]
    assert slave.ask(respond()) == [OK, job("new", "other")]
    assert master.take() == [answer(1)]
    assert served(slave) == [] and slave.ask(respond()) == [OK]


def test_joining_again_when_idle() -> None:
    """An idle slave that joins another type gets its jobs, and no more of the first."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom)
    assert slave.ask(join("other")) == [OK]
    master.ask(submit("old"))
    assert slave.take() == []
    master.ask(submit("new", "other"))
    assert slave.take() == [job("new", "other")]


def test_a_null_slave_takes_untyped_jobs_only() -> None:
    """A slave that joined null leaves typed jobs alone, even those of higher priority."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit("typed", priority=9))
    master.ask(submit("untyped", None))
    assert served(slave_of(gloom, None)) == ["untyped"]


def test_any_slave_takes_untyped_jobs() -> None:
    """A job without a type goes to a slave of any type."""
    gloom = MemoryGloom()
    slave = slave_of(gloom, "anything")
    gloom.master().ask(submit(1, None))
    assert slave.take() == [job(1, None)]


def test_the_slave_idle_longest_is_next() -> None:
    """Jobs go round: to the slave that has waited longest, over all types where the job has none."""
    gloom = MemoryGloom()
    one, two, other = slave_of(gloom), slave_of(gloom), slave_of(gloom, "other")
    master = gloom.master()
    for n, slave in enumerate([one, two, one, two]):
        master.ask(submit(n))
        assert slave.ask(respond()) == [job(n), OK]
    for n, slave in enumerate([other, one, two, other]):
        master.ask(submit(n, None))
        assert slave.ask(respond()) == [job(n, None), OK]


def test_a_master_that_is_gone_costs_its_slave_nothing() -> None:
    """A slave whose master has disconnected gets its ok, and goes on."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    master.drop()
    assert slave.ask(respond()) == [OK]
    gloom.master().ask(submit(2))
    assert slave.take() == [job(2)]


# A slave that goes


def test_the_job_of_a_lost_slave_goes_to_another_at_once() -> None:
    """A slave that waits gets the job of one that disappears."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    lost = busy_slave_of(gloom, 1)
    waiting = slave_of(gloom)
    lost.drop()
    assert waiting.take() == [job(1)]
    assert waiting.ask(respond()) == [OK]
    assert master.take() == [answer(1)]


def test_the_job_of_a_lost_slave_keeps_its_place() -> None:
    """It is served before jobs that were submitted after it, and after those of higher priority."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit("first"))
    lost = busy_slave_of(gloom, "first")
    master.ask(submit("second"))
    master.ask(submit("urgent", priority=1))
    lost.drop()
    assert served(slave_of(gloom)) == ["urgent", "first", "second"]


def test_a_slave_that_goes_idle_takes_nothing_along() -> None:
    """A slave that disappears without a job is simply no longer there."""
    gloom = MemoryGloom()
    gone, master = slave_of(gloom), gloom.master()
    gone.drop()
    master.ask(submit(1))
    assert served(slave_of(gloom)) == [1]


def test_a_slave_that_is_told_to_go_has_gone() -> None:
    """A slave that made a mistake that closes loses its job at once, though it has not read so yet."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    told, waiting = busy_slave_of(gloom, 1), slave_of(gloom)
    told.transport.stalled = True
    told.send(b"nonsense")
    assert not told.lost
    assert waiting.take() == [job(1)]
    master.ask(submit(2))
    gloom.advance(1)
    assert told.lost and told.take() == []


def test_half_an_answer_is_no_answer() -> None:
    """A slave that disappears in the middle of its answer has not answered."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    slave.send_bytes(to_frame(json.dumps(respond("whole")).encode())[:-1])
    slave.drop()
    assert master.take() == []
    assert served(slave_of(gloom)) == [1]
    assert master.take() == [answer(1)]


def test_an_answer_of_a_slave_that_goes_counts() -> None:
    """An answer that is whole counts, even if the slave goes without waiting for its ok."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1)
    slave.sendString(json.dumps(respond("whole")).encode())
    slave.flush()
    slave.drop()
    assert master.take() == [answer(1, "whole")]
    assert served(slave_of(gloom)) == []


# The extended level


def test_respond_may_name_its_job() -> None:
    """The id of the job in hand is accepted, as a string or an integer, and null stands for it."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), slave_of(gloom, name="s")
    for id, named in (("a", {"id": "a"}), (7, {"id": 7}), ("b", {"id": None}), ("c", {})):
        master.ask(submit(id))
        assert slave.ask(respond(**named)) == [job(id), OK]
        assert master.take() == [answer(id)]


def test_at_the_base_level_an_id_is_ignored() -> None:
    """A base slave that names a job, whichever, answers the one in hand."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    assert busy_slave_of(gloom, 1).ask(respond(id="nonsense")) == [OK]
    assert master.take() == [answer(1)]


def test_fail_ends_the_job() -> None:
    """A job that its slave declares failed is not tried again."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave, waiting = busy_slave_of(gloom, 1, name="s"), slave_of(gloom)
    assert slave.ask(fail("the input is empty", id=1)) == [OK]
    assert master.take() == [{"id": 1, "error": "job_failed", "reason": "the input is empty"}]
    assert waiting.take() == []
    assert master.ask(submit(1)) == [OK]


def test_fail_with_retry_gives_the_job_to_another() -> None:
    """A job that may be tried again goes to a slave that waits, before the one that failed."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave, waiting = busy_slave_of(gloom, 1, name="s"), slave_of(gloom)
    assert slave.ask(fail(retry=True)) == [OK]
    assert waiting.ask(respond()) == [job(1), OK]
    assert master.take() == [answer(1)]


def test_retries_by_fail_and_by_loss_are_counted_together() -> None:
    """A job has its attempts, however each of them ended; the last reason is told."""
    gloom = MemoryGloom(Settings(retries=2))
    master = gloom.master()
    master.ask(submit(1))
    busy_slave_of(gloom, 1).drop()
    slave = busy_slave_of(gloom, 1, name="s")
    assert slave.ask(fail("once", retry=True)) == [OK, job(1)]
    assert master.take() == []
    assert slave.ask(fail("twice", retry=True)) == [OK]
    assert master.take() == [{"id": 1, "error": "job_failed", "reason": "twice (3 attempts)"}]


def test_failing_the_job_of_a_gone_master() -> None:
    """A slave may fail a job that nobody waits for; it is not tried again, and its id is free."""
    for retry in (False, True):
        gloom = MemoryGloom()
        master, other = gloom.master(), gloom.master()
        master.ask(submit(1))
        slave = busy_slave_of(gloom, 1, name="s")
        master.drop()
        assert slave.ask(fail(retry=retry)) == [OK]
        assert other.ask(submit(1)) == [OK]


def test_leave_spends_no_attempt() -> None:
    """After leave a slave answers its jobs and gets no more, and its disconnect spends no attempt."""
    gloom = MemoryGloom(Settings(retries=0))
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1, name="s")
    master.ask(submit(2))
    assert slave.ask(LEAVE) == [OK]
    assert slave.ask(respond()) == [OK]
    slave.drop()
    assert master.take() == [answer(1)]
    assert served(slave_of(gloom)) == [2]


def test_an_idle_slave_leaves() -> None:
    """After leave no job comes, typed or not; after another join they do."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom, name="s"), gloom.master()
    assert slave.ask(LEAVE) == slave.ask(LEAVE) == [OK]
    master.ask(submit(1))
    master.ask(submit(2, None))
    assert slave.take() == []
    assert slave.ask(join()) == [OK, job(1)]


def test_a_job_that_crosses_leave_is_answered() -> None:
    """A job that was given before the leave was heard comes before its ok, and can be answered."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom, name="s"), gloom.master()
    master.sendString(json.dumps(submit(1)).encode())
    slave.sendString(json.dumps(LEAVE).encode())
    gloom.advance()
    assert slave.take() == [job(1), OK]
    assert slave.ask(respond()) == [OK]
    assert master.take() == [OK, answer(1)]


def test_a_silent_slave_loses_its_job() -> None:
    """A slave that agreed on a heartbeat and is silent is dropped, and its job goes to one that pings."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    silent, alive = busy_slave_of(gloom, 1, heartbeat=9), slave_of(gloom, heartbeat=9)
    for _ in range(3):
        assert not silent.lost
        gloom.advance(3)
        alive.send(PING)
    assert silent.lost
    assert [message for message in alive.take() if message != OK] == [job(1)]
    assert not alive.lost


@pytest.mark.parametrize("seconds", [1, 8.9])
def test_silence_is_noticed_after_one_heartbeat(seconds: float) -> None:
    """However the last word falls, a silent slave is dropped after H seconds of silence, not before and not later."""
    gloom = MemoryGloom()
    slave = slave_of(gloom, heartbeat=9)
    gloom.advance(seconds)
    slave.send(PING)
    gloom.advance(8.9)
    assert not slave.lost
    gloom.advance(0.1)
    assert slave.lost


def test_any_byte_is_life() -> None:
    """A slave that is sending a long frame slowly is not silent."""
    gloom = MemoryGloom()
    gloom.master().ask(submit(1))
    slave = busy_slave_of(gloom, 1, heartbeat=9)
    for byte in to_frame(json.dumps(respond()).encode()):
        gloom.advance(8)
        slave.send_bytes(bytes([byte]))
    assert slave.take() == [OK]
