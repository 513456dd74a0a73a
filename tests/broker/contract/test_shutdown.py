"""Draining and abandoning, and the calls that a broker asks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gloom.errors import Draining, IdExists
from tests.support.floor import Floor, refused
from tests.support.recording import OK, assigned, failed


@pytest.fixture
def floor(new_floor: Callable[..., Floor]) -> Floor:
    return new_floor(retries=1)


# Draining


def test_a_drain_ends_waiting_jobs(floor: Floor) -> None:
    """Queued and delayed jobs end as draining at once, jobs in hand finish, new ones are refused."""
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
    """The broker is drained at once when only waiting jobs were in flight."""
    floor.master().queue("j")
    floor.drain()
    assert floor.drained == 1


@pytest.mark.parametrize(("spent", "error"), [(False, "draining"), (True, "job_failed")])
def test_an_attempt_that_ends_while_draining_is_the_last(floor: Floor, spent: bool, error: str) -> None:
    """A job of a lost slave is not tried again; if its attempts are spent, the outcome says so."""
    slave, master = floor.joined(), floor.master().queue("j", retries=0 if spent else 5)
    floor.drain()
    slave.lost()
    assert [one[1::2] for one in failed(master.take())] == [(error, ["lost"])]
    assert floor.drained == 1


def test_a_drain_waits_for_an_orphan(floor: Floor) -> None:
    """A drain waits for an orphan, too: its slave is at work."""
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


def test_jobs_still_in_hand_are_abandoned(floor: Floor) -> None:
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


def test_attaching_to_a_job_in_hand_goes_on_while_draining(floor: Floor) -> None:
    """A master that comes back during a shutdown finds its job in hand, and gets its answer."""
    slave = floor.joined()
    floor.master("lost").queue("j").lost()
    floor.drain()
    master = floor.master("back")
    master.submit("j", attach=True)
    slave.respond()
    assert master.take() == [OK, ("answered", "j", b"1")]
    assert floor.drained == 1


def test_many_jobs_end_in_order_while_draining(floor: Floor) -> None:
    """However many jobs wait, each has its outcome, the oldest first, and no slave begins one, delayed or not."""
    busy = floor.joined(name="busy")
    master = floor.master().queue("in hand", *range(2500)).queue("delayed", delay_seconds=1.0)
    floor.drain()
    late = floor.joined(name="late")
    busy.take()
    busy.respond()
    floor.now = 1.0
    floor.wait(0.0)
    assert (late.take(), busy.take()) == ([], [OK])
    ended = [one[:2] for one in failed(master.take())]
    ended.remove(("delayed", "draining"))  # at the end of its delay, if that comes first
    assert ended == [(id, "draining") for id in range(2500)]
    assert floor.drained == 1


def test_abandoning_without_a_drain_ends_everything(floor: Floor) -> None:
    """A broker that is told to give up at once gives every job its outcome, waiting or not."""
    floor.joined()
    master = floor.master().queue("in hand", "queued")
    floor.broker.abandon(floor.now)
    assert [one[0] for one in failed(master.take())] == ["in hand", "queued"]
    assert floor.broker.unanswered == 0


# The alarm


def test_the_alarm_is_set_for_the_first_deadline(floor: Floor) -> None:
    """The broker asks to be called at the first of its deadlines, in any order of their setting."""
    master, alarms = floor.master(), []
    for id, seconds in ((1, 20.0), (2, 10.0), (3, 30.0), (4, 5.0)):
        master.submit(id, delay_seconds=seconds)
        alarms.append(floor.alarm)
    assert alarms == [20.0, 10.0, 10.0, 5.0]
    assert floor.broker.deadline_passed(5.0) == 10.0
    assert floor.broker.deadline_passed(100.0) is None


def test_deadlines_that_passed_together_are_handled_in_order(floor: Floor) -> None:
    """A broker that is called late handles all deadlines that have passed, the earliest first."""
    master = floor.master()
    for id, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        master.submit(id, delay_seconds=seconds)
    slaves = [floor.joined(name=name) for name in "xyz"]
    assert floor.broker.deadline_passed(60.0) is None
    assert [slave.take() for slave in slaves] == [[assigned("a")], [assigned("b")], [assigned("c")]]
