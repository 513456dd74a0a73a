"""The base level: the way of a job, its order, and peers that come and go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from zope.interface.verify import verifyClass, verifyObject

from gloom.broker.interfaces import IBroker, IMasterPeer, ISlavePeer
from gloom.broker.values import Failure
from gloom.errors import IdExists, InvalidState
from tests.support.floor import Floor, refused
from tests.support.recording import OK, RecordingMaster, RecordingSlave, assigned


def test_the_interfaces_are_provided(floor: Floor) -> None:
    """A broker, and the peers of these tests, have exactly the verbs and attributes that the interfaces name."""
    assert verifyObject(IBroker, floor.broker)
    assert verifyClass(IBroker, type(floor.broker))
    assert verifyObject(IMasterPeer, RecordingMaster("m"))
    assert verifyObject(ISlavePeer, RecordingSlave("s"))


# A job's way


def test_a_job_goes_to_a_slave_and_its_answer_back(floor: Floor) -> None:
    """A submitted job is assigned to the slave of its type, and the answer goes to its master."""
    master, slave = floor.master(), floor.joined()
    master.submit("j")
    slave.respond(b'{"n": 1.0}')
    assert slave.take() == [assigned("j"), OK]
    assert master.take() == [OK, ("answered", "j", b'{"n": 1.0}')]


def test_the_reply_comes_before_everything_that_follows_from_the_request(floor: Floor) -> None:
    """The ok of a submit comes before the slave has the job, that of a respond before the outcome and the next job."""
    master, slave = floor.master("m"), floor.joined(name="s")
    master.submit("j")
    master.submit("k")
    floor.journal.clear()
    slave.respond()
    assert floor.journal == [("s", OK), ("m", ("answered", "j", b"1")), ("s", assigned("k"))]
    slave.fail("no")
    assert [call[0] for _, call in floor.journal[3:]] == ["ok", "failed"]
    floor.journal.clear()
    master.submit("l")
    assert floor.journal == [("m", OK), ("s", assigned("l"))]


def test_a_join_is_accepted_before_its_first_job(floor: Floor) -> None:
    """A slave that joins while jobs wait reads ok, then its job."""
    floor.master().queue("j")
    slave = floor.slave()
    slave.join()
    assert slave.take() == [OK, assigned("j")]


def test_a_job_waits_for_a_slave_of_its_type(floor: Floor) -> None:
    """A job is not handed to a slave of another type, nor to one that takes only untyped jobs."""
    others = [floor.joined("other", name="o"), floor.joined(None, name="n")]
    floor.master().queue("j")
    assert [slave.take() for slave in others] == [[], []]
    assert floor.joined("echo").hand == ["j"]


def test_a_slave_has_one_job_at_a_time(floor: Floor) -> None:
    """The next job comes only after the answer to the one in hand."""
    floor.master().queue("j", "k")
    slave = floor.slave()
    slave.join()
    assert slave.take() == [OK, assigned("j")]
    slave.respond()
    assert slave.take() == [OK, assigned("k")]


def test_a_slave_that_has_not_joined_gets_nothing(floor: Floor) -> None:
    """A slave is assigned nothing before its first join."""
    slave = floor.slave()
    floor.master().queue("typed")
    floor.master().queue("untyped", type=None)
    assert slave.take() == []


def test_an_id_is_free_after_the_outcome(floor: Floor) -> None:
    """An id may be used again as soon as its job has its outcome."""
    master, slave = floor.master(), floor.joined()
    for _ in range(2):
        master.submit(7)
        slave.respond()
    assert master.take() == [OK, ("answered", 7, b"1")] * 2


def test_a_number_and_a_text_are_different_ids(floor: Floor) -> None:
    """The id 1 and the id "1" are two jobs."""
    master, slave = floor.master(), floor.joined()
    master.submit(1)
    master.submit("1")
    slave.respond(b"a")
    slave.respond(b"b")
    assert master.take() == [OK, OK, ("answered", 1, b"a"), ("answered", "1", b"b")]


# Order


def test_priority_then_submission(floor: Floor) -> None:
    """One slave takes the larger priority first, and equal priorities in the order of submission."""
    master = floor.master()
    priorities = (0, 5, 0, 5, -1, 2**63 - 1, -(2**63), 2**63 - 2)
    for id, priority in zip("abcdefgh", priorities, strict=True):
        master.submit(id, priority=priority)
    slave = floor.slave()
    slave.join()
    for _ in priorities:
        slave.respond()
    assert [told for told in slave.take() if told != OK] == [assigned(id) for id in "fhbdaceg"]


def test_typed_and_untyped_jobs_share_one_order(floor: Floor) -> None:
    """A slave takes typed and untyped jobs by priority and age, as if they stood in one queue."""
    master = floor.master()
    for id, type, priority in (
        ("u1", None, 0),
        ("t1", "echo", 0),
        ("t2", "echo", 9),
        ("u2", None, 9),
        ("t3", "echo", 1),
        ("u3", None, -1),
    ):
        master.submit(id, type, priority)
    slave = floor.slave()
    slave.join()
    for _ in range(6):
        slave.respond()
    assert [told for told in slave.take() if told != OK] == [
        assigned(id) for id in ("t2", "u2", "t3", "u1", "t1", "u3")
    ]


def test_a_slave_that_joined_null_takes_only_untyped_jobs(floor: Floor) -> None:
    """A slave of no type takes untyped jobs in their order and leaves the typed ones."""
    master = floor.master().queue("typed")
    master.queue("u1", "u2", type=None)
    slave = floor.slave()
    slave.join(None)
    slave.respond()
    slave.respond()
    assert slave.take() == [OK, assigned("u1"), OK, assigned("u2"), OK]
    floor.joined("echo").respond()
    assert master.take()[-1] == ("answered", "typed", b"1")


@pytest.mark.parametrize("type", ["echo", None])
def test_the_slave_that_is_idle_longest_gets_the_job(floor: Floor, type: str | None) -> None:
    """Of the slaves that could take a job, the one that has waited longest gets it."""
    slaves = [floor.joined(name=name) for name in "abc"]
    master = floor.master()
    master.submit("first", type)
    slaves[0].respond()
    for id in ("j", "k", "l"):
        master.submit(id, type)
    assert [slave.take()[-1] for slave in slaves] == [assigned("l"), assigned("j"), assigned("k")]


def test_idleness_is_one_order_over_all_types(floor: Floor) -> None:
    """An untyped job goes to the slave that is idle longest, of all types."""
    slaves = [floor.joined(type, name=name) for type, name in (("x", "a"), (None, "b"), ("y", "c"))]
    floor.master().queue(1, 2, 3, type=None)
    assert [slave.take() for slave in slaves] == [[assigned(1)], [assigned(2)], [assigned(3)]]


# Join and leave


def test_joining_again_switches_the_type(floor: Floor) -> None:
    """A slave that joins another type gets jobs of that one, and none of the type before."""
    slave = floor.joined("old")
    slave.join("new")
    floor.master().queue("o", type="old").queue("n", type="new")
    assert slave.take() == [OK, assigned("n")]


def test_joining_again_keeps_the_job_in_hand(floor: Floor) -> None:
    """A job in hand is still to be answered after a join, and the next one is of the new type."""
    master = floor.master().queue("o", "o2", type="old").queue("n", type="new")
    slave = floor.slave()
    slave.join("old")
    slave.join("new")
    assert slave.take() == [OK, assigned("o"), OK]
    slave.respond()
    assert slave.take() == [OK, assigned("n")]
    assert master.take() == [("answered", "o", b"1")]


def test_joining_the_same_type_again_begins_a_new_wait(floor: Floor) -> None:
    """An idle slave that joins again stands behind those that were waiting."""
    first, second = floor.joined(name="a"), floor.joined(name="b")
    first.join()
    floor.master().queue("j")
    assert (first.take(), second.take()) == ([OK], [assigned("j")])


def test_a_slave_that_left_gets_no_more_jobs(floor: Floor) -> None:
    """After leave nothing is assigned, typed or not; a join brings jobs again."""
    slave = floor.joined()
    slave.leave()
    floor.master().queue("typed").queue("untyped", type=None)
    assert slave.take() == [OK]
    slave.join()
    assert slave.take() == [OK, assigned("typed")]


def test_a_slave_that_left_still_answers_the_job_in_hand(floor: Floor) -> None:
    """Leaving burns no attempt: the job in hand is answered, and none follows."""
    master = floor.master().queue("j", "k")
    slave = floor.slave()
    slave.join()
    slave.leave()
    slave.respond()
    assert slave.take() == [OK, assigned("j"), OK, OK]
    assert master.take() == [("answered", "j", b"1")]


def test_leave_before_join_is_accepted(floor: Floor) -> None:
    """A slave that takes no jobs may say so."""
    slave = floor.slave()
    slave.leave()
    assert slave.take() == [OK]


# A slave disappears


def test_the_job_of_a_lost_slave_goes_to_an_idle_one(floor: Floor) -> None:
    """When a slave disappears, its job is another slave's at once, and the master hears nothing of it."""
    lost, idle = floor.joined(name="a"), floor.joined(name="b")
    master = floor.master().queue("j")
    lost.lost()
    idle.respond()
    assert idle.take() == [assigned("j"), OK]
    assert master.take() == [("answered", "j", b"1")]


