"""`gloom.client.deferred.answers`: the iterator of `Master.map`."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from gloom.client.answer import Answer
from gloom.client.deferred.answers import Answers
from gloom.errors import BodyError, JobFailed, TransportError
from tests.support.farm import Farm, Firings


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


async def all_of(answers: Answers) -> list[Answer]:
    return [answer async for answer in answers]


def collected(farm: Farm, answers: Answers) -> list[Answer]:
    """Read *answers* to the end, and return them."""
    return farm.result(Deferred.fromCoroutine(all_of(answers)))  # type: ignore[no-any-return]


def next_of(answers: Answers) -> Deferred[Answer]:
    return Deferred.fromCoroutine(answers.__anext__())


class Jobs:
    """
    A `submit` for jobs that the test ends itself.

    Attributes:
        open: The Deferred of each body that was submitted and has not ended.
        submitted: Every body, in order.
    """

    def __init__(self) -> None:
        self.open: dict[Any, Deferred[Any]] = {}
        self.submitted: list[Any] = []

    def submit(self, body: Any) -> Deferred[Any]:
        self.submitted.append(body)
        job: Deferred[Any] = Deferred()
        self.open[body] = job
        job.addBoth(lambda result: (self.open.pop(body), result)[1])
        return job


def test_every_body_is_answered_as_completed(farm: Farm) -> None:
    """Each answer names the place of its body, and they come in the order in which slaves finish."""
    runs: dict[int, Deferred[Any]] = {}
    for _ in range(3):
        farm.slave("work", lambda n: runs.setdefault(n, Deferred()))
    seen = list[Answer]()

    async def read() -> None:
        async for answer in farm.master().map("work", [10, 20, 30]):
            seen.append(answer)

    done = Deferred.fromCoroutine(read())
    farm.advance()
    for n in (30, 10, 20):
        runs[n].callback(n + 1)
        farm.advance()
    farm.result(done)
    assert seen == [Answer(2, 31), Answer(0, 11), Answer(1, 21)]


def test_failures_in_between_do_not_end_it(farm: Farm) -> None:
    """A job that fails, or a body that JSON has not, is an answer with an error; result() raises it."""
    farm.slave("half", lambda n: 12 / n)
    bodies: list[Any] = [3, 0, object(), 4]
    answers = sorted(collected(farm, farm.master().map("half", bodies)), key=lambda answer: answer.index)
    assert [type(answer.error) for answer in answers] == [type(None), JobFailed, BodyError, type(None)]
    assert [answers[0].result(), answers[3].result()] == [4, 3]
    with pytest.raises(JobFailed, match="division by zero"):
        answers[1].result()


def test_the_priority_is_that_of_every_job(farm: Farm) -> None:
    """Jobs of a map with a higher priority go before others."""
    slave, master = farm.raw_slave("work"), farm.master()
    Firings().of([master.submit("work", "other") for _ in range(2)])
    farm.advance()
    done = Deferred.fromCoroutine(all_of(master.map("work", ["mine"], priority=1)))
    farm.advance()
    slave.ask({"action": "respond", "body": 1})
    slave.take()
    slave.ask({"action": "respond", "body": 2})
    assert [answer.value for answer in farm.result(done)] == [2]


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1000])
def test_the_window_is_never_exceeded(window: int) -> None:
    """A job counts from its submission until its answer has been taken, however jobs end and are taken."""
    jobs, pulls, held = Jobs(), list[Deferred[Answer]](), set[int]()
    answers = Answers(jobs.submit, range(500), window)
    for step in range(2000):
        if len(pulls) < 500 and (not pulls or (pulls[-1].called and step % 3)):
            pulls.append(next_of(answers))
        elif jobs.open:
            # The oldest, the newest, and some in between.
            body = list(jobs.open)[step * 7919 % len(jobs.open)]
            jobs.open[body].callback(body)
        held.add(len(jobs.submitted) - sum(pull.called for pull in pulls))
    for body in list(jobs.open):
        jobs.open[body].callback(body)
    assert max(held) == min(window, 500)
    taken = Firings().of(pulls).answers
    assert sorted(answer.value for _, answer in taken) == list(range(500))


def test_bodies_are_read_no_faster_than_the_window(farm: Farm) -> None:
    """So they may be endless; nothing is read before the first answer is asked for."""
    read = list[int]()

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield read[-1]

    farm.slave("echo", lambda body: body)
    answers = farm.master().map("echo", endless(), window=5)
    farm.advance()
    assert read == []
    assert farm.result(next_of(answers)).value == 0
    assert len(read) == 6
    farm.advance()
    assert len(read) == 6
    assert farm.result(next_of(answers)).value == 1
    assert len(read) == 7
    answers.cancel()


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_room_is_a_mistake(farm: Farm, window: int) -> None:
    """ValueError at the call, not a loop that never begins."""
    with pytest.raises(ValueError, match=f"window must be 1 or more, got {window}"):
        farm.master().map("echo", [1], window=window)


def test_bodies_that_are_none_are_a_mistake(farm: Farm) -> None:
    """The call raises TypeError if the bodies cannot be iterated over."""
    with pytest.raises(TypeError, match="not iterable"):
        farm.master().map("echo", 5)  # type: ignore[arg-type]


async def asynchronously(bodies: Any) -> AsyncIterator[Any]:
    for body in bodies:
        yield body


@pytest.mark.parametrize("iterable", [list, iter, asynchronously])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_bodies_may_come_from_any_iterable(farm: Farm, iterable: Callable[[Any], Any], count: int) -> None:
    """A list, a generator or an asynchronous one; also one that is empty."""
    farm.slave("echo", lambda body: body)
    answers = collected(farm, farm.master().map("echo", iterable(range(count)), window=7))
    assert answers == [Answer(n, n) for n in range(count)]


def test_bodies_may_come_later(farm: Farm) -> None:
    """While the next body is awaited, answers of the earlier ones are taken."""

    async def slowly() -> AsyncIterator[int]:
        for n in range(3):
            yield n
            await deferLater(farm.gloom.clock, 1)

    farm.slave("echo", lambda body: body)
    answers = farm.master().map("echo", slowly())
    for n in range(3):
        assert farm.result(next_of(answers)) == Answer(n, n)
        farm.advance(1)
    assert collected(farm, answers) == []


def test_bodies_that_come_later_fill_the_window(farm: Farm) -> None:
    """Slaves have work as soon as there is a body, whether or not anything was answered."""

    async def slowly() -> AsyncIterator[int]:
        for n in range(10):
            await deferLater(farm.gloom.clock, 1)
            yield n

    jobs = Jobs()
    answers = Answers(jobs.submit, slowly(), window=4)
    reading = Deferred.fromCoroutine(all_of(answers))
    for _ in range(20):
        farm.advance(1)
    assert jobs.submitted == [0, 1, 2, 3]
    answers.cancel()
    assert farm.result(reading) == []


def failing(error: Exception) -> Iterator[Any]:
    yield 0
    yield 1
    raise error


async def failing_later(error: Exception) -> AsyncIterator[Any]:
    for body in (0, 1):
        yield body
    raise error


@pytest.mark.parametrize("bodies", [failing, failing_later])
def test_bodies_that_fail_end_it_after_the_answers_that_are_due(farm: Farm, bodies: Callable[[Exception], Any]) -> None:
    """The submitted jobs are answered first; then the exception of the bodies is raised, once."""
    answers = farm.master().map("echo", bodies(OSError("the file is gone")), window=5)
    first, second = next_of(answers), next_of(answers)
    farm.advance()
    farm.slave("echo", lambda body: body)
    assert [farm.result(first), farm.result(second)] == [Answer(0, 0), Answer(1, 1)]
    with pytest.raises(OSError, match="the file is gone"):
        farm.result(next_of(answers))
    assert collected(farm, answers) == []


# Leaving early


def test_breaking_off_leaves_nothing_that_fails(farm: Farm) -> None:
    """After a break without cancel, the ends of the window's jobs log no error."""
    farm.slave("half", lambda n: 1 / n)
    master = farm.master()

    async def read_one() -> Answer:
        async for answer in master.map("half", [1, 0, 0, 0, 2], window=4):
            return answer
        raise AssertionError

    assert farm.result(Deferred.fromCoroutine(read_one())) == Answer(0, 1.0)
    farm.advance()
    assert master.unanswered == 0


