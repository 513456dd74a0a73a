"""The terms of a Deferred master's jobs, and their progress and receipts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import formatEvent

from gloom.errors import BodyError, JobFailed, RequestRefused, TransportError
from gloom.settings import Settings
from tests.support.farm import Farm, Firings
from tests.support.logged import logged


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


def error_of(farm: Farm, deferred: Any) -> str:
    with pytest.raises((JobFailed, RequestRefused)) as raised:
        farm.result(deferred)
    return raised.value.error


# Terms


def test_an_attempt_may_run_no_longer_than_its_timeout(farm: Farm) -> None:
    """A slave that takes longer loses the job; without retries that is its end."""
    slave = farm.raw_slave("echo")
    late = farm.master().submit("echo", 1, timeout=5, retries=0)
    farm.advance(4.9)
    assert not late.called
    farm.advance(0.2)
    assert error_of(farm, late) == "timeout"
    slave.drop()


def test_a_job_may_wait_no_longer_than_it_expires(farm: Farm) -> None:
    """Where no slave takes it in time, it fails as expired."""
    waiting = farm.master().submit("echo", 1, expires=5)
    farm.advance(5.1)
    assert error_of(farm, waiting) == "expired"


def test_a_delayed_job_begins_later(farm: Farm) -> None:
    """No slave gets it before."""
    farm.slave("echo", lambda body: body)
    answer = farm.master().submit("echo", 1, delay=5)
    farm.advance(4.9)
    assert not answer.called
    farm.advance(0.2)
    assert farm.result(answer) == 1


def test_a_job_may_need_a_slave_that_is_there(farm: Farm) -> None:
    """Without one it is refused at once."""
    master = farm.master()
    assert error_of(farm, master.submit("echo", 1, require_slave=True)) == "no_slaves"
    farm.slave("echo", lambda body: body)
    assert farm.result(master.submit("echo", 1, require_slave=True)) == 1


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        ({"timeout": 0}, "timeout must be over 0, to 1e9 seconds, got 0"),
        ({"timeout": float("nan")}, "timeout must be over 0, to 1e9 seconds, got nan"),
        ({"expires": -1}, "expires must be 0 to 1e9 seconds, got -1"),
        ({"delay": 1e10}, "delay must be 0 to 1e9 seconds, got 10000000000.0"),
        ({"retries": 101}, "retries must be 0 to 100, got 101"),
        ({"on_receipt": print}, "on_receipt needs a master with receipts"),
    ],
)
def test_a_term_out_of_range_fails_the_deferred(farm: Farm, terms: Any, complaint: str) -> None:
    """Nothing is sent; `submit_many` says it of each job."""
    master = farm.master()
    with pytest.raises(ValueError, match=complaint):
        farm.result(master.submit("echo", 1, **terms))
    for one in master.submit_many("echo", [1, 2], **terms):
        with pytest.raises(ValueError, match=complaint):
            farm.result(one)
    assert master.unanswered == 0


def test_map_asks_the_same_for_each_job(farm: Farm) -> None:
    """Its keywords are those of submit."""
    answers = farm.master().map("echo", [1, 2], require_slave=True)
    told = farm.result(Deferred.fromCoroutine(answers.__anext__()))
    assert isinstance(told.error, RequestRefused)
    assert told.error.error == "no_slaves"
    answers.cancel()


# Progress and receipts


def test_progress_comes_in_order_before_the_answer(farm: Farm) -> None:
    """The slave's progress reaches the master's callback as values."""
    heard: list[Any] = []
    slave = farm.raw_slave("echo", extended=True)
    answer = farm.master().submit("echo", 1, id="a", on_progress=heard.append)
    farm.advance()
    for body in ({"done": 0.5}, None):
        slave.send({"action": "progress", "id": "a", "body": body})
    assert (heard, answer.called) == ([{"done": 0.5}, None], False)
    slave.send({"action": "respond", "id": "a", "body": 2})
    assert farm.result(answer) == 2


def test_progress_that_nobody_asked_for_is_let_go(farm: Farm) -> None:
    """A master without on_progress is not disturbed."""
    slave = farm.raw_slave("echo", extended=True)
    answer = farm.master().submit("echo", 1, id="a")
    farm.advance()
    slave.send({"action": "progress", "id": "a", "body": 1})
    slave.send({"action": "respond", "id": "a", "body": 2})
    assert farm.result(answer) == 2


def test_progress_that_cannot_be_read_is_logged(farm: Farm) -> None:
    """It is no reason to lose the answer."""
    heard: list[Any] = []
    slave = farm.raw_slave("echo", extended=True)
    master = farm.master(name="me")
    answer = master.submit("echo", 1, id="a", on_progress=heard.append)
    farm.advance()
    with logged("gloom.client") as events:
        slave.send(b'{"action":"progress","id":"a","body":' + b"9" * 5000 + b"}")
    assert [str(formatEvent(event))[:36] for event in events] == ["me: the progress of 'a' cannot be read"[:36]]
    slave.send({"action": "respond", "id": "a", "body": 2})
    assert (farm.result(answer), heard) == (2, [])


def test_a_function_that_fails_on_progress_does_not_harm_the_job(farm: Farm, logged_errors: Any) -> None:
    """Its error is logged, and the answer comes."""

    def on_progress(value: Any) -> None:
        raise LookupError(value)

    slave = farm.raw_slave("echo", extended=True)
    answer = farm.master().submit("echo", 1, id="a", on_progress=on_progress)
    farm.advance()
    slave.send({"action": "progress", "id": "a", "body": 1})
    slave.send({"action": "respond", "id": "a", "body": 2})
    assert farm.result(answer) == 2
    assert len(logged_errors(LookupError)) == 1


def test_a_receipt_says_how_the_job_went(farm: Farm) -> None:
    """It comes before the answer, to a master that asked for receipts."""
    receipts: list[Any] = []
    master = farm.master(receipts=True)
    answer = master.submit("echo", 1, on_receipt=receipts.append)
    answer.addCallback(lambda value: (value, len(receipts)))
    farm.advance(2)
    farm.slave("echo", lambda body: body, name="worker:1")
    assert farm.result(answer) == (1, 1)
    assert receipts[0] == {"queued": 2.0, "ran": 0.0, "attempts": 1, "slave": "worker:1"}


# Many at once


def test_many_jobs_leave_in_one_frame(farm: Farm) -> None:
    """One Deferred a body, in their order; one message carries them all."""
    farm.slave("half", lambda n: 1 / n)
    master = farm.master()
    answers = master.submit_many("half", [1, 0, 2, object()], priority=3)
    assert master.connection is not None
    assert [type(request).__name__ for request in master.connection._session.unanswered] == ["SubmitMany"]
    assert farm.result(answers[0]) == 1
    assert error_of(farm, answers[1]) == "job_failed"
    assert farm.result(answers[2]) == 0.5
    with pytest.raises(BodyError):
        farm.result(answers[3])


def test_many_jobs_are_split_where_a_frame_does_not_hold_them() -> None:
    """Jobs of any size arrive; one that is too large for any frame is refused alone."""
    with Farm(Settings(max_frame_bytes=1024)) as farm:
        farm.slave("echo", lambda body: body)
        bodies = ["x" * 100] * 30 + ["y" * 800] * 3 + ["z" * 2000]
        answers = farm.master().submit_many("echo", bodies)
        assert [farm.result(answer) for answer in answers[:-1]] == bodies[:-1]
        assert error_of(farm, answers[-1]) == "size_error"


def test_many_jobs_wait_for_the_connection(farm: Farm) -> None:
    """As those of submit do."""
    farm.slave("echo", lambda body: body)
    master = farm.master(start=False)
    answers = master.submit_many("echo", range(5))
    master.startService()
    assert [farm.result(answer) for answer in answers] == list(range(5))


def test_each_of_many_jobs_may_be_refused(farm: Farm) -> None:
    """A refusal of one job fails that job only."""
    jobs = farm.master().submit_many("echo", [1, 2], require_slave=True)
    assert [error_of(farm, one) for one in jobs] == ["no_slaves"] * 2
    assert farm.master().submit_many("echo", []) == []


# Cancelling


def test_a_cancelled_job_is_cancelled_at_the_broker(farm: Farm) -> None:
    """One that waits is never given to a slave; one that runs is taken from its slave, which is told."""
    slave = farm.gloom.slave()
    slave.ask({"action": "hello", "version": 1, "accept": ["cancel"]})
    slave.ask({"action": "join", "type": "echo"})
    master = farm.master()
    running, waiting = master.submit("echo", 1, id="running"), master.submit("echo", 2, id="waiting")
    farm.advance()
    slave.take()
    waiting.cancel()
    running.cancel()
    farm.advance()
    assert slave.take() == [{"action": "cancel", "id": "running"}]
    assert slave.ask({"action": "respond", "body": "late"}) == [{"ok": True}]
    broker = farm.gloom.broker
    assert broker.unanswered == 0
    for one in (running, waiting):
        with pytest.raises(CancelledError):
            farm.result(one)


def test_a_cancel_that_comes_too_late_harms_nothing(farm: Farm) -> None:
    """The job may have ended in the meantime; its outcome is dropped."""
    farm.slave("echo", lambda body: body)
    master = farm.master()
    transport = farm.gloom.master_endpoint.connections[-1]
    first = master.submit("echo", 1, id="x")
    transport.stalled = True
    farm.advance()
    first.cancel()
    second = master.submit("echo", 2, id="x")
    transport.stalled = False
    assert farm.result(second) == 2
    with pytest.raises(CancelledError):
        farm.result(first)


def test_a_cancelled_job_is_forgotten_with_its_connection(farm: Farm) -> None:
    """The broker's word on it will not come any more: its id may be used."""
    master = farm.master()
    first = master.submit("echo", 1, id="x")
    farm.advance()
    farm.gloom.master_endpoint.connections[-1].stalled = True
    first.cancel()
    second = master.submit("echo", 2, id="x")
    farm.drop()
    farm.slave("echo", lambda body: body)
    assert farm.result(second) == 2
    with pytest.raises(CancelledError):
        farm.result(first)


