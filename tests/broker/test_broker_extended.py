"""Every transition of the extended level, told to recording peers, at exact times; nothing here has a wire."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gloom.broker.values import ATTACH_TERMS, BASE_TERMS, Receipt, Terms
from gloom.errors import Busy, Draining, GloomError, IdExists, InvalidState, MissingField, NoSlaves, UnknownJob
from gloom.settings import MIB
from tests.support.floor import ASlave, Floor
from tests.support.recording import OK, Told, assigned, payload_of, picture

REVOKED: Told = ("revoked", "j")


@pytest.fixture
def floor() -> Iterator[Floor]:
    """A broker that must be empty when everybody has gone, whatever the test did."""
    floor = Floor(retries=1)
    yield floor
    floor.everybody_goes()


def failed(told: list[Told]) -> list[tuple[Any, ...]]:
    """Return id, code, reason and how the attempts ended of the failures in *told*."""
    return [
        (what[1], what[2].error, what[2].reason, [attempt["ended"] for attempt in what[2].attempts])
        for what in told
        if what[0] == "failed"
    ]


def refused(floor: Floor, error: type[GloomError], match: str, verb: Any, *arguments: Any, **more: Any) -> None:
    """Assert that *verb* is refused, and that nothing has changed."""
    before = picture(floor.broker)
    with pytest.raises(error, match=match):
        verb(*arguments, **more)
    assert picture(floor.broker) == before


# timeout


def test_an_attempt_that_takes_too_long_is_spent(floor: Floor) -> None:
    """Exactly at its timeout the job goes to another slave; the late answer of the first is heard by nobody."""
    late, other = floor.joined(name="late"), floor.joined(name="other")
    master = floor.master()
    master.submit("j", timeout_seconds=5.0)
    floor.wait(4.999999)
    assert late.take() == [assigned("j")]
    floor.wait(0.000001)
    assert (late.take(), other.take()) == ([REVOKED], [assigned("j")])
    late.respond(b"late")
    assert late.take() == [OK]
    other.respond(b"in time")
    assert master.take() == [OK, ("answered", "j", b"in time")]


def test_after_the_last_attempt_the_outcome_is_timeout(floor: Floor) -> None:
    """When all attempts took too long, the master hears timeout, how long was allowed, and of each attempt."""
    slaves = [floor.joined(name=name) for name in "ab"]
    master = floor.master().queue("j", timeout_seconds=2.5)
    floor.wait(5)
    reason = "the attempt on b ran longer than 2.5 s (2 attempts)"
    [(_, _, failure)] = master.take()
    assert (failure.error, failure.reason) == ("timeout", reason)
    assert failure.attempts == [
        {"slave": "a", "seconds": 2.5, "ended": "timeout"},
        {"slave": "b", "seconds": 2.5, "ended": "timeout"},
    ]
    assert [slave.take() for slave in slaves] == [[assigned("j"), REVOKED]] * 2


def test_a_slot_is_taken_until_the_slave_lets_go(floor: Floor) -> None:
    """A slave whose attempt was ended gets nothing before it has answered; then it may get the very job again."""
    slave = floor.joined()
    master = floor.master().queue("j", "k", timeout_seconds=1.0)
    slave.take()
    floor.wait(1)
    assert slave.take() == [REVOKED]
    floor.wait(100)
    assert slave.take() == []
    slave.fail("too late")
    assert slave.take() == [OK, assigned("j")]
    slave.respond()
    assert slave.take() == [OK, assigned("k")]
    assert master.take() == [("answered", "j", b"1")]


def test_an_attempt_in_time_leaves_no_timer(floor: Floor) -> None:
    """However an attempt ends, its timer does not end the next one: that has its whole time."""
    for end in (lambda slave: slave.lost(), lambda slave: slave.fail(retry=True)):
        master, slave = floor.master(), floor.joined(name="a")
        master.submit("j", timeout_seconds=10.0)
        floor.wait(6)
        end(slave)
        floor.joined(name="b")
        floor.wait(9.999)
        assert failed(master.take()) == []
        floor.wait(0.001)
        assert [one[1:] for one in failed(master.take())] == [
            ("timeout", "the attempt on a ran longer than 10 s (2 attempts)", ["failed", "timeout"])
            if slave.record.hand
            else ("timeout", "the attempt on b ran longer than 10 s (2 attempts)", ["lost", "timeout"])
        ]
        floor.everybody_goes()


def test_a_timer_does_not_survive_its_attempt(floor: Floor) -> None:
    """A job that waits again after an attempt is not ended by that attempt's timeout."""
    lost, master = floor.joined(), floor.master()
    master.submit("j", timeout_seconds=10.0)
    floor.wait(5)
    lost.lost()
    floor.wait(100)
    assert master.take() == [OK]
    floor.joined().respond()
    assert master.take() == [("answered", "j", b"1")]