def test_cancel_gives_up_the_unanswered_jobs(farm: Farm) -> None:
    """No body is read and no job awaited; ready answers may still be taken, then the iterator ends."""
    jobs = Jobs()
    answers = Answers(jobs.submit, range(100), window=3)
    first = next_of(answers)
    jobs.open[0].callback("a")
    assert farm.gloom.result(first) == Answer(0, "a")
    jobs.open[1].callback("b")
    answers.cancel()
    assert jobs.open == {}
    assert jobs.submitted == [0, 1, 2, 3]
    assert collected(farm, answers) == [Answer(1, "b")]
    answers.cancel()
    assert collected(farm, answers) == []


def test_cancel_wakes_a_waiting_reader(farm: Farm) -> None:
    """A reader that waits for the next answer is told that there is none."""
    master = farm.master()
    answers = master.map("nobody", [1, 2])
    reading = Deferred.fromCoroutine(all_of(answers))
    farm.advance()
    answers.cancel()
    assert farm.result(reading) == []
    assert master.unanswered == 0


def test_cancel_reaches_bodies_that_are_awaited(farm: Farm) -> None:
    """An asynchronous generator of bodies is cancelled where it waits, and tidies up."""
    tidied = list[bool]()

    async def bodies() -> AsyncIterator[int]:
        try:
            yield 0
            await deferLater(farm.gloom.clock, 1000)
            yield 1
        finally:
            tidied.append(True)

    farm.slave("echo", lambda body: body)
    answers = farm.master().map("echo", bodies())
    farm.result(next_of(answers))
    answers.cancel()
    assert tidied == [True]
    assert collected(farm, answers) == []