def test_cancelling_one_of_many_before_the_reply(farm: Farm) -> None:
    """The others are answered."""
    farm.slave("echo", lambda body: body)
    answers = farm.master().submit_many("echo", range(3))
    answers[1].cancel()
    assert [farm.result(answers[n]) for n in (0, 2)] == [0, 2]
    with pytest.raises(CancelledError):
        farm.result(answers[1])


# A broker that shuts down or is full


def test_a_broker_that_restarts_costs_only_time(farm: Farm) -> None:
    """Jobs that it refuses or gives up go out again with the next connection."""
    master = farm.master()
    queued = master.submit("echo", "queued")
    farm.advance()
    farm.gloom.broker.drain(farm.gloom.clock.seconds(), lambda: None)
    refused, many = master.submit("echo", "refused"), master.submit_many("echo", ["a", "b"])
    farm.advance()
    assert master.unanswered == 4
    farm.crash()
    farm.slave("echo", lambda body: body)
    assert [farm.result(one) for one in (queued, refused, *many)] == ["queued", "refused", "a", "b"]


def test_a_job_that_is_kept_may_be_cancelled(farm: Farm) -> None:
    """No broker has it: there is nobody to tell."""
    master = farm.master()
    farm.gloom.broker.drain(farm.gloom.clock.seconds(), lambda: None)
    refused = master.submit("echo", 1)
    farm.advance()
    refused.cancel()
    with pytest.raises(CancelledError):
        farm.result(refused)
    assert master.unanswered == 0


