"""
The answers of many jobs with a bounded window, as completed or in order: the result of `Master.map`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Self

from gloom.client.aio.jobs import Job, Jobs
from gloom.client.answer import Answer
from gloom.client.arguments import checked_number
from gloom.errors import GloomError
from gloom.wire.messages import ExtendedSubmit

Watchers = tuple[Callable[[Any], object] | None, Callable[[Any], object] | None]


class Answers:
    """
    An asynchronous iterator of `Answer`, as completed or in the order of the bodies.

    Nothing is read or submitted before the first answer is asked for. From
    then on bodies are read when there is room in the window: a job counts until
    its answer has been taken, so that neither a slow slave nor a slow reader
    lets memory grow. An exception of the bodies themselves is raised after the
    answers that are due.

    It stops, and cancels the unanswered jobs, when its reader is cancelled
    while it waits, when the last reference to it goes (a loop that was left
    early), and at the end of ``async with``; and when `aclose` or `cancel` is called.

    Args:
        jobs: The jobs of the master.
        request: Makes the request for a body.
        watchers: Called with the progress and the receipt of each job.
        bodies: What the jobs get.
        window: How many jobs may be open at a time.
        ordered: Whether answers come in the order of the bodies.
        loop: The event loop of the master.

    Raises:
        ValueError: *window* is less than 1.
        TypeError: *bodies* cannot be iterated over, or *window* is no integer.
    """

    def __init__(
        self,
        jobs: Jobs,
        request: Callable[[Any], ExtendedSubmit],
        watchers: Watchers,
        bodies: Iterable[Any] | AsyncIterable[Any],
        window: int,
        ordered: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._loop = loop
        # A separate object: jobs in flight refer to the window, and no object of gloom to this iterator.
        self._window = _Window(jobs, request, watchers, bodies, checked_number("window", window, 1), ordered, loop)

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> Answer:
        return await self._window.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_window") and self._window.is_open:
            # The garbage collector runs in any thread, and perhaps after the loop has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._window.cancel)

    def cancel(self) -> None:
        """Read no more bodies, and cancel the unanswered jobs; answers that are ready may still be taken."""
        self._window.cancel()

    async def aclose(self) -> None:
        """Stop as `cancel` does, and drop the answers that are ready; a reader that waits for one gets none."""
        await self._window.close()


class _Mapped(Job):
    """A job whose outcome the window takes."""

    __slots__ = ("index", "window")

    index: int
    window: _Window

    def resolve(self, answer: Any) -> None:
        self.window.completed(Answer(self.index, answer))

    def reject(self, error: Exception) -> None:
        self.window.completed(Answer(self.index, error=error))


class _Window:
    """Bodies in, answers out, with a bounded number of jobs in between; `Answers` is its public face."""

    def __init__(
        self,
        jobs: Jobs,
        request: Callable[[Any], ExtendedSubmit],
        watchers: Watchers,
        bodies: Iterable[Any] | AsyncIterable[Any],
        window: int,
        ordered: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._jobs = jobs
        self._request = request
        self._watchers = watchers
        self._window = window
        self._ordered = ordered
        self._loop = loop
        # One of the two is None.
        self._later = aiter(bodies) if isinstance(bodies, AsyncIterable) else None
        self._now: Iterator[Any] | None = None if isinstance(bodies, AsyncIterable) else iter(bodies)
        # The task that reads asynchronous bodies, once it has begun; and its wait for room.
        self._reader: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._index = 0
        self._taken = 0
        self._in_flight: dict[int, _Mapped] = {}
        # By index; oldest completion first.
        self._ready: dict[int, Answer] = {}
        self._filling = False
        self._exhausted = False
        self._broken: BaseException | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_open(self) -> bool:
        """Whether jobs are unanswered, or a task reads bodies."""
        return bool(self._in_flight) or (self._reader is not None and not self._reader.done())

    async def next(self) -> Answer:
        """Wait for the next answer; StopAsyncIteration after the last."""
        self._fill()
        while (answer := self._take()) is None:
            if self._exhausted and not self._in_flight:
                self._raise_end()
            await self._news()
        # Now, so that slaves work while the reader does.
        self._fill()
        return answer

    def _take(self) -> Answer | None:
        if not self._ready:
            return None
        index = next(iter(self._ready))
        if self._ordered:
            index = self._taken
            if index not in self._ready:
                if self._in_flight:
                    return None
                index = min(self._ready)  # a cancel has left gaps
            self._taken = index + 1
        return self._ready.pop(index)

    async def _news(self) -> None:
        news: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(news)
        try:
            await news
        except BaseException:
            # The reader was cancelled, or dropped.
            if news in self._waiting:
                self._waiting.remove(news)
            if not self._waiting:
                self._reader_left()
            raise

    def _reader_left(self) -> None:
        """Stop: nobody waits for the answers. A reader that goes on gets an error, not the end of the bodies."""
        self.cancel()
        self._broken = RuntimeError("the map was stopped, because its reader was cancelled")

    async def close(self) -> None:
        """Stop as `cancel` does, and drop the answers that are ready and the exception of the bodies."""
        self.cancel()
        self._ready.clear()
        self._broken = None
        if self._reader is not None:
            await asyncio.wait([self._reader])
            self._broken = None

    def cancel(self) -> None:
        """As `Answers.cancel`."""
        self._exhausted = True
        in_flight, self._in_flight = self._in_flight, {}
        for job in in_flight.values():
            self._jobs.cancel(job)
        if self._reader is not None:
            self._reader.cancel()
        self._tell()

    def _raise_end(self) -> None:
        broken, self._broken = self._broken, None
        raise StopAsyncIteration if broken is None else broken

    # Bodies in

    def _fill(self) -> None:
        """Submit while there is room; a loop and not a recursion, whatever completes at once."""
        if self._later is not None:
            self._fill_later(self._later)
        elif not self._filling:
            self._filling = True
            try:
                while self._now is not None and not self._exhausted and self._has_room():
                    self._read_now(self._now)
            finally:
                self._filling = False

    def _has_room(self) -> bool:
        return len(self._in_flight) + len(self._ready) < self._window

    def _read_now(self, bodies: Iterator[Any]) -> None:
        try:
            body = next(bodies)
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            self._exhausted = True
            self._broken = error
        else:
            # Reading it may have cancelled all.
            if not self._exhausted:
                self._start(body)

    def _fill_later(self, bodies: AsyncIterator[Any]) -> None:
        if self._reader is None and not self._exhausted:
            self._reader = self._loop.create_task(self._read_later(bodies), name="gloom map: bodies")
        elif self._room is not None and self._has_room() and not self._room.done():
            self._room.set_result(None)

    async def _read_later(self, bodies: AsyncIterator[Any]) -> None:
        try:
            while not self._exhausted:
                while not self._has_room():
                    self._room = self._loop.create_future()
                    await self._room
                body = await anext(bodies)
                if not self._exhausted:
                    self._start(body)
        except StopAsyncIteration:
            pass
        except Exception as error:
            # After a cancel nobody asks.
            if not self._exhausted:
                self._broken = error
        finally:
            self._exhausted = True
            self._tell()

    # Answers out

    def _start(self, body: Any) -> None:
        index, self._index = self._index, self._index + 1
        try:
            job = _Mapped(self._request(body), *self._watchers, is_patient=True)
        except (GloomError, TypeError, ValueError) as error:
            self._ready[index] = Answer(index, error=error)
            self._tell()
            return
        job.index, job.window = index, self
        self._in_flight[index] = job
        self._jobs.submit(job)

    def completed(self, answer: Answer) -> None:
        """Take the outcome of a job."""
        if self._in_flight.pop(answer.index, None) is not None:  # else it was cancelled
            self._ready[answer.index] = answer
            self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news in waiting:
            if not news.done():
                news.set_result(None)