def test_the_job_of_a_lost_slave_goes_back_to_its_place(floor: Floor) -> None:
    """A job that comes back stands before the jobs that were submitted after it."""
    lost = floor.joined(name="a")
    floor.master().queue("j", "k", "l")
    lost.lost()
    slave = floor.slave()
    slave.join()
    slave.respond()
    assert slave.take() == [OK, assigned("j"), OK, assigned("k")]


def test_a_lost_idle_slave_gets_nothing(floor: Floor) -> None:
    """A slave that disappeared while idle is forgotten."""
    floor.joined(name="a").lost()
    floor.slave("b").lost()
    floor.master().queue("j")
    assert floor.journal == [("a", OK), ("master", OK)]


@pytest.mark.parametrize(("retries", "times"), [(0, "1 attempt"), (1, "2 attempts"), (3, "4 attempts")])
def test_a_job_fails_when_its_attempts_are_spent(new_floor: Callable[..., Floor], retries: int, times: str) -> None:
    """A job is tried again as often as allowed; then its master hears why, with every attempt."""
    floor = new_floor(retries=retries)
    master = floor.master().queue("j")
    for attempt in range(retries + 1):
        assert master.take() == []
        slave = floor.joined(name=f"s{attempt}")
        floor.now += 1.5
        slave.lost()
    attempts = [{"slave": f"s{attempt}", "seconds": 1.5, "ended": "lost"} for attempt in range(retries + 1)]
    failure = Failure("job_failed", f"the slave s{retries} disappeared ({times})", attempts=attempts)
    assert master.take() == [("failed", "j", failure)]
    assert floor.is_empty()