def test_a_timer_does_not_survive_its_job(floor: Floor) -> None:
    """A job that was answered, and an id that is used again, know nothing of the first one's timeout."""
    master, slave = floor.master(), floor.joined()
    master.submit("j", timeout_seconds=10.0)
    floor.wait(5)
    slave.respond()
    master.submit("j")
    floor.wait(1000)
    slave.respond()
    assert master.take() == [OK, ("answered", "j", b"1")] * 2


def test_an_orphan_that_takes_too_long_is_dropped(floor: Floor) -> None:
    """A job in hand whose master has gone is not tried again after its timeout; its id is free, its slot is not."""
    slave = floor.joined()
    floor.master().queue("j", timeout_seconds=3.0).lost()
    next_master = floor.master().queue("k")
    refused(floor, IdExists, "j", next_master.submit, "j")
    floor.wait(3)
    next_master.submit("j")
    assert slave.take() == [assigned("j"), REVOKED]
    slave.respond(b"late")
    assert slave.take() == [OK, assigned("k")]
    assert next_master.take() == [OK]


def test_a_slave_that_goes_with_an_ended_attempt_costs_no_other(floor: Floor) -> None:
    """A slave that disappears with an attempt that timed out spends no second one."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", timeout_seconds=1.0)
    floor.wait(1)
    slave.lost()
    floor.joined(name="next").respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_a_timeout_so_short_that_the_clock_does_not_show_it_ends(floor: Floor) -> None:
    """The shortest timeouts end all attempts at once, and nothing hangs."""
    floor.now = 1e9
    floor.joined(name="a"), floor.joined(name="b")
    master = floor.master()
    master.submit("j", timeout_seconds=1e-300)
    floor.wait(0)
    assert [one[1] for one in failed(master.take())] == ["timeout"]


# expires and delay


def test_a_job_that_waits_too_long_expires(floor: Floor) -> None:
    """A job that no slave took in time fails exactly then, is given to nobody, and its id is free."""
    master = floor.master()
    master.submit("j", expires_seconds=2.0)
    floor.wait(1.999)
    assert master.take() == [OK]
    floor.wait(0.001)
    assert failed(master.take()) == [("j", "expired", "no slave took it within 2 s", [])]
    master.submit("j")
    floor.joined().respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_a_job_that_began_in_time_does_not_expire(floor: Floor) -> None:
    """expires is about waiting: a job in hand takes as long as it takes."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", expires_seconds=2.0)
    floor.wait(1000)
    slave.respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_expires_0_is_now_or_never(floor: Floor) -> None:
    """A job that may not wait at all goes to a free slave, or fails."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", expires_seconds=0.0)
    master.submit("k", expires_seconds=0.0)
    assert slave.take() == [assigned("j")]
    floor.wait(0)
    assert [one[:2] for one in failed(master.take())] == [("k", "expired")]


@pytest.mark.parametrize(("seconds", "error"), [(3.0, None), (5.0, "expired"), (7.0, "expired")])
def test_a_job_that_comes_back_has_what_is_left_of_its_time(floor: Floor, seconds: float, error: str | None) -> None:
    """The time to wait is counted from when the job could begin, also when an attempt came between."""
    lost, master = floor.joined(), floor.master()
    master.submit("j", expires_seconds=5.0)
    floor.wait(seconds)
    lost.lost()
    floor.wait(1)
    assert [one[1] for one in failed(master.take())] == ([error] if error else [])
    if not error:
        floor.wait(1)
        assert failed(master.take()) == [("j", "expired", "no slave took it within 5 s", ["lost"])]


def test_a_delayed_job_waits(floor: Floor) -> None:
    """A job with a delay is given to no slave before, and exactly then to the one that is idle longest."""
    slaves = [floor.joined(name=name) for name in "ab"]
    master = floor.master()
    master.submit("j", delay_seconds=10.0)
    floor.wait(9.999)
    assert [slave.take() for slave in slaves] == [[], []]
    refused(floor, IdExists, "j", master.submit, "j")
    floor.wait(0.001)
    assert [slave.take() for slave in slaves] == [[assigned("j")], []]


def test_a_delayed_job_has_the_place_of_its_submission(floor: Floor) -> None:
    """When its delay is over a job stands where it would have stood without, before what was submitted later."""
    busy = floor.joined()
    master = floor.master().queue("first")
    master.submit("delayed", delay_seconds=1.0)
    master.submit("later")
    floor.wait(1)
    busy.respond()
    assert busy.take() == [assigned("first"), OK, assigned("delayed")]


def test_expires_is_counted_after_the_delay(floor: Floor) -> None:
    """A job with both waits for its delay, and then for a slave as long as it may."""
    master = floor.master()
    master.submit("j", delay_seconds=10.0, expires_seconds=5.0)
    floor.wait(14.999)
    assert failed(master.take()) == []
    floor.wait(0.001)
    assert failed(master.take()) == [("j", "expired", "no slave took it within 5 s", [])]


@pytest.mark.parametrize("end", ["cancel", "lost"])
def test_a_delayed_job_can_be_given_up(floor: Floor, end: str) -> None:
    """A delayed job that is cancelled, or whose master has gone, never begins, and its id is free at once."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", delay_seconds=10.0)
    master.cancel("j") if end == "cancel" else master.lost()
    floor.master("next").queue("j", delay_seconds=20.0)
    floor.wait(19.9)
    assert slave.take() == []
    floor.wait(0.1)
    assert slave.take() == [assigned("j")]


