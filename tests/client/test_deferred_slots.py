"""Deferred slaves with several types and slots, their progress, and jobs that are cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from gloom.client.deferred import CurrentJob, Slave, current_job
from gloom.errors import BodyError, JobFailed
from gloom.settings import Settings
from gloom.wire.framebuffer import to_frame
from tests.client.test_deferred_slave import Stubborn, Work
from tests.support.farm import Farm


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


def test_a_slave_may_have_several_types(farm: Farm) -> None:
    """It gets the jobs of each, in the order of all."""
    bodies: list[int] = []
    master = farm.master()
    for number, type in enumerate("abcab"):
        master.submit(type, number).addErrback(lambda _: None)
    farm.slave(["a", "b"], bodies.append)
    assert bodies == [0, 1, 3, 4]
    farm.slave("c", bodies.append)
    assert bodies == [0, 1, 3, 4, 2]


def test_a_slave_has_as_many_jobs_at_once_as_it_has_slots(farm: Farm) -> None:
    """Over one connection; each answer makes room for another job."""
    work = Work()
    farm.slave("echo", work, slots=3)
    answers = farm.master().submit_many("echo", range(5))
    farm.advance()
    assert work.bodies == [0, 1, 2]
    work.runs[1].callback("one")
    assert farm.result(answers[1]) == "one"
    assert work.bodies == [0, 1, 2, 3]
    for run in (2, 0, 3):
        work.runs[run].callback(run)
    farm.advance()
    work.runs[4].callback(4)
    assert [farm.result(answers[n]) for n in (0, 2, 3, 4)] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"type": "a", "slots": 0}, "slots must be 1 to 1000, got 0"),
        ({"type": "a", "slots": 1001}, "slots must be 1 to 1000, got 1001"),
        ({"type": []}, "type must be one or a list of 1 to 1000, got 0"),
        ({"type": ["a", ""]}, "type must be 1 to 255 characters, got 0"),
    ],
)
def test_an_invalid_join_is_refused_by_the_client(farm: Farm, arguments: Any, complaint: str) -> None:
    """When the slave is made."""
    with pytest.raises(ValueError, match=complaint):
        Slave(farm.gloom.slave_endpoint, function=str, reactor=farm.gloom.clock, **arguments)


def test_stopping_finishes_every_job_in_hand(farm: Farm) -> None:
    """Not the first one only."""
    work = Work()
    slave = farm.slave("echo", work, slots=2)
    answers = farm.master().submit_many("echo", range(2))
    farm.advance()
    stopped = slave.stopService()
    work.runs[0].callback(0)
    farm.advance()
    assert not stopped.called
    work.runs[1].callback(1)
    farm.advance(2)
    farm.result(stopped)
    assert [farm.result(answer) for answer in answers] == [0, 1]


# Progress


def progressing(farm: Farm, kind: str) -> Any:
    """Return a function of a kind that tells twice of its job."""

    def plain(body: Any) -> str:
        for value in (1, {"of": body}):
            current_job().progress(value)
        return current_job().id  # type: ignore[return-value]

    def deferred(body: Any) -> Deferred[Any]:
        job = current_job()
        job.progress(1)
        later = deferLater(farm.gloom.clock, 1, job.progress, {"of": body})
        return later.addCallback(lambda _: job.id)

    async def coroutine(body: Any) -> Any:
        current_job().progress(1)
        await deferLater(farm.gloom.clock, 1)
        current_job().progress({"of": body})
        return current_job().id

    return {"plain": plain, "deferred": deferred, "coroutine": coroutine}[kind]


@pytest.mark.parametrize("kind", ["plain", "deferred", "coroutine"])
def test_a_function_tells_how_its_job_gets_on(farm: Farm, kind: str) -> None:
    """Each of several jobs at once tells of its own."""
    farm.slave("tell", progressing(farm, kind), slots=3)
    heard: dict[int, list[Any]] = {n: [] for n in range(3)}
    master = farm.master()
    answers = [master.submit("tell", n, id=f"job {n}", on_progress=heard[n].append) for n in range(3)]
    farm.advance(1)
    assert [farm.result(answer) for answer in answers] == [f"job {n}" for n in range(3)]
    assert heard == {n: [1, {"of": n}] for n in range(3)}


def test_the_current_job_says_which_it_is(farm: Farm) -> None:
    """Its id and its type."""
    farm.slave(["a", "b"], lambda body: [current_job().id, current_job().type])
    assert farm.result(farm.master().submit("b", None, id=7)) == [7, "b"]


def test_there_is_no_current_job_outside_a_function() -> None:
    """A function that no slave called gets an error that says so."""
    with pytest.raises(LookupError, match="no slave has called this function"):
        current_job()


def test_progress_that_is_not_json_or_too_large_is_the_functions_error() -> None:
    """Sent, it would end the connection."""

    def function(body: Any) -> Any:
        errors = []
        for value in (object(), "x" * 3000):
            try:
                current_job().progress(value)
            except BodyError as error:
                errors.append(str(error)[:25])
        return errors

    with Farm(Settings(max_frame_bytes=1024)) as farm:
        farm.slave("tell", function)
        assert farm.result(farm.master().submit("tell", 1)) == [
            "not JSON: Encoding object",
            "the progress makes a fram",
        ]


def test_progress_after_the_end_is_not_sent(farm: Farm) -> None:
    """Nor is that of a connection that has gone."""
    jobs: list[CurrentJob] = []
    heard: list[Any] = []
    farm.slave("tell", lambda body: jobs.append(current_job()))
    answer = farm.master().submit("tell", 1, on_progress=heard.append)
    farm.result(answer)
    jobs[0].progress("late")
    farm.drop()
    jobs[0].progress("later")
    farm.advance()
    assert heard == []


# Jobs that the broker ends


def test_a_cancelled_job_is_cancelled_in_its_slave(farm: Farm) -> None:
    """Its Deferred or coroutine is, and the slot is free for the next."""
    ended: list[str] = []

    async def function(body: Any) -> Any:
        if body == "quick":
            return body
        try:
            return await Deferred()
        except CancelledError:
            ended.append(body)
            raise

    farm.slave("wait", function)
    master = farm.master()
    first, second = master.submit("wait", "long"), master.submit("wait", "quick")
    farm.advance()
    first.cancel()
    assert farm.result(second) == "quick"
    assert ended == ["long"]
    with pytest.raises(CancelledError):
        farm.result(first)


def test_only_the_job_that_was_cancelled_is(farm: Farm) -> None:
    """Others of the same slave go on."""
    work = Work()
    farm.slave("echo", work, slots=2)
    first, second = farm.master().submit_many("echo", ["first", "second"])
    farm.advance()
    first.addErrback(lambda failure: failure.trap(CancelledError) and None).cancel()
    farm.advance()
    assert [run.called for run in work.runs] == [True, False]
    work.runs[1].callback("done")
    assert farm.result(second) == "done"


def test_an_attempt_that_took_too_long_is_cancelled_in_its_slave(farm: Farm) -> None:
    """And the answer of the late attempt never answers the next one."""
    work = Stubborn()
    farm.slave("echo", work)
    answer = farm.master().submit("echo", 1, timeout=5, retries=1)
    farm.advance(5.1)
    assert (work.cancelled, len(work.runs)) == (1, 1)
    work.runs[0].callback(None)  # "too late"
    farm.advance()
    assert len(work.runs) == 2
    work.runs[1].callback("in time")
    assert farm.result(answer) == "in time"


def test_a_deferred_that_cannot_be_cancelled_is_in_the_log(farm: Farm, logged_errors: Any) -> None:
    """The slave has it until it ends."""

    def canceller(deferred: Deferred[Any]) -> None:
        raise LookupError("no")

    work = Work(canceller)
    farm.slave("echo", work)
    answer = farm.master().submit("echo", 1).addErrback(lambda failure: failure.trap(CancelledError) and None)
    farm.advance()
    answer.cancel()
    farm.advance()
    assert len(logged_errors(LookupError)) == 1
    work.runs[0].callback(None)


def test_a_cancelled_job_of_a_plain_function_has_ended(farm: Farm) -> None:
    """It held the reactor: the cancel comes after its answer, and is no error."""
    farm.slave("echo", lambda body: body)
    answer = farm.master().submit("echo", 1)
    assert farm.result(answer) == 1
    slave = farm.services[0]
    assert slave.connection is not None

    slave.connection.dataReceived(to_frame(b'{"action":"cancel","id":"gone"}'))
    assert farm.result(farm.master().submit("echo", 2)) == 2


def test_a_failure_is_still_a_failure(farm: Farm) -> None:
    """With several slots as with one."""
    farm.slave("half", lambda n: 1 / n, slots=5)
    with pytest.raises(JobFailed, match="ZeroDivisionError"):
        farm.result(farm.master().submit("half", 0))


def test_a_long_failure_beside_another_job_names_its_own() -> None:
    """Cut to the broker's limit, it still names its job."""
    with Farm(Settings(max_frame_bytes=1024)) as farm:
        work = Work()
        farm.slave("work", work, slots=2)
        first, second = farm.master().submit_many("work", range(2))
        farm.advance()
        work.runs[0].errback(ValueError("x" * 5000))
        with pytest.raises(JobFailed, match=r"ValueError: x{50}$"):
            farm.result(first)
        work.runs[1].callback("done")
        assert farm.result(second) == "done"
