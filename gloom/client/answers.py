"""
The answers of many jobs, as completed, with a bounded window: what `Master.map` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Answer(Struct, frozen=True):
    """
    How one job of a `Master.map` ended.

    Attributes:
        index: The place of its body among the bodies, from 0.
        value: The answer; None where the job failed.
        error: Why it failed, or None.
    """

    index: int
    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


class Answers:
    """
    An asynchronous iterator of `Answer` as completed.

    Bodies are read when there is room in the window: a job counts until its
    answer has been taken, so that neither a slow slave nor a slow reader lets
    memory grow.

    Args:
        submit: Has one job done; its Deferred fires with the answer.
        bodies: What the jobs get.
        window: How many jobs may be open at a time.

    Raises:
        ValueError: *window* is less than 1.
    """

    def __init__(
        self, submit: Callable[[Any], Deferred[Any]], bodies: Iterable[Any] | AsyncIterable[Any], window: int
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 or more, got {window}")
        self._submit = submit
        self._bodies = bodies
        self._window = window
        self._in_flight: dict[int, Deferred[Any]] = {}
        self._ready: deque[Answer] = deque()
        self._feeding: Deferred[None] | None = None
        self._exhausted = False
        self._broken: Exception | None = None
        # Each has at most one side that waits: the feed for room, the reader for news.
        self._room: Deferred[None] | None = None
        self._news: Deferred[None] | None = None

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> Answer:
        if self._feeding is None:
            self._feeding = Deferred.fromCoroutine(self._feed())
        while not self._ready:
            if self._exhausted and not self._in_flight:
                if self._broken is not None:
                    broken, self._broken = self._broken, None
                    raise broken
                raise StopAsyncIteration
            self._news = Deferred()
            await self._news
        answer = self._ready.popleft()
        if self._room is not None:
            room, self._room = self._room, None
            room.callback(None)
        return answer

    def cancel(self) -> None:
        """Read no more bodies, and give up what is unanswered; what is ready may still be taken."""
        self._exhausted = True
        in_flight, self._in_flight = self._in_flight, {}
        for deferred in in_flight.values():
            deferred.cancel()
        if self._feeding is not None:
            self._feeding.cancel()
        self._tell()

    async def _feed(self) -> None:
        index = 0
        try:
            async for body in _each(self._bodies):
                self._start(index, body)
                index += 1
                while len(self._in_flight) + len(self._ready) >= self._window:
                    self._room = Deferred()
                    await self._room
        except Exception as error:
            # The bodies could not be read on: the reader is told after the answers that are due.
            if not self._exhausted:
                self._broken = error
        self._exhausted = True
        self._tell()

    def _start(self, index: int, body: Any) -> None:
        deferred = self._submit(body)
        self._in_flight[index] = deferred
        deferred.addCallbacks(
            lambda value: self._completed(Answer(index, value)),
            lambda failure: self._failed(index, failure),
        )

    def _failed(self, index: int, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, Exception):
            failure.raiseException()
        self._completed(Answer(index, error=error))

    def _completed(self, answer: Answer) -> None:
        if self._in_flight.pop(answer.index, None) is not None:  # else it was given up
            self._ready.append(answer)
            self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            news, self._news = self._news, None
            news.callback(None)


async def _each(bodies: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(bodies, AsyncIterable):
        async for body in bodies:
            yield body
    else:
        for body in bodies:
            yield body