# retries and require_slave


@pytest.mark.parametrize("retries", [0, 3])
def test_a_job_has_its_own_retries(floor: Floor, retries: int) -> None:
    """retries of a submit counts, and not the broker's."""
    master = floor.master().queue("j", retries=retries)
    slave = floor.joined()
    for _ in range(retries):
        slave.fail(retry=True)
        assert master.take() == []
    slave.fail(retry=True)
    times = "1 attempt" if retries == 0 else f"{retries + 1} attempts"
    assert failed(master.take()) == [("j", "job_failed", f"no ({times})", ["failed"] * (retries + 1))]


@pytest.mark.parametrize(
    ("joined", "type", "there"),
    [
        (["echo"], "echo", True),
        (["other"], "echo", False),
        ([None], "echo", False),
        (["other"], None, True),
        ([None], None, True),
        ([], "echo", False),
        ([], None, False),
    ],
)
def test_a_job_may_require_a_slave(floor: Floor, joined: list[str | None], type: str | None, there: bool) -> None:
    """require_slave refuses a job that no slave has joined for, and only that; a busy slave is there too."""
    slaves = [floor.joined(one) for one in joined]
    master = floor.master().queue("busy", type=type)
    if there:
        master.submit("j", type, require_slave=True)
        assert master.take() == [OK]
    else:
        match = "no slave has joined$" if type is None else "no slave has joined the type 'echo'$"
        refused(floor, NoSlaves, match, master.submit, "j", type, require_slave=True)
    for slave in slaves:
        slave.leave()
    refused(floor, NoSlaves, "no slave has joined", master.submit, "k", type, require_slave=True)


