"""Cancelled jobs, slaves with several types and slots, progress and receipts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gloom.broker.values import Receipt
from gloom.errors import InvalidState, MissingField, NoSlaves, UnknownJob
from tests.support.floor import Floor, refused
from tests.support.recording import OK, Told, assigned, failed

REVOKED: Told = ("revoked", "j")


@pytest.fixture
def floor(new_floor: Callable[..., Floor]) -> Floor:
    return new_floor(retries=1)


# cancel


def test_a_queued_job_is_cancelled(floor: Floor) -> None:
    """A waiting job is cancelled at once: its master gets the reply, then the outcome; no slave gets the job."""
    master = floor.master().queue("j")
    master.cancel("j")
    told = master.take()
    assert told[0] == ("cancelled",)
    assert failed(told[1:]) == [("j", "cancelled", "a master cancelled it", [])]
    assert floor.joined().take() == []
    refused(floor, UnknownJob, "'j' is no job of this master in flight", master.cancel, "j")


def test_a_job_in_hand_is_cancelled(floor: Floor) -> None:
    """The master gets the outcome at once; the attempt is revoked, keeps its slot, and its answer is thrown away."""
    slave, master = floor.joined(), floor.master().queue("j", "k")
    floor.wait(2)
    master.cancel("j")
    told = master.take()
    assert told[0] == ("cancelling",)
    assert told[1][2].attempts == [{"slave": "slave", "seconds": 2.0, "ended": "cancelled"}]
    assert slave.take() == [assigned("j"), REVOKED]
    slave.respond(b"late")
    assert slave.take() == [OK, assigned("k")]
    assert master.take() == []


def test_a_cancelled_id_is_free_for_other_slaves(floor: Floor) -> None:
    """The same id may be submitted again at once; the slave that still has the old one in hand does not get it."""
    slave, master = floor.joined(slots=2), floor.master()
    master.submit("j")
    master.cancel("j")
    master.submit("j")
    master.submit("k")
    assert slave.take() == [assigned("j"), REVOKED, assigned("k")]
    slave.respond(b"old", id="j")
    assert slave.take() == [OK, assigned("j")]
    slave.respond(b"new", id="j")
    assert [call for call in master.take() if call[0] == "answered"] == [("answered", "j", b"new")]


def test_a_new_job_of_a_cancelled_id_passes_the_slave_that_holds_the_old_one(floor: Floor) -> None:
    """The next idle slave gets the new job of the id, though the slave with the old attempt is idle longer."""
    holding, other = floor.joined(slots=2, name="holding"), floor.joined(name="other")
    master = floor.master()
    master.submit("j")
    other.leave()
    other.join()  # behind the other
    master.cancel("j")
    master.submit("j")
    assert holding.take() == [assigned("j"), REVOKED]
    assert other.take() == [OK, OK, assigned("j")]


def test_all_masters_of_a_cancelled_job_get_the_outcome(floor: Floor) -> None:
    """Every attached master gets the outcome; only the master that cancelled gets the reply."""
    first, second = floor.master("a").queue("j"), floor.master("b")
    second.submit("j", attach=True)
    second.cancel("j")
    assert [call[0] for call in first.take()] == ["failed"]
    assert [call[0] for call in second.take()] == ["ok", "cancelled", "failed"]


def test_only_a_master_of_the_job_may_cancel_it(floor: Floor) -> None:
    """A cancel by another master, or of an unknown id, is refused."""
    floor.master().queue("j")
    other = floor.master("other")
    refused(floor, UnknownJob, "'j' is no job of this master", other.cancel, "j")
    refused(floor, UnknownJob, "5 is no job of this master", other.cancel, 5)
    other.submit("j", attach=True)
    other.cancel("j")


# types and slots


def test_a_slave_with_slots_has_several_jobs(floor: Floor) -> None:
    """A slave gets as many jobs as it has slots, and one more for each that it lets go of."""
    floor.master().queue(1, 2, 3, 4)
    slave = floor.slave()
    slave.join(slots=3)
    assert slave.take() == [OK, assigned(1), assigned(2), assigned(3)]
    slave.respond(id=2)
    assert slave.take() == [OK, assigned(4)]
    assert slave.hand == [1, 3, 4]


@pytest.mark.parametrize("verb", ["respond", "fail"])
def test_with_several_jobs_in_hand_an_answer_needs_an_id(floor: Floor, verb: str) -> None:
    """Without an id it is refused and changes nothing; an ended attempt in hand counts."""
    slave, master = floor.joined(slots=2), floor.master().queue("j", "k")
    answer = getattr(slave, verb)
    refused(floor, MissingField, "id is required when more than one job is in hand, 2 are", answer)
    master.cancel("j")
    refused(floor, MissingField, "2 are", answer)
    refused(floor, InvalidState, "the job 'l' is not in hand", answer, id="l")
    answer(id="k")
    answer()
    assert slave.hand == []


def test_jobs_go_round_among_slaves_with_free_slots(floor: Floor) -> None:
    """A slave that was given a job waits behind the others for the next one, though it has slots left."""
    slaves = [floor.joined(name=name, slots=2) for name in "abc"]
    master = floor.master().queue(1, 2, 3, 4)
    assert [slave.take() for slave in slaves] == [[assigned(1), assigned(4)], [assigned(2)], [assigned(3)]]
    slaves[0].respond(id=1)  # its slots were all taken: it waits from now on
    master.queue(5, 6, 7)
    assert [slave.take()[-1] for slave in slaves] == [assigned(7), assigned(5), assigned(6)]


def test_a_waiting_slave_that_takes_a_queued_job_waits_behind_others(floor: Floor) -> None:
    """A slave that takes a job only now because it held an ended attempt of it is idle shorter than the others now."""
    slave, master = floor.joined("x", "y", name="slave", slots=2), floor.master()
    master.submit("j", "x", timeout_seconds=1.0)
    floor.wait(1)
    other = floor.joined("y", name="other")
    slave.respond(id="j")  # late
    assert slave.hand == ["j"]
    master.queue("k", type="y")
    assert other.take() == [assigned("k")]


def test_several_types_share_one_order(floor: Floor) -> None:
    """A slave of several types takes their jobs, and untyped ones, as if they stood in one queue."""
    master = floor.master()
    for id, type, priority in ((1, "x", 0), (2, "y", 1), (3, None, 1), (4, "z", 9), (5, "x", 1), (6, "y", 0)):
        master.submit(id, type, priority)
    slave = floor.joined("x", "y", "x")
    order: list[Any] = []
    while slave.hand:
        order += slave.hand
        slave.respond()
    assert order == [2, 3, 5, 1, 6]


def test_a_slave_of_several_types_is_idle_in_all(floor: Floor) -> None:
    """A slave that gets a job of one of its types is idle for none of its other types."""
    both, other = floor.joined("x", "y", name="both"), floor.joined("y", name="other")
    master = floor.master().queue(1, type="x").queue(2, type="y")
    assert (both.take(), other.take()) == ([assigned(1)], [assigned(2)])
    both.respond()
    master.queue(3, type="y")
    assert both.take() == [OK, assigned(3)]


def test_fewer_slots_take_effect_when_there_is_room(floor: Floor) -> None:
    """A slave that joins again with fewer slots keeps its jobs in hand, and gets no more until a slot is free."""
    floor.master().queue(1, 2, 3, 4)
    slave = floor.joined(slots=3)
    slave.join(slots=1)
    assert slave.take() == [OK]
    for id in (1, 2):
        slave.respond(id=id)
        assert slave.take() == [OK]
    slave.respond()
    assert slave.take() == [OK, assigned(4)]


def test_a_slave_takes_no_untyped_jobs_that_it_did_not_join_for(floor: Floor) -> None:
    """A slave that did not join untyped jobs is assigned the typed jobs behind them."""
    slave = floor.slave("restricted")
    slave.join(untyped=False)
    master = floor.master().queue("untyped", type=None)
    refused(floor, NoSlaves, "no slave has joined$", master.submit, "k", None, require_slave=True)
    master.queue("typed")
    assert slave.take() == [OK, assigned("typed")]
    assert floor.slave("other").take() == []
    assert floor.joined(name="any").hand == ["untyped"]


def test_the_jobs_of_a_slave_with_slots_come_back_in_their_order(floor: Floor) -> None:
    """All jobs of a lost slave go back to their places; ended attempts do not."""
    lost, master = floor.joined(slots=3), floor.master().queue(1, 2, 3, 4)
    master.cancel(2)
    lost.lost()
    slave = floor.slave("next")
    slave.join(slots=4)
    assert slave.take() == [OK, assigned(1), assigned(3), assigned(4)]


def test_an_idle_slave_gets_the_first_job_of_a_lost_one(floor: Floor) -> None:
    """Of the jobs of a lost slave an idle one gets the first in the order of jobs, not in the order of assignment."""
    lost = floor.joined(slots=2)
    floor.master().queue("low", priority=-1).queue("high")
    idle = floor.joined(name="idle")
    lost.lost()
    assert idle.hand == ["high"]


def test_a_job_passes_the_slave_that_still_holds_its_ended_attempt(floor: Floor) -> None:
    """A job that timed out waits for another slave than the one with its ended attempt; other jobs go past it."""
    first, master = floor.joined(slots=3, name="first"), floor.master()
    master.submit("j", timeout_seconds=1.0)
    floor.wait(1)
    master.submit("k")
    master.submit("m", priority=-1)
    assert first.take() == [assigned("j"), REVOKED, assigned("k"), assigned("m")]
    second = floor.joined(name="second")
    second.respond(b"second")
    first.respond(b"late", id="j")
    assert [call for call in master.take() if call[0] == "answered"] == [("answered", "j", b"second")]


def test_a_queued_job_that_a_slave_may_not_take_does_not_block_it(floor: Floor) -> None:
    """A slave that holds ended attempts of the first jobs in the queue takes the next ones, in order."""
    slave, master = floor.joined(slots=3), floor.master()
    for id in ("a", "b"):
        master.submit(id, timeout_seconds=1.0)
    master.submit("c")
    floor.wait(1)
    for id in ("d", "e"):
        master.submit(id)
    slave.take()
    slave.respond(id="c")
    assert slave.take() == [OK, assigned("d")]
    slave.respond(id="a")
    assert slave.take() == [OK, assigned("a")]
    slave.respond(id="d")
    assert slave.take() == [OK, assigned("e")]
    slave.respond(id="e")
    assert slave.take() == [OK]
    assert floor.joined(name="other").hand == ["b"]


# progress and receipts


def test_progress_is_passed_on(floor: Floor) -> None:
    """Each report of progress goes to all masters, in order, before the outcome; the slave gets no reply."""
    slave, master, other = floor.joined(), floor.master().queue("j"), floor.master("other")
    other.submit("j", attach=True)
    slave.take()
    slave.progress(b"1")
    slave.progress(b"2", id="j")
    slave.respond()
    assert slave.take() == [OK]
    told = [("progressed", "j", b"1"), ("progressed", "j", b"2"), ("answered", "j", b"1")]
    assert (master.take(), other.take()) == (told, [OK, *told])


def test_progress_of_a_job_that_is_not_in_hand_is_ignored(floor: Floor) -> None:
    """Progress of an ended attempt, of a job not in hand, or of one of several without an id goes to no master."""
    slave, other, master = floor.joined(slots=2), floor.joined(name="other"), floor.master()
    slave.progress()
    master.queue("j", "k", "l")
    other.progress(id="j")
    assert other.hand == ["k"]
    slave.progress(id=5)
    slave.progress()  # two are in hand
    master.cancel("j")
    master.take()
    slave.progress(id="j")
    assert master.take() == []


def test_a_receipt_tells_the_course_of_the_job(floor: Floor) -> None:
    """A receipt has the wait, the time of the last attempt, the number of attempts and the slave."""
    master = floor.master().queue("j", delay_seconds=1.0)
    master.peer.wants_receipts = True
    floor.wait(2)
    floor.joined(name="lost").lost()
    floor.wait(0.5)
    slave = floor.joined(name="s")
    other = floor.master("without receipts")
    other.submit("j", attach=True)
    floor.wait(0.25)
    slave.respond()
    assert master.take() == [("answered", "j", b"1", Receipt(2.5, 0.25, 2, "s"))]
    assert other.take() == [OK, ("answered", "j", b"1")]