def test_that_the_broker_will_shut_down_is_logged(farm: Farm) -> None:
    """Nothing else comes of it: jobs go on, and the clients come back."""
    farm.slave("echo", lambda body: body, name="worker")
    farm.master(name="me")
    with logged("gloom.client") as events:
        farm.gloom.masters.quiet()
        farm.gloom.slaves.quiet()
        farm.advance()
    assert [str(formatEvent(event)) for event in events] == [
        "me: the broker is about to shut down",
        "worker: the broker is about to shut down",
    ]


def test_a_full_broker_refuses_one_job() -> None:
    """`submit` says so at once."""
    with Farm(Settings(max_jobs=2, master_share=0.5)) as farm:
        master = farm.master()
        first, second = master.submit("echo", 1), master.submit("echo", 2)
        assert error_of(farm, second) == "busy"
        farm.slave("echo", lambda body: body)
        assert farm.result(first) == 1


def test_map_waits_for_a_full_broker() -> None:
    """Its window may be larger than the broker's limit: no job is lost or refused."""
    with Farm(Settings(max_jobs=4, master_share=0.5)) as farm:
        farm.slave("slow", lambda body: deferLater(farm.gloom.clock, 1, lambda: body))

        async def values() -> list[int]:
            return [answer.result() async for answer in farm.master().map("slow", range(5), window=5)]

        mapped = Deferred.fromCoroutine(values())
        for _ in range(100):
            farm.advance(1)
        assert sorted(farm.result(mapped)) == list(range(5))


def test_stopping_ends_the_wait_for_a_full_broker() -> None:
    """No timer is left, and the job fails as the others do."""
    with Farm(Settings(max_jobs=2, master_share=0.5)) as farm:
        master = farm.master()
        firings = Firings().of([master.submit_patiently("echo", n) for n in range(3)])
        farm.advance()
        assert firings.answers == []
        farm.stop(master)
        assert [type(error) for error in firings.failures()] == [TransportError] * 3


def test_the_wait_for_a_full_broker_may_be_cancelled() -> None:
    """As a job may be."""
    with Farm(Settings(max_jobs=2, master_share=0.5)) as farm:
        master = farm.master()
        first, waiting = master.submit("echo", 0), master.submit_patiently("echo", 1)
        farm.advance()
        waiting.cancel()
        with pytest.raises(CancelledError):
            farm.result(waiting)
        farm.slave("echo", lambda body: body)
        assert farm.result(first) == 0