# cancel


def test_a_queued_job_is_cancelled(floor: Floor) -> None:
    """A job that waits is cancelled at once: its master reads so, then the outcome; nobody serves it."""
    master = floor.master().queue("j")
    master.cancel("j")
    told = master.take()
    assert told[0] == ("cancelled",)
    assert failed(told[1:]) == [("j", "cancelled", "a master cancelled it", [])]
    assert floor.joined().take() == []
    refused(floor, UnknownJob, "'j' is no job of this master in flight", master.cancel, "j")


def test_a_job_in_hand_is_cancelled(floor: Floor) -> None:
    """The master has its outcome at once; the slave is told, keeps its slot, and its answer is thrown away."""
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


def test_a_cancelled_id_is_free_but_not_for_that_slave(floor: Floor) -> None:
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
    assert [what for what in master.take() if what[0] == "answered"] == [("answered", "j", b"new")]


def test_a_cancelled_id_goes_past_the_slave_that_holds_it(floor: Floor) -> None:
    """The next idle slave gets the new job of that id, though another has waited longer for one."""
    holding, other = floor.joined(slots=2, name="holding"), floor.joined(name="other")
    master = floor.master()
    master.submit("j")
    other.leave()
    other.join()  # behind the other
    master.cancel("j")
    master.submit("j")
    assert holding.take() == [assigned("j"), REVOKED]
    assert other.take() == [OK, OK, assigned("j")]


def test_all_masters_of_a_cancelled_job_hear_it(floor: Floor) -> None:
    """Whoever attached gets the outcome too; only the one that cancelled gets the reply."""
    first, second = floor.master("a").queue("j"), floor.master("b")
    second.submit("j", attach=True)
    second.cancel("j")
    assert [what[0] for what in first.take()] == ["failed"]
    assert [what[0] for what in second.take()] == ["ok", "cancelled", "failed"]


def test_only_a_master_of_the_job_may_cancel_it(floor: Floor) -> None:
    """Neither a stranger nor an unknown id cancels anything."""
    floor.master().queue("j")
    other = floor.master("other")
    refused(floor, UnknownJob, "'j' is no job of this master", other.cancel, "j")
    refused(floor, UnknownJob, "5 is no job of this master", other.cancel, 5)
    other.submit("j", attach=True)
    other.cancel("j")


def test_a_cancelled_job_keeps_no_memory(floor: Floor) -> None:
    """What a waiting job carried is released with it, also while its type has other jobs waiting."""
    master = floor.master().queue("first", "j")
    job = floor.broker._jobs["j"]
    master.cancel("j")
    assert sys.getrefcount(job) == 2  # this one, and the argument


# types and slots


def test_a_slave_with_slots_has_several_jobs(floor: Floor) -> None:
    """A slave gets as many jobs as it has slots, and one more for each that it lets go of."""
    floor.master().queue(1, 2, 3, 4)
    slave = floor.slave()
    slave.join(slots=3)
    assert slave.take() == [OK, assigned(1), assigned(2), assigned(3)]
    slave.respond(id=2)
    assert slave.take() == [OK, assigned(4)]
    assert list(slave.record.hand) == [1, 3, 4]


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
    assert slave.record.hand == {}