# A slave says that the job failed


def test_a_failed_job_is_told_to_its_master(floor: Floor) -> None:
    """The slave's report of a failure reaches the master, and the slave gets the next job."""
    master, slave = floor.master().queue("j", "k"), floor.slave()
    slave.join()
    slave.take()
    floor.now = 2.25
    slave.fail("bad input", "ValueError", traceback="Traceback ...")
    attempt = {"slave": "slave", "seconds": 2.25, "ended": "failed"}
    failure = Failure("job_failed", "bad input", "ValueError", "Traceback ...", [attempt])
    assert master.take() == [("failed", "j", failure)]
    assert slave.take() == [OK, assigned("k")]


def test_fail_with_retry_spends_an_attempt(floor: Floor) -> None:
    """With retry a failure is an attempt like another: the job is tried again, and failed when all are spent."""
    master, slave = floor.master().queue("j"), floor.slave()
    slave.join()
    for _ in range(3):
        slave.fail("busy", "OSError", retry=True)
        assert master.take() == []
    slave.fail("busy", "OSError", retry=True)
    assert slave.take() == [OK, *[assigned("j"), OK] * 4]
    [(_, _, failure)] = master.take()
    assert (failure.reason, failure.kind, len(failure.attempts)) == ("busy (4 attempts)", "OSError", 4)
    assert [attempt["ended"] for attempt in failure.attempts] == ["failed"] * 4


def test_a_retry_prefers_a_slave_that_waits(floor: Floor) -> None:
    """A job that is to be tried again goes to an idle slave, not to the one that has just failed it."""
    master, failing, waiting = floor.master(), floor.joined(name="a"), floor.joined(name="b")
    master.submit("j")
    failing.fail(retry=True)
    assert failing.take() == [assigned("j"), OK]
    assert waiting.take() == [assigned("j")]


def test_fail_after_leave_brings_no_job(floor: Floor) -> None:
    """A slave that left and fails the job in hand with retry does not get it back."""
    floor.master().queue("j")
    slave = floor.slave()
    slave.join()
    slave.leave()
    slave.fail(retry=True)
    assert slave.take() == [OK, assigned("j"), OK, OK]


