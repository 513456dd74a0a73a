"""The terms of a ``submit``, at exact times: timeout, expires, delay, retries, require_slave, attach."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gloom.errors import IdExists, NoSlaves
from tests.support.floor import Floor, refused
from tests.support.recording import OK, Told, assigned, failed

REVOKED: Told = ("revoked", "j")


@pytest.fixture
def floor(new_floor: Callable[..., Floor]) -> Floor:
    return new_floor(retries=1)


# timeout


def test_an_attempt_that_takes_too_long_is_spent(floor: Floor) -> None:
    """Exactly at its timeout the job goes to another slave; the late answer of the first is thrown away."""
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
    """When all attempts took too long, the outcome names the timeout, its seconds and every attempt."""
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
    """A slave with an ended attempt gets nothing before it has answered; then it may get the very job again."""
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
            if slave.hand
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
    """An orphan is not tried again after its timeout: its id is free then, its slot is not."""
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


def test_the_loss_of_a_slave_with_an_ended_attempt_spends_no_second_one(floor: Floor) -> None:
    """A slave that disappears with an attempt that timed out spends no second one."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", timeout_seconds=1.0)
    floor.wait(1)
    slave.lost()
    floor.joined(name="next").respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_a_timeout_below_the_resolution_of_the_clock_ends(floor: Floor) -> None:
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
    """expires limits the wait only: a job in hand may take any time."""
    slave, master = floor.joined(), floor.master()
    master.submit("j", expires_seconds=2.0)
    floor.wait(1000)
    slave.respond()
    assert master.take() == [OK, ("answered", "j", b"1")]


def test_a_job_that_expires_at_once_needs_a_free_slave(floor: Floor) -> None:
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
    """When its delay is over, a job stands before the jobs that were submitted after it."""
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
    """A delayed job that is cancelled, or of a lost master, never begins, and its id is free at once."""
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
    """The retries of a submit count, and not the broker's default."""
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


# attach


def test_an_attach_changes_no_term_of_the_job(floor: Floor) -> None:
    """The other fields of an attaching submit are ignored: priority, timeout, delay, retries, require_slave."""
    floor.master().queue("first", "j")
    other = floor.master("other")
    other.submit("j", priority=9, attach=True, timeout_seconds=1.0, delay_seconds=9.0, retries=0, require_slave=True)
    slave = floor.joined()
    assert slave.hand == ["first"]
    slave.respond()
    floor.wait(100.0)
    slave.fail(retry=True)
    assert slave.hand == ["j"]
    slave.respond()
    assert other.take() == [OK, ("answered", "j", b"1")]


def test_attach_must_name_the_type_of_the_job(floor: Floor) -> None:
    """An attach with another type than the job's is refused: access rules decide by the type that it names."""
    floor.master().queue("j")
    other = floor.master("other")
    for type in ("mine", None):
        refused(floor, IdExists, "j", other.submit, "j", type, attach=True)
