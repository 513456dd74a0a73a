"""`gloom.client.aio.Master.map` and a real broker in a process of its own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gloom.client.aio import Answers
from gloom.errors import BodyError, JobFailed, TransportError
from tests.support.aio import echo, master, run, slave, until
from tests.support.daemon import Daemon


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("broker")).start()
    yield daemon
    daemon.kill()


class Gate:
    """A function that holds its jobs until it may go on."""

    def __init__(self) -> None:
        self.seen = list[Any]()
        self.cancelled = list[Any]()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, body: Any) -> Any:
        self.seen.append(body)
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(body)
            raise
        return body


async def later(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


async def slow_evens(n: int) -> int:
    """Take longer for even numbers."""
    await asyncio.sleep(0.02 if n % 2 == 0 else 0)
    return n


@pytest.mark.parametrize("kind", [range, later])
@pytest.mark.parametrize("ordered", [False, True])
def test_every_body_is_answered(broker: Daemon, kind: Any, ordered: bool) -> None:
    """As completed, or in the order of the bodies."""

    async def main() -> list[int]:
        async with slave(broker, "slow", slow_evens, slots=10), master(broker) as one:
            answers = one.map("slow", kind(40), window=7, ordered=ordered)
            return [answer.index async for answer in answers if answer.result() == answer.index]

    indexes = run(main())
    assert sorted(indexes) == list(range(40))
    assert (indexes == sorted(indexes)) is ordered


def test_failures_in_between_do_not_end_it(broker: Daemon) -> None:
    """Each answer is a value or an error, also one of a body that cannot be sent."""

    async def half(n: Any) -> Any:
        return n / 2

    async def main() -> list[Any]:
        async with slave(broker, "half", half), master(broker) as one:
            answers = [answer async for answer in one.map("half", [2, "x", {1}, 4], ordered=True)]
            with pytest.raises(JobFailed):
                answers[1].result()
            return answers

    answers = run(main())
    assert [answer.value for answer in answers] == [1, None, None, 2]
    assert [type(answer.error) for answer in answers] == [type(None), JobFailed, BodyError, type(None)]


@pytest.mark.parametrize("ordered", [False, True])
def test_bodies_are_read_no_faster_than_the_window(broker: Daemon, ordered: bool) -> None:
    """Unanswered jobs count, and answers that nobody has taken."""
    read = list[int]()

    def bodies() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    async def main() -> None:
        async with slave(broker, "echo", echo, slots=8), master(broker) as one:
            answers = one.map("echo", bodies(), window=5, ordered=ordered)
            assert read == []
            for taken in range(1, 30):
                await anext(answers)
                await until(lambda: one.unanswered == 0)
                assert len(read) == taken + 5
            await answers.aclose()

    run(main())


@pytest.mark.parametrize("fails_at", [0, 3])
@pytest.mark.parametrize("is_async", [False, True])
def test_bodies_that_fail_end_it_after_the_answers_that_are_due(broker: Daemon, fails_at: int, is_async: bool) -> None:
    """Their own exception is raised, once."""

    def failing() -> Iterator[int]:
        yield from range(fails_at)
        raise KeyError("bodies")

    async def failing_later() -> AsyncIterator[int]:
        for number in failing():
            yield number

    async def main() -> None:
        async with slave(broker, "echo", echo), master(broker) as one:
            answers, seen = one.map("echo", failing_later() if is_async else failing()), list[int]()
            with pytest.raises(KeyError, match="bodies"):
                async for answer in answers:
                    seen.append(answer.value)
            assert sorted(seen) == list(range(fails_at))
            with pytest.raises(StopAsyncIteration):
                await anext(answers)

    run(main())


@pytest.mark.parametrize("way", ["break", "aclose", "async with", "cancel"])
@pytest.mark.parametrize("kind", [range, later])
def test_a_map_that_is_left_early_stops(broker: Daemon, way: str, kind: Any) -> None:
    """Its jobs are cancelled at the broker, and nothing is left running."""

    async def main() -> None:
        gate = Gate()
        async with slave(broker, "gate", gate, slots=10), slave(broker, "echo", echo), master(broker) as one:

            async def leave(answers: Answers) -> None:
                if way == "async with":
                    async with answers:
                        await anext(answers)
                elif way == "break":
                    async for _ in answers:
                        break
                else:
                    await anext(answers)
                    await until(lambda: len(gate.seen) == 4)
                    if way == "cancel":
                        answers.cancel()
                    else:
                        await answers.aclose()

            answers = one.map("gate", kind(1000), window=4)
            first = asyncio.create_task(leave(answers))
            del answers
            await until(lambda: len(gate.seen) == 4)
            gate.open()
            await first
            del first
            gc.collect()
            await until(lambda: one.unanswered == 0)
            assert await one.submit("echo", 1) == 1

    run(main())


def test_a_reader_that_is_cancelled_stops_the_map(broker: Daemon) -> None:
    """The jobs are cancelled; going on raises an error, not the end of the bodies."""

    async def main() -> None:
        gate = Gate()
        async with slave(broker, "gate", gate, slots=10), master(broker) as one:
            answers = one.map("gate", range(1000), window=4)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(answers)
            assert one.unanswered == 0
            with pytest.raises(RuntimeError, match="its reader was cancelled"):
                await anext(answers)
            with pytest.raises(StopAsyncIteration):
                await anext(answers)
            await until(lambda: sorted(gate.cancelled) == sorted(gate.seen))

    run(main())


def test_two_readers_share_the_answers(broker: Daemon) -> None:
    """Each answer goes to one of them; one that is cancelled leaves the map to the other."""

    async def main() -> list[int]:
        gate = Gate()
        async with slave(broker, "gate", gate, slots=4), master(broker) as one:
            answers, taken = one.map("gate", range(20), window=4), list[int]()

            async def read() -> None:
                async for answer in answers:
                    taken.append(answer.value)

            readers = [asyncio.create_task(read()) for _ in range(3)]
            await until(lambda: len(gate.seen) == 4)
            readers[0].cancel()
            gate.open()
            await asyncio.gather(*readers[1:])
        return taken

    assert sorted(run(main())) == list(range(20))


def test_a_cancel_leaves_what_is_ready(broker: Daemon) -> None:
    """In order, with the gaps of the cancelled jobs."""

    async def odd(n: int) -> int:
        if n % 2 == 0:
            await asyncio.Event().wait()
        return n

    async def main() -> list[int]:
        async with slave(broker, "odd", odd, slots=6), master(broker) as one:
            answers = one.map("odd", range(100), window=6, ordered=True)
            reader = asyncio.create_task(anext(answers))
            await until(lambda: one.unanswered == 3)
            answers.cancel()
            first = await reader
            return [first.value] + [answer.value async for answer in answers]

    assert run(main()) == [1, 3, 5]


def test_a_stopped_master_ends_each_job(broker: Daemon) -> None:
    """Each of the window has its error, and then each body that is read after it."""

    async def main() -> list[Any]:
        async with master(broker) as one:
            answers = one.map("nobody", range(6), window=3)
            reader = asyncio.create_task(anext(answers))
            await until(lambda: one.unanswered == 3)
        return [await reader] + [answer async for answer in answers]

    answers = run(main())
    assert [type(answer.error) for answer in answers] == [TransportError] * 6


def test_a_map_that_was_never_read_leaves_nothing(broker: Daemon) -> None:
    """Nothing is read or submitted before the first answer is asked for."""

    async def main() -> None:
        async with master(broker) as one:
            one.map("nobody", later(5))
            await one.map("nobody", range(5)).aclose()
            assert one.unanswered == 0

    run(main())