# A master disappears


def test_queued_jobs_leave_with_their_master(floor: Floor) -> None:
    """The waiting jobs of a master that disappeared are never run; those of others are."""
    gone, stays = floor.master("gone").queue("g1", "g2"), floor.master("stays").queue("s")
    gone.lost()
    slave = floor.slave()
    slave.join()
    slave.respond()
    assert slave.take() == [OK, assigned("s"), OK]
    assert stays.take() == [("answered", "s", b"1")]
    assert gone.take() == []


@pytest.mark.parametrize("verb", ["respond", "fail", "retry", "lost"])
def test_an_orphan_completes_without_an_outcome(floor: Floor, verb: str) -> None:
    """However the job in hand of a lost master ends, no master is called, and its id and its slave are free."""
    master, slave = floor.master("gone").queue("j"), floor.slave()
    slave.join()
    master.lost()
    if verb == "lost":
        slave.lost()
        slave = floor.joined()
    elif verb == "respond":
        slave.respond()
    else:
        slave.fail(retry=verb == "retry")
    slave.take()
    floor.master("next").queue("j")
    assert slave.take() == [assigned("j")]
    assert master.take() == []


def test_losing_a_connection_twice_changes_nothing(floor: Floor) -> None:
    """A connection that is reported lost a second time changes nothing."""
    master, slave = floor.master().queue("j"), floor.joined()
    for _ in range(2):
        master.lost()
        slave.lost()
    assert floor.is_empty()


# Attach


def test_attach_makes_a_master_of_the_running_job(floor: Floor) -> None:
    """A master that attaches to a job in flight gets its outcome, and so does the first one; the job runs once."""
    first, second, slave = floor.master("a").queue("j"), floor.master("b"), floor.joined()
    second.submit("j", attach=True)
    slave.respond()
    assert slave.take() == [OK]
    assert first.take() == [("answered", "j", b"1")]
    assert second.take() == [OK, ("answered", "j", b"1")]


def test_a_master_may_attach_to_its_own_job(floor: Floor) -> None:
    """A master that attaches to its own job reads ok again, and one outcome."""
    master, slave = floor.master().queue("j"), floor.joined()
    master.submit("j", attach=True)
    slave.respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_attach_finds_the_job_whose_master_has_gone(floor: Floor) -> None:
    """A master that comes back finds its running job, and its answer is not lost."""
    slave = floor.joined()
    gone = floor.master("gone").queue("j")
    gone.lost()
    back = floor.master("back")
    back.submit("j", attach=True)
    assert back.take() == [OK]
    slave.respond(b"2")
    assert back.take() == [("answered", "j", b"2")]


def test_a_queued_job_stays_for_the_masters_that_are_left(floor: Floor) -> None:
    """A queued job leaves the queue only with the last of its masters."""
    first, second = floor.master("a").queue("j"), floor.master("b")
    second.submit("j", attach=True)
    first.lost()
    slave = floor.joined()
    slave.respond()
    assert first.take() == []
    assert second.take() == [OK, ("answered", "j", b"1")]


def test_all_masters_get_a_failure(floor: Floor) -> None:
    """Every attached master gets the failure once."""
    masters = [floor.master(name) for name in "abc"]
    for master in masters:
        master.submit("j", attach=True)
    floor.joined().fail("no")
    assert [[told[0] for told in master.take()] for master in masters] == [["ok", "failed"]] * 3


def test_attach_to_an_unknown_id_submits(floor: Floor) -> None:
    """Attaching to a job that is not in flight is a submit like another."""
    master, slave = floor.master(), floor.joined()
    master.submit("j", attach=True)
    assert (master.take(), slave.take()) == ([OK], [assigned("j")])


# Refusals change nothing


@pytest.mark.parametrize("running", [False, True])
def test_an_id_in_flight_is_refused(floor: Floor, running: bool) -> None:
    """The id of a queued or running job is refused to everyone, with the id as reason; the first job is untouched."""
    first, second = floor.master("a").queue("j"), floor.master("b")
    slave = floor.joined() if running else None
    for master in (first, second):
        refused(floor, IdExists, "^j$", master.submit, "j", "other", 9)
    (slave or floor.joined()).respond()
    assert first.take() == [("answered", "j", b"1")]


def test_the_id_of_an_orphan_is_refused(floor: Floor) -> None:
    """Without attach the id of a job in hand is taken, also when no master waits for the job."""
    floor.joined()
    floor.master("gone").queue(5).lost()
    refused(floor, IdExists, "^5$", floor.master().submit, 5)