def test_jobs_go_round_among_slaves_with_free_slots(floor: Floor) -> None:
    """A slave that was given a job waits behind the others for the next one, though it has slots left."""
    slaves = [floor.joined(name=name, slots=2) for name in "abc"]
    master = floor.master().queue(1, 2, 3, 4)
    assert [slave.take() for slave in slaves] == [[assigned(1), assigned(4)], [assigned(2)], [assigned(3)]]
    slaves[0].respond(id=1)  # its slots were all taken: it waits from now on
    master.queue(5, 6, 7)
    assert [slave.take()[-1] for slave in slaves] == [assigned(7), assigned(5), assigned(6)]


def test_a_waiting_slave_that_takes_a_queued_job_waits_behind_others(floor: Floor) -> None:
    """A job that waited only for its ended attempt to leave the hand counts as given: others are idle longer now."""
    slave, master = floor.joined("x", "y", name="slave", slots=2), floor.master()
    master.submit("j", "x", timeout_seconds=1.0)
    floor.wait(1)
    other = floor.joined("y", name="other")
    slave.respond(id="j")  # late
    assert list(slave.record.hand) == ["j"]
    master.queue("k", type="y")
    assert other.take() == [assigned("k")]


def test_several_types_share_one_order(floor: Floor) -> None:
    """A slave of several types takes their jobs, and untyped ones, as if they stood in one queue."""
    master = floor.master()
    for id, type, priority in ((1, "x", 0), (2, "y", 1), (3, None, 1), (4, "z", 9), (5, "x", 1), (6, "y", 0)):
        master.submit(id, type, priority)
    slave = floor.joined("x", "y", "x")
    order: list[Any] = []
    while slave.record.hand:
        order += slave.record.hand
        slave.respond()
    assert order == [2, 3, 5, 1, 6]


def test_a_slave_of_several_types_is_idle_in_all(floor: Floor) -> None:
    """A job of one of its types takes a slave out of the others' waiting lines."""
    both, other = floor.joined("x", "y", name="both"), floor.joined("y", name="other")
    master = floor.master().queue(1, type="x").queue(2, type="y")
    assert (both.take(), other.take()) == ([assigned(1)], [assigned(2)])
    both.respond()
    master.queue(3, type="y")
    assert both.take() == [OK, assigned(3)]


def test_fewer_slots_take_effect_when_there_is_room(floor: Floor) -> None:
    """A slave that joins again with fewer slots keeps what it has in hand, and gets no more till it is below."""
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
    """Where access rules keep untyped jobs from a slave, they wait for another, and are not in its way."""
    slave = floor.slave("restricted")
    floor.broker.join(slave.record, ("echo",), 1, 0.0)
    master = floor.master().queue("untyped", type=None)
    refused(floor, NoSlaves, "no slave has joined$", master.submit, "k", None, require_slave=True)
    master.queue("typed")
    assert slave.take() == [OK, assigned("typed")]
    assert floor.slave("other").take() == []
    assert floor.joined(name="any").record.hand.keys() == {"untyped"}


def test_the_jobs_of_a_slave_with_slots_come_back_in_their_order(floor: Floor) -> None:
    """All jobs of a lost slave go back to their places; ended attempts do not."""
    lost, master = floor.joined(slots=3), floor.master().queue(1, 2, 3, 4)
    master.cancel(2)
    lost.lost()
    slave = floor.slave("next")
    slave.join(slots=4)
    assert slave.take() == [OK, assigned(1), assigned(3), assigned(4)]


def test_a_job_passes_the_slave_that_still_holds_its_ended_attempt(floor: Floor) -> None:
    """A job that timed out is not given to the same slave again, but to one that comes; others go past it."""
    first, master = floor.joined(slots=3, name="first"), floor.master()
    master.submit("j", timeout_seconds=1.0)
    floor.wait(1)
    master.submit("k")
    master.submit("m", priority=-1)
    assert first.take() == [assigned("j"), REVOKED, assigned("k"), assigned("m")]
    second = floor.joined(name="second")
    second.respond(b"second")
    first.respond(b"late", id="j")
    assert [what for what in master.take() if what[0] == "answered"] == [("answered", "j", b"second")]


