"""
Many jobs of a blocking master, a bounded number at a time: the iterator of `Master.do_many`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gloom.client.blocking.connection import Wire
from gloom.client.blocking.deadline import Deadline
from gloom.client.blocking.jobs import Batch, Job, body_of
from gloom.client.session import Outcome
from gloom.errors import BodyError, ServerError, TimedOut
from gloom.wire.messages import ExtendedSubmit


class ManyJobs(Iterator[Job | ServerError | BodyError]):
    """
    An iterator over the answers of many jobs, as they come.

    A wait that times out loses nothing: asked again, it goes on where it was.
    Any other exception ends it. Jobs that are in flight when it ends, or when
    its last reference goes, still run; their outcomes are thrown away.

    Args:
        wire: How they are submitted.
        requests: The jobs; read no faster than the window has room.
        deadline: Returns the end of a wait that begins now.
        window: How many jobs may be in flight.
        return_errors: Whether the error of a job is yielded, and not raised.
    """

    def __init__(
        self,
        wire: Wire,
        requests: Iterator[ExtendedSubmit],
        deadline: Callable[[], Deadline | None],
        window: int,
        return_errors: bool,
    ) -> None:
        self._wire = wire
        self._requests = requests
        self._deadline = deadline
        self._window = window
        self._return_errors = return_errors
        self._batch = Batch(wire)
        # The request that was read and has not begun to be sent.
        self._request: ExtendedSubmit | None = None
        self._exhausted = False
        self._ended = False

    def __next__(self) -> Job | ServerError | BodyError:
        try:
            return self._next()
        except TimedOut:
            raise
        except Exception:  # StopIteration is one
            self.close()
            raise

    def close(self) -> None:
        """Submit no more, and throw away the outcomes that still come."""
        self._ended = True
        self._request = None
        self._batch.abandon()

    def __del__(self) -> None:
        self.close()

    def _next(self) -> Job | ServerError | BodyError:
        if self._ended:
            raise StopIteration
        # What has ended is not kept back by jobs that come slowly.
        while not self._batch.ended:
            if self._has_another():
                self._submit()
            elif self._batch.in_flight:
                self._batch.wait(self._deadline())
            else:
                raise StopIteration
        return self._told(self._batch.ended.popleft())

    def _has_another(self) -> bool:
        """Return whether a job is read that has room in the window."""
        if self._request is None and not self._exhausted and self._batch.in_flight < self._window:
            self._request = next(self._requests, None)
            self._exhausted = self._request is None
        return self._request is not None

    def _submit(self) -> None:
        deadline = self._deadline()
        # A time-out in here leaves the request for the next call; once it has begun, the batch has it.
        self._wire.make_ready(deadline)
        request, self._request = self._request, None
        if request is not None:
            self._batch.submit(request, deadline)
            self._batch.look()

    def _told(self, ended: Outcome | ServerError | BodyError) -> Job | ServerError | BodyError:
        try:
            if isinstance(ended, Outcome):
                return Job(id=ended.id, body=body_of(ended))
            raise ended
        except (ServerError, BodyError) as error:
            if self._return_errors:
                return error
            raise