@pytest.mark.parametrize("state", ["new", "idle", "left", "answered"])
@pytest.mark.parametrize("verb", ["respond", "fail"])
def test_without_a_job_there_is_nothing_to_answer(floor: Floor, state: str, verb: str) -> None:
    """Respond and fail are refused to a slave that has no job, and nothing changes."""
    slave = floor.slave()
    if state != "new":
        slave.join()
    if state == "left":
        slave.leave()
    if state == "answered":
        floor.master().queue("j")
        slave.respond()
    slave.take()
    refused(floor, InvalidState, "no job is in hand", getattr(slave, verb))


@pytest.mark.parametrize("verb", ["respond", "fail"])
def test_an_answer_must_name_the_job_in_hand(floor: Floor, verb: str) -> None:
    """An answer that names another job is refused; the job stays in hand and may still be answered."""
    master, slave = floor.master().queue("j"), floor.joined()
    refused(floor, InvalidState, "the job 'k' is not in hand", getattr(slave, verb), id="k")
    slave.respond(id="j")
    assert master.take() == [("answered", "j", b"1")]


def test_a_refusal_shows_a_short_id_whole(floor: Floor) -> None:
    """An id that is shown in 100 characters, quotes included, is not cut."""
    for length, shown in ((98, "x" * 98 + "'"), (99, "x" * 99 + "...")):
        with pytest.raises(InvalidState, match=f"^the job '{shown} is not in hand$".replace("...", "[.]{3}")):
            floor.joined().respond(id="x" * length)


def test_a_refusal_shows_no_more_than_a_piece_of_a_long_id(floor: Floor) -> None:
    """An id of thousands of digits is cut in the reason."""
    floor.master().queue(10**4000)
    with pytest.raises(InvalidState) as caught:
        floor.joined().respond(id=-(10**4000))
    assert len(caught.value.reason) < 300


# Nothing adds up


def test_a_type_lasts_while_a_job_of_it_runs(floor: Floor) -> None:
    """A type that only a running job uses still exists: the job finds its place there when it comes back."""
    master = floor.master().queue("j")
    slave = floor.slave()
    slave.join()
    slave.leave()
    slave.lost()
    floor.joined().respond()
    assert master.take() == [("answered", "j", b"1")]


# Blocked slaves: they have not read the bytes sent to them


@pytest.mark.parametrize("types", [("echo",), tuple(f"type {number}" for number in range(20))], ids=["few", "many"])
def test_a_blocked_slave_gets_nothing_and_comes_back_last(floor: Floor, types: tuple[str, ...]) -> None:
    """While a slave is blocked, others get the jobs; when it is ready, it stands behind the others."""
    type = types[0]
    first, second = floor.joined(*types, name="first", slots=3), floor.joined(*types, name="second", slots=3)
    first.blocked()
    first.blocked()
    master = floor.master().queue(1, 2, type=type)
    assert (first.take(), second.take()) == ([], [assigned(1), assigned(2)])
    first.ready()
    first.ready()
    master.queue(3, 4, 5, type=type)
    assert (first.take(), second.take()) == ([assigned(4), assigned(5)], [assigned(3)])


def test_a_slave_that_is_ready_again_takes_waiting_jobs(floor: Floor) -> None:
    """A slave that is ready again gets the jobs that waited for it, as many as it has slots."""
    slave = floor.joined(slots=2)
    slave.blocked()
    floor.master().queue(1, 2, 3)
    slave.join(slots=2)
    assert slave.take() == [OK]
    slave.ready()
    assert slave.take() == [assigned(1), assigned(2)]
    slave.leave()
    slave.blocked()
    slave.ready()
    assert slave.take() == [OK]


def test_a_full_slave_is_assigned_one_job_at_a_time(floor: Floor) -> None:
    """A slave that is full after a job gets the next one when it is ready."""
    master = floor.master().queue(1, 2, 3)
    slave = floor.slave()
    slave.peer.is_full = True
    slave.join(slots=3)
    assert slave.take() == [OK, assigned(1)]
    slave.ready()
    assert slave.take() == [assigned(2)]
    other = floor.slave("other")
    other.join()
    assert other.take() == [OK, assigned(3)]
    master.queue(4)
    slave.ready()
    assert slave.take() == [assigned(4)]