def test_a_queued_job_that_a_slave_may_not_take_does_not_block_it(floor: Floor) -> None:
    """A slave whose hand holds the ended attempts of the first jobs in the queue takes the next, in order."""
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
    assert [job.id for job in floor.broker._jobs.values() if job.queued] == ["a", "b", "e"]
    slave.respond(id="a")
    assert slave.take() == [OK, assigned("a")]
    slave.respond(id="d")
    assert slave.take() == [OK, assigned("e")]
    slave.respond(id="e")
    assert slave.take() == [OK]
    assert [job.id for job in floor.broker._jobs.values() if job.queued] == ["b"]


# progress and receipts


def test_progress_is_passed_on(floor: Floor) -> None:
    """What a slave says of its job comes to all masters, in order, before the outcome; the slave hears nothing."""
    slave, master, other = floor.joined(), floor.master().queue("j"), floor.master("other")
    other.submit("j", attach=True)
    slave.take()
    slave.progress(b"1")
    slave.progress(b"2", id="j")
    slave.respond()
    assert slave.take() == [OK]
    told = [("progressed", "j", b"1"), ("progressed", "j", b"2"), ("answered", "j", b"1")]
    assert (master.take(), other.take()) == (told, [OK, *told])


def test_progress_of_what_is_not_in_hand_is_ignored(floor: Floor) -> None:
    """Of an ended attempt, of another's job, of no job, and of one of several nothing is told to anybody."""
    slave, other, master = floor.joined(slots=2), floor.joined(name="other"), floor.master()
    slave.progress()
    master.queue("j", "k", "l")
    other.progress(id="j")
    assert other.record.hand.keys() == {"k"}
    slave.progress(id=5)
    slave.progress()  # which of the two?
    master.cancel("j")
    master.take()
    slave.progress(id="j")
    assert master.take() == []


def test_a_receipt_says_how_it_went(floor: Floor) -> None:
    """A master that wants receipts is told the waiting, the last attempt, their number and its slave."""
    master = floor.master().queue("j", delay_seconds=1.0)
    master.peer.wants_receipts = True
    floor.wait(2)
    floor.joined(name="lost").lost()
    floor.wait(0.5)
    slave = floor.joined(name="s")
    floor.wait(0.25)
    slave.respond()
    assert master.take() == [("answered", "j", b"1", Receipt(2.5, 0.25, 2, "s"))]


# Limits


def submit_to_the_limit(floor: Floor, name: str, ids: range, **more: Any) -> Any:
    master = floor.master(name).queue(*ids)
    refused(floor, Busy, more.pop("match"), master.submit, "one more", **more)
    assert master.take() == []
    return master


def test_the_broker_takes_so_many_jobs() -> None:
    """Beyond max_jobs a job is refused; jobs in hand and delayed ones count; after an outcome there is room."""
    floor = Floor(max_jobs=4, master_share=0.5)
    slave = floor.joined()
    submit_to_the_limit(floor, "a", range(2), match=r"this master has 2 jobs in flight, its limit \(--master-share\)")
    second = floor.master("b").queue(2).queue(3, delay_seconds=9.0)
    refused(floor, Busy, r"the broker has 4 jobs in flight, its limit \(--max-jobs\)", floor.master().submit, 4)
    slave.respond()
    refused(floor, Busy, "this master has 2 jobs", second.submit, 4)
    floor.master("c").queue(4)
    second.cancel(3)
    second.submit(5)
    floor.everybody_goes()