def test_cancel_ignores_a_body_that_comes_all_the_same(farm: Farm) -> None:
    """Bodies that do not care about being cancelled are not submitted any more."""
    gate: Deferred[None] = Deferred()

    async def bodies() -> AsyncIterator[int]:
        yield 0
        try:
            await gate
        except CancelledError:
            yield 1

    jobs = Jobs()
    answers = Answers(jobs.submit, bodies(), window=5)
    reading = Deferred.fromCoroutine(all_of(answers))
    answers.cancel()
    assert farm.gloom.result(reading) == []
    assert jobs.submitted == [0]


def cancelling(answers: list[Answers]) -> Iterator[int]:
    yield 0
    answers[0].cancel()
    yield 1


async def cancelling_later(answers: list[Answers]) -> AsyncIterator[int]:
    for body in cancelling(answers):
        yield body


@pytest.mark.parametrize("bodies", [cancelling, cancelling_later])
def test_cancel_may_come_out_of_the_bodies(farm: Farm, bodies: Callable[[list[Answers]], Any]) -> None:
    """The bodies themselves call it off: nothing more is submitted, and the reader ends."""
    jobs, made = Jobs(), list[Answers]()
    made.append(Answers(jobs.submit, bodies(made), window=5))
    assert collected(farm, made[0]) == []
    assert jobs.submitted == [0]
    assert jobs.open == {}


@pytest.mark.parametrize("iterable", [iter, asynchronously])
def test_cancel_may_come_out_of_an_answer_that_fails_at_once(farm: Farm, iterable: Callable[[Any], Any]) -> None:
    """The reader gives up at the first failure, which is there as soon as its body was read."""
    gate: Deferred[None] = Deferred()

    async def bodies() -> AsyncIterator[Any]:
        await gate
        for body in (object(), 1, 2):
            yield body

    master = farm.master()
    answers = master.map("echo", bodies())
    seen = list[Answer]()

    async def read() -> None:
        async for answer in answers:
            seen.append(answer)
            answers.cancel()

    reading = Deferred.fromCoroutine(read())
    gate.callback(None)
    farm.result(reading)
    assert [type(answer.error) for answer in seen] == [BodyError]
    assert master.unanswered == 0


def test_a_reader_that_is_cancelled_stops_the_window(farm: Farm) -> None:
    """Its jobs are cancelled at the broker, no more bodies are read, and nothing is left that fails."""
    master, slave = farm.master(), farm.raw_slave("echo")
    bodies = iter(range(100))
    answers = master.map("echo", bodies, window=5)
    reading = Deferred.fromCoroutine(all_of(answers))
    farm.advance()
    reading.cancel()
    with pytest.raises(CancelledError):
        farm.result(reading)
    assert master.unanswered == 0
    assert next(bodies) == 5
    slave.ask({"action": "respond", "body": 1})
    farm.advance()
    assert slave.take() == []
    assert farm.gloom.broker.unanswered == 0


def test_a_map_with_a_cancelled_reader_does_not_look_finished(farm: Farm) -> None:
    """A reader that goes on gets an error once: a time limit for one wait does not look like the end of the bodies."""
    answers = farm.master().map("nobody", [1])
    waiting = next_of(answers).addTimeout(1, farm.gloom.clock)
    farm.advance(1)
    with pytest.raises(defer.TimeoutError):
        farm.result(waiting)
    with pytest.raises(CancelledError, match="its reader was cancelled"):
        farm.result(next_of(answers))
    assert collected(farm, answers) == []


