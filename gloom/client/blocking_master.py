"""
Blocking masters; `gloom.client.blocking` is where to import them from, and says how calls end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from msgspec import Raw

from gloom.client.jobs import Batch, Job, body_of
from gloom.client.session import Outcome
from gloom.client.terms import batches, submission
from gloom.client.wire import Address, Connection, Deadline, deadline_after
from gloom.errors import RequestRefused, ServerError
from gloom.messages import Cancel, ExtendedSubmit, Ping, SubmitMany, encode_request
from gloom.settings import MASTER_PORT

if TYPE_CHECKING:
    from gloom.client.tls import ClientTLS

_LOOPBACK = "127.0.0.1"


class Master(Connection):
    """
    Submits jobs and receives their answers.

    Args:
        addr: The broker's master port, as for `Connection`.
        timeout: As for `Connection`.
        token: As for `Connection`.
        tls: As for `Connection`.
    """

    def __init__(
        self,
        addr: Address = (_LOOPBACK, MASTER_PORT),
        timeout: float | None = None,
        *,
        token: str | None = None,
        tls: ClientTLS | None = None,
    ) -> None:
        super().__init__(addr, timeout, token=token, tls=tls)

    def new_job_id(self) -> str:
        """Return an id that no other job has: 32 upper-case hexadecimal digits."""
        return os.urandom(16).hex().upper()

    def submit(
        self,
        id: str | int | None = None,
        type: str | None = None,
        body: Any = None,
        priority: int = 0,
        timeout: float | None = None,
        *,
        job_timeout: float | None = None,
        expires: float | None = None,
        delay: float | None = None,
        retries: int | None = None,
        require_slave: bool = False,
    ) -> str | int:
        """
        Submit a job and wait until the broker has accepted it.

        Outcomes that come meanwhile are kept for `receive`.

        Args:
            id: 1 to 255 characters or an integer, unique over the whole system
                while the job is in flight; made by `new_job_id` when absent.
            type: The job type, 1 to 255 characters; None for any slave.
            body: What the slave gets; any value that JSON has.
            priority: Signed 64 bits; larger first, equal ones by submission.
            job_timeout: Seconds that one attempt may run, over 0; None for no
                limit. (*timeout* is this call's own.)
            expires: Seconds that it may wait for a slave; None for no limit.
            delay: Seconds before it may start; None for none.
            retries: How often it is tried again, 0 to 100; None for the broker's default.
            require_slave: Refuse it, with ``no_slaves``, if no slave of the type has joined.

        Returns:
            The job's id.

        Raises:
            RequestRefused: The broker did not accept it; ``error`` says why.
            BodyError: *body* is not JSON; nothing was sent.
            TypeError: *id* is neither a string nor an integer; nothing was sent.
            ValueError: A term is out of its range; nothing was sent.
            TimedOut: No reply in time; the job may have been accepted, and
                then `receive` returns its outcome.
            TransportError: The connection has ended.
        """
        request = self._submit_request(id, type, body, priority, job_timeout, expires, delay, retries, require_slave)
        self._wire.ask(request, deadline_after(timeout))
        return request.id

    def submit_many(
        self, jobs: Iterable[Mapping[str, Any]], timeout: float | None = None
    ) -> list[str | int | RequestRefused]:
        """
        Submit many jobs together, and wait until the broker has decided on all.

        They leave in one frame where it holds them, in several otherwise; where
        this call times out, those of the first frames may be in flight.

        Args:
            jobs: One mapping a job: what `submit` takes but its *timeout*, all of it optional.

        Returns:
            One entry a job, in their order: its id, or why it was refused.

        Raises:
            BodyError: The body of one is not JSON; nothing was sent. So with
                TypeError and ValueError, as for `submit`.
            TimedOut: No reply in time.
            TransportError: The connection has ended.
        """
        deadline = deadline_after(timeout)
        requests = [self._submit_request(**job) for job in jobs]
        if not requests:
            return []
        # The reply to the hello before it says how large a frame may be.
        self._wire.ask(Ping(), deadline)
        encoded = [Raw(encode_request(request)) for request in requests]
        sizes = [len(memoryview(payload)) for payload in encoded]
        decided: list[str | int | RequestRefused] = []
        for part in batches(sizes, self._wire.max_frame_bytes):
            decided += self._submit_part(requests[part], encoded[part], deadline)
        return decided

    def _submit_part(
        self, requests: list[ExtendedSubmit], encoded: list[Raw], deadline: Deadline | None
    ) -> list[str | int | RequestRefused]:
        if len(requests) == 1:
            try:
                self._wire.ask(requests[0], deadline)
            except RequestRefused as error:
                return [error]
            return [requests[0].id]
        said = self._wire.ask(SubmitMany(encoded), deadline).message.jobs
        return [
            request.id if one.get("ok") is True else RequestRefused(one["error"], one.get("reason", ""), request.id)
            for request, one in zip(requests, said, strict=True)
        ]

    def cancel(self, id: str | int, timeout: float | None = None) -> str:
        """
        End a job of this master; its outcome, `JobFailed` with ``cancelled``, follows.

        Returns:
            ``"cancelled"`` for a job that waited, ``"cancelling"`` for one that ran.

        Raises:
            RequestRefused: No such job is in flight (``unknown_job``): it has its outcome already.
            TimedOut: No reply in time; the broker may have heard it.
            TransportError: The connection has ended.
        """
        return self._wire.ask(Cancel(id), deadline_after(timeout)).message.state or "cancelled"

    def _submit_request(
        self,
        id: str | int | None = None,
        type: str | None = None,
        body: Any = None,
        priority: int = 0,
        job_timeout: float | None = None,
        expires: float | None = None,
        delay: float | None = None,
        retries: int | None = None,
        require_slave: bool = False,
    ) -> ExtendedSubmit:
        if id is None:
            id = self.new_job_id()
        elif isinstance(id, bool) or not isinstance(id, str | int):
            raise TypeError(f"id must be a string or an integer, got {id!r}")
        return submission(id, type, body, priority, job_timeout, expires, delay, retries, require_slave)

    def receive(self, timeout: float | None = None) -> Job:
        """
        Wait for the next outcome of a job that was submitted.

        Returns:
            The answer, with the job's ``id`` and ``body``.

        Raises:
            JobFailed: The job ended without an answer; ``id`` says which.
            BodyError: The answer is more than Python reads; its text says whose.
            TimedOut: None came in time.
            TransportError: The connection has ended.
        """
        deadline = deadline_after(timeout)
        while not self._wire.outcomes:
            self._wire.pump(deadline)
        outcome = self._wire.outcomes.popleft()
        if outcome.error is not None:
            raise outcome.error
        return Job(id=outcome.id, body=body_of(outcome))

    @overload
    def do_many(
        self, jobs: Iterable[Mapping[str, Any]], timeout: float | None = None, *, window: int = ...
    ) -> Iterator[Job]: ...

    @overload
    def do_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        timeout: float | None = None,
        *,
        window: int = ...,
        return_errors: Literal[True],
    ) -> Iterator[Job | ServerError]: ...

    def do_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        timeout: float | None = None,
        *,
        window: int = 256,
        return_errors: bool = False,
    ) -> Iterator[Job | ServerError]:
        """
        Have many jobs done, and yield their answers as they come.

        At most *window* jobs are in flight, and *jobs* is read no faster than
        that: it may be endless. `submit`, `receive` and another `do_many` may
        be used between two answers; each gets its own.

        Where the iteration stops early, by an error or because it is given
        up, the jobs in flight still run, and what comes of them is thrown away.

        Args:
            jobs: One mapping a job: what `submit` takes but its *timeout*, all of it optional.
            timeout: Longest wait for each answer.
            window: How many jobs may be in flight, 1 or more.
            return_errors: Yield the error of a job that was refused or failed
                in its place, instead of raising it, and go on.

        Returns:
            An iterator of one `Job` for each of *jobs*.

        Raises:
            ValueError: *window* is less than 1.
            JobFailed: From the iterator, when a job ended without an answer.
            RequestRefused: From the iterator, when the broker did not accept a job.
            GloomError: From the iterator, as for `submit` and `receive`.
        """
        if window < 1:
            raise ValueError(f"window must be 1 or more, got {window}")
        return self._do_many(jobs, timeout, window, return_errors)

    def _do_many(
        self, jobs: Iterable[Mapping[str, Any]], timeout: float | None, window: int, return_errors: bool
    ) -> Iterator[Job | ServerError]:
        batch = Batch(self._wire)
        try:
            for job in jobs:
                batch.submit(self._submit_request(**job), deadline_after(timeout))
                # What has ended is not kept back by jobs that come slowly.
                batch.look()
                while batch.ended or batch.in_flight >= window:
                    yield self._ended(batch.next_ended(deadline_after(timeout)), return_errors)
            while batch.ended or batch.in_flight:
                yield self._ended(batch.next_ended(deadline_after(timeout)), return_errors)
        finally:
            batch.abandon()

    def _ended(self, ended: Outcome | ServerError, return_errors: bool) -> Job | ServerError:
        if isinstance(ended, Outcome):
            return Job(id=ended.id, body=body_of(ended))
        if return_errors:
            return ended
        raise ended