def test_the_broker_takes_so_many_bytes() -> None:
    """Beyond max_queued_bytes, or a master's share of them, a job is refused; what ends makes room."""
    floor = Floor(max_queued_bytes=MIB, master_share=0.75)
    big = payload_of("x") * (MIB // 2 // len(payload_of("x")))

    def submit(master: Any, id: str) -> None:
        floor.broker.submit(master.record, id, "echo", 0, big, Terms(), 0.0)

    one, two = floor.master("a"), floor.master("b")
    submit(one, "a")
    share = MIB * 3 // 4
    refused(
        floor,
        Busy,
        rf"with {len(big)} bytes more this master would go over its {share} bytes of jobs in flight \(--master-share\)",
        submit,
        one,
        "b",
    )
    submit(two, "b")
    match = rf"with {len(big)} bytes more the broker would go over its {MIB} bytes of jobs in flight"
    refused(floor, Busy, match, submit, floor.master("c"), "c")
    slave = floor.joined()
    slave.respond()
    submit(one, "c")
    two.lost()  # its job is in hand, and takes room until the slave lets go of it
    refused(floor, Busy, match, submit, floor.master("d"), "d")
    slave.respond()
    submit(floor.master("d"), "d")
    floor.everybody_goes()


def test_shared_bytes_count_for_each_master() -> None:
    """A job of half a share, submitted or attached to, leaves room for one more of its size, to the byte."""
    floor = Floor(max_queued_bytes=MIB, master_share=0.5)
    quarter = b"x" * (MIB // 4)

    def submit(master: Any, id: str, payload: bytes, terms: Terms = BASE_TERMS) -> None:
        floor.broker.submit(master.record, id, "echo", 0, payload, terms, 0.0)

    one, two = floor.master("a"), floor.master("b")
    submit(one, "a", quarter)
    submit(two, "a", b"", ATTACH_TERMS)
    for master, id in ((one, "b"), (two, "c")):
        refused(floor, Busy, "master would go over its 524288 bytes", submit, master, id, quarter + b"x")
        submit(master, id, quarter)
        # Exactly all that the broker may hold is not over its limit; the share is.
        refused(floor, Busy, "master would go over its 524288 bytes", submit, master, "d", quarter)
    floor.joined().respond()
    submit(one, "d", quarter)
    submit(two, "e", quarter)
    refused(floor, Busy, "broker would go over its 1048576 bytes", submit, floor.master("c"), "f", b"x")
    floor.everybody_goes()


def test_attaching_is_not_limited() -> None:
    """A master that comes back finds its jobs, however full the broker is; they count as its own."""
    floor = Floor(max_jobs=4, master_share=0.5)
    floor.master("a").queue(1, 2)
    master = floor.master("b").queue(3)
    master.submit(1, attach=True)
    refused(floor, Busy, "this master has 2 jobs", master.submit, 4)
    master.submit(2, attach=True)
    assert master.take() == [OK] * 2
    floor.everybody_goes()


def test_a_limit_is_not_reached_by_a_refused_job(floor: Floor) -> None:
    """What is refused for another reason takes no room."""
    master = floor.master()
    for _ in range(3):
        refused(floor, NoSlaves, "no slave", master.submit, "j", require_slave=True)
    assert floor.broker.unanswered == 0


# attach


def test_attach_must_name_the_type_of_the_job(floor: Floor) -> None:
    """An attach of another type is no attach: access rules go by the type that it names."""
    floor.master().queue("j")
    other = floor.master("other")
    for type in ("mine", None):
        refused(floor, IdExists, "j", other.submit, "j", type, attach=True)


# Draining


def test_a_drain_ends_what_waits(floor: Floor) -> None:
    """Queued and delayed jobs are told draining at once, jobs in hand finish, new ones are refused."""
    slave, master = floor.joined(), floor.master().queue("in hand", "queued").queue("delayed", delay_seconds=60.0)
    floor.drain()
    told = failed(master.take())
    assert [one[:3] for one in told] == [
        (id, "draining", "the broker is shutting down") for id in ("queued", "delayed")
    ]
    refused(floor, Draining, "the broker is shutting down", master.submit, "new")
    refused(floor, IdExists, "in hand", master.submit, "in hand")
    assert floor.drained == 0
    slave.respond()
    assert master.take() == [("answered", "in hand", b"1")]
    assert slave.take() == [assigned("in hand"), OK]
    assert floor.drained == 1


def test_a_drain_with_nothing_in_hand_is_over_at_once(floor: Floor) -> None:
    """The service is told once, also when the last job that waited has just been ended."""
    floor.master().queue("j")
    floor.drain()
    assert floor.drained == 1


@pytest.mark.parametrize(("spent", "error"), [(False, "draining"), (True, "job_failed")])
def test_an_attempt_that_ends_while_draining_is_the_last(floor: Floor, spent: bool, error: str) -> None:
    """A job whose slave disappears is not tried again; if its attempts are spent anyway, that is what is told."""
    slave, master = floor.joined(), floor.master().queue("j", retries=0 if spent else 5)
    floor.drain()
    slave.lost()
    assert [one[1::2] for one in failed(master.take())] == [(error, ["lost"])]
    assert floor.drained == 1


def test_an_orphan_that_ends_while_draining_is_the_end(floor: Floor) -> None:
    """A job that nobody waits for is waited for all the same: its slave is at work."""
    slave = floor.joined()
    floor.master().queue("j").lost()
    floor.drain()
    assert floor.drained == 0
    slave.respond()
    assert floor.drained == 1


def test_cancelling_while_draining(floor: Floor) -> None:
    """A job in hand can be cancelled while the broker drains, which may be its end."""
    floor.joined()
    master = floor.master().queue("j")
    floor.drain()
    master.cancel("j")
    assert floor.drained == 1


def test_what_is_still_in_hand_is_abandoned(floor: Floor) -> None:
    """At the end of the drain every job has its outcome, and the slaves are told."""
    slaves = [floor.joined(name=name) for name in "ab"]
    master = floor.master().queue("j").queue("timed", timeout_seconds=60.0)
    floor.drain()
    floor.wait(30)
    floor.broker.abandon(floor.now)
    reason = "the broker shut down before the job was done"
    assert failed(master.take()) == [(id, "draining", reason, ["draining"]) for id in ("j", "timed")]
    assert [slave.take()[-1][0] for slave in slaves] == ["revoked", "revoked"]
    assert floor.drained == 1
    slaves[0].respond(b"late")
    assert slaves[0].take() == [OK]
    assert master.take() == []


def test_abandoning_without_a_drain_ends_everything(floor: Floor) -> None:
    """A broker that is told to give up at once gives every job its outcome, waiting or not."""
    floor.joined()
    master = floor.master().queue("in hand", "queued")
    floor.broker.abandon(floor.now)
    assert [one[0] for one in failed(master.take())] == ["in hand", "queued"]
    assert floor.broker.unanswered == 0


# The alarm


def test_the_alarm_is_set_for_the_first_moment() -> None:
    """The broker asks to be called when the first of its moments comes, whatever order they were set in."""
    floor = Floor()
    alarms: list[float] = []
    floor.broker._deadlines._sooner = alarms.append
    master = floor.master()
    for id, seconds in ((1, 20.0), (2, 10.0), (3, 30.0), (4, 5.0)):
        master.submit(id, delay_seconds=seconds)
    assert alarms == [20.0, 10.0, 5.0]
    assert floor.broker.deadline_passed(5.0) == 10.0
    assert floor.broker.deadline_passed(100.0) is None


def slaves_of(floor: Floor, names: str) -> list[ASlave]:
    return [floor.joined(name=name) for name in names]


def test_what_is_due_at_one_moment_is_done_in_one_go(floor: Floor) -> None:
    """A broker that is called late, or for several moments at once, does all of them in their order."""
    master = floor.master()
    for id, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        master.submit(id, delay_seconds=seconds)
    slaves = slaves_of(floor, "xyz")
    assert floor.broker.deadline_passed(60.0) is None
    assert [slave.take() for slave in slaves] == [[assigned("a")], [assigned("b")], [assigned("c")]]
