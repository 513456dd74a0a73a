"""
The iterator of `Master.do_many`: many jobs of a blocking master, a bounded number at a time.
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

    A wait that times out loses nothing: the next one goes on. Any other
    exception ends the iterator. Jobs that are in flight when it ends, or when
    its last reference goes, still run; their outcomes are dropped.

    Args:
        wire: Submits the jobs.
        requests: The jobs; read no faster than the window has room.
        deadline: Returns the end of a wait that begins now.
        window: Number of jobs that may be in flight.
        return_errors: Whether the error of a job is yielded instead of raised.
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
        # A request that was read, and of which nothing was sent.
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
        """Submit no more jobs, and drop the outcomes that have not come yet."""
        self._ended = True
        self._request = None
        self._batch.abandon()

    def __del__(self) -> None:
        self.close()

    def _next(self) -> Job | ServerError | BodyError:
        if self._ended:
            raise StopIteration
        # An outcome is yielded before the next job is read, which may come slowly.
        while not self._batch.ended:
            if self._has_another():
                self._submit()
            elif self._batch.in_flight:
                self._batch.wait(self._deadline())
            else:
                raise StopIteration
        return self._told(self._batch.ended.popleft())

    def _has_another(self) -> bool:
        """Return whether there is a next job, and room for it in the window."""
        if self._request is None and not self._exhausted and self._batch.in_flight < self._window:
            self._request = next(self._requests, None)
            self._exhausted = self._request is None
        return self._request is not None

    def _submit(self) -> None:
        deadline = self._deadline()
        # If this times out, the next call sends the request.
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