def test_one_of_two_readers_may_be_cancelled(farm: Farm) -> None:
    """The other one goes on, and gets everything."""
    answers = farm.master().map("echo", range(10), window=3)
    first, second = (Deferred.fromCoroutine(all_of(answers)) for _ in range(2))
    farm.advance()
    first.cancel()
    with pytest.raises(CancelledError):
        farm.result(first)
    farm.slave("echo", lambda body: body)
    assert sorted(answer.value for answer in farm.result(second)) == list(range(10))


@pytest.mark.parametrize("iterable", [iter, asynchronously])
@pytest.mark.parametrize("way", ["break", "raise", "drop", "async with", "aclose"])
def test_a_map_that_is_left_early_stops(farm: Farm, way: str, iterable: Callable[[Any], Any]) -> None:
    """However the loop is left: no job of it runs on, at the broker neither, and nothing fails unheard."""
    farm.slave("half", lambda n: 1 / n)
    waiting = farm.raw_slave("half")
    master = farm.master()

    async def read() -> None:
        answers = master.map("half", iterable([1, 0, 0, 0, 2]), window=4)
        if way == "async with":
            async with answers:
                assert (await anext(answers)).value == 1
                return
        async for _ in answers:
            if way == "raise":
                raise LookupError
            if way == "aclose":
                await answers.aclose()
                assert [answer async for answer in answers] == []
            break

    reading = Deferred.fromCoroutine(read() if way != "drop" else _read_one(master.map("half", [1, 2, 3], window=2)))
    farm.advance()
    if way == "raise":
        with pytest.raises(LookupError):
            farm.result(reading)
    else:
        farm.result(reading)
    gc.collect()
    farm.advance()
    assert master.unanswered == 0
    waiting.drop()
    farm.advance()
    assert farm.gloom.broker.unanswered == 0


async def _read_one(answers: Answers) -> None:
    await anext(answers)


def test_a_reader_that_is_dropped_stops_the_window(farm: Farm) -> None:
    """A coroutine that waits for an answer, and is thrown away with its Deferred."""
    jobs = Jobs()
    coroutine = all_of(Answers(jobs.submit, range(10), window=3))
    coroutine.send(None)
    assert len(jobs.open) == 3
    coroutine.close()
    assert jobs.open == {}


def test_aclose_drops_ready_answers(farm: Farm) -> None:
    """And the exception of the bodies, since the reader is gone."""
    answers = farm.master().map("echo", failing(OSError("gone")), window=5)
    first = next_of(answers)
    farm.slave("echo", lambda body: body)
    farm.result(first)
    farm.result(Deferred.fromCoroutine(answers.aclose()))
    assert collected(farm, answers) == []


def test_two_readers_share_the_answers(farm: Farm) -> None:
    """Each answer goes to one of them, and both end."""
    master = farm.master()
    answers = master.map("echo", range(100), window=3)
    readers = [Deferred.fromCoroutine(all_of(answers)) for _ in range(2)]
    farm.slave("echo", lambda body: body)
    read = [answer.value for reader in readers for answer in farm.result(reader)]
    assert sorted(read) == list(range(100))


def test_a_stopped_master_ends_each_job(farm: Farm) -> None:
    """Every body is answered with an error, without a recursion for a window of thousands."""
    master = farm.master()
    answers = master.map("echo", iter(range(6000)), window=5000)
    reading = Deferred.fromCoroutine(all_of(answers))
    farm.advance()
    farm.stop(master, 0)
    read = farm.result(reading)
    assert len(read) == 6000
    assert {type(answer.error) for answer in read} == {TransportError}


def test_asynchronous_bodies_of_a_stopped_master_do_not_recurse(farm: Farm) -> None:
    """Bodies and failures that are there at once are a loop, too."""
    master = farm.master()
    farm.stop(master, 0)
    read = collected(farm, master.map("echo", asynchronously(range(6000)), window=5000))
    assert [answer.index for answer in read] == list(range(6000))


def test_a_map_survives_the_broker(farm: Farm) -> None:
    """Connections drop and brokers die while it runs: every body is answered once."""
    farm.slave("echo", lambda body: body)
    reading = Deferred.fromCoroutine(all_of(farm.master().map("echo", range(1000), window=20)))
    for step in range(20):
        for _ in range(step % 5):
            farm.gloom.clock.advance(0)
            farm.gloom.master_endpoint.carry()
            farm.gloom.slave_endpoint.carry()
        (farm.crash if step % 2 else farm.drop)(0)
        farm.gloom.clock.advance(0.2)
    farm.advance(1)
    assert sorted(answer.value for answer in farm.result(reading)) == list(range(1000))
