"""
The answers of many jobs, as completed, with a bounded window: the result of `Master.map`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Self

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gloom.client.answer import Answer
from gloom.client.arguments import checked_number


class Answers:
    """
    An asynchronous iterator of `Answer` as completed.

    The first request for an answer begins to read and submit bodies; from then
    on they are read when there is room in the window. A job takes room until
    its answer has been taken, so that neither a slow slave nor a slow reader
    lets memory grow. An exception of the bodies' iterator is raised after the
    answers of the jobs before it.

    The iterator stops, and cancels the unanswered jobs, when `aclose` or `cancel`
    is called, at the end of ``async with``, when its reader is cancelled while it
    waits, and when the last reference to the iterator goes (a loop was left early).

    Args:
        submit: Submits one job; its Deferred fires with the answer.
        bodies: The bodies of the jobs.
        window: The number of jobs that may be open at a time.

    Raises:
        ValueError: *window* is less than 1.
        TypeError: *bodies* cannot be iterated over, or *window* is no integer.
    """

    def __init__(
        self, submit: Callable[[Any], Deferred[Any]], bodies: Iterable[Any] | AsyncIterable[Any], window: int
    ) -> None:
        # Jobs in flight refer to the window only, so that a loop that was left early frees this iterator.
        self._window = _Window(submit, bodies, checked_number("window", window, 1))

    def __aiter__(self) -> Answers:
        return self

    async def __anext__(self) -> Answer:
        return await self._window.next()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_window"):  # else its arguments were wrong
            self._window.cancel()

    def cancel(self) -> None:
        """Read no more bodies, and cancel the unanswered jobs; answers that are ready may still be taken."""
        self._window.cancel()

    async def aclose(self) -> None:
        """Stop as `cancel` does, and drop the answers that are ready; a waiting reader sees the end."""
        self._window.close()


class _Window:
    """The bodies, the jobs in flight and the answers of an `Answers`, which is the public interface."""

    def __init__(
        self, submit: Callable[[Any], Deferred[Any]], bodies: Iterable[Any] | AsyncIterable[Any], window: int
    ) -> None:
        self._submit = submit
        self._read = self._way_to_read(bodies)
        self._window = window
        self._index = 0
        self._in_flight: dict[int, Deferred[Any]] = {}
        self._ready: deque[Answer] = deque()
        # The next body of an asynchronous iterator, while it is awaited.
        self._reading: Deferred[Any] | None = None
        self._filling = False
        self._exhausted = False
        self._broken: BaseException | None = None
        self._readers: list[Deferred[None]] = []

    async def next(self) -> Answer:
        """Wait for the next answer; StopAsyncIteration after the last."""
        self._fill()
        while not self._ready:
            if self._exhausted and not self._in_flight:
                self._raise_end()
            await self._news()
        answer = self._ready.popleft()
        # Before it returns, so that the slaves work while the reader does.
        self._fill()
        return answer

    async def _news(self) -> None:
        news: Deferred[None] = Deferred()
        self._readers.append(news)
        try:
            await news
        except BaseException:
            # The reader was cancelled, or dropped.
            if news in self._readers:
                self._readers.remove(news)
            if not self._readers:
                self._reader_left()
            raise

    def _reader_left(self) -> None:
        """Stop, because the only reader was cancelled; if it reads on, it gets an error and not the end."""
        self.cancel()
        self._broken = CancelledError("the map was stopped, because its reader was cancelled")

    def close(self) -> None:
        """Stop as `cancel` does, and drop the answers that are ready and the exception of the bodies."""
        self.cancel()
        self._ready.clear()
        self._broken = None

    def cancel(self) -> None:
        """As `Answers.cancel`."""
        self._exhausted = True
        in_flight, self._in_flight = self._in_flight, {}
        for deferred in in_flight.values():
            deferred.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self._tell()

    def _raise_end(self) -> None:
        broken, self._broken = self._broken, None
        raise StopAsyncIteration if broken is None else broken

    # Bodies in

    def _fill(self) -> None:
        """Submit while there is room; a loop, since a recursion would go as deep as answers come at once."""
        if self._filling:
            return
        self._filling = True
        try:
            while not self._exhausted and self._reading is None and self._has_room():
                self._read()
        finally:
            self._filling = False

    def _has_room(self) -> bool:
        return len(self._in_flight) + len(self._ready) < self._window

    def _way_to_read(self, bodies: Iterable[Any] | AsyncIterable[Any]) -> Callable[[], None]:
        if isinstance(bodies, AsyncIterable):
            return partial(self._read_later, aiter(bodies))
        return partial(self._read_now, iter(bodies))

    def _read_now(self, bodies: Iterator[Any]) -> None:
        try:
            body = next(bodies)
        except StopIteration:
            self._exhausted = True
        except Exception:
            self._bodies_ended(Failure())
        else:
            # The user's iterator may have cancelled the map.
            self._body_came(body)

    def _read_later(self, bodies: AsyncIterator[Any]) -> None:
        self._reading = Deferred.fromCoroutine(_next_of(bodies))
        self._reading.addCallbacks(self._body_came, self._bodies_ended)

    def _body_came(self, body: Any) -> None:
        self._reading = None
        if not self._exhausted:
            self._start(body)
            self._fill()

    def _bodies_ended(self, failure: Failure) -> None:
        self._reading = None
        if not self._exhausted and not failure.check(StopAsyncIteration):
            self._broken = failure.value
        self._exhausted = True
        self._tell()

    # Answers out

    def _start(self, body: Any) -> None:
        index, self._index = self._index, self._index + 1
        deferred = self._in_flight[index] = self._submit(body)
        deferred.addCallbacks(
            lambda value: self._completed(Answer(index, value)),
            lambda failure: self._completed(Answer(index, error=failure.value)),
        )

    def _completed(self, answer: Answer) -> None:
        if self._in_flight.pop(answer.index, None) is not None:  # else it was given up
            self._ready.append(answer)
            self._tell()

    def _tell(self) -> None:
        readers, self._readers = self._readers, []
        for news in readers:
            news.callback(None)


async def _next_of(bodies: AsyncIterator[Any]) -> Any:
    return await anext(bodies)
