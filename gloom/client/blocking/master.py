"""
Blocking masters. Import them from `gloom.client.blocking`, which explains timeouts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from msgspec import UNSET, Raw

from gloom.client.arguments import checked_flag, checked_id, checked_number
from gloom.client.blocking.base import Address, Connection
from gloom.client.blocking.deadline import Deadline, Timeout
from gloom.client.blocking.jobs import Job, body_of
from gloom.client.blocking.many import ManyJobs
from gloom.client.options import Credentials
from gloom.client.terms import batches, submission
from gloom.errors import BodyError, RequestRefused, ServerError
from gloom.settings import MASTER_PORT
from gloom.wire.messages import Cancel, ExtendedSubmit, Ping, SubmitMany, encode_request

_LOOPBACK = "127.0.0.1"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _warns_of_two_unnamed(
    submit: Callable[Concatenate[Master, Arguments], Result],
) -> Callable[Concatenate[Master, Arguments], Result]:
    """Have *submit* warn of a call with two unnamed arguments, an id and a type, and no body."""

    @wraps(submit)
    def warning(master: Master, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if len(args) == 2 and "body" not in kwargs:
            text = f"submit({args[0]!r:.60}, {args[1]!r:.60}) is a job with that id and that type, and no body"
            warnings.warn(f"{text}; name them: submit(type=..., body=...) or submit(id=..., type=...)", stacklevel=2)
        return submit(master, *args, **kwargs)

    return warning


class Master(Connection):
    """
    Submits jobs and receives their answers.

    Args:
        addr: The broker's master port, as for `Connection`.
        timeout: As for `Connection`.
        options: As for `Connection`.
    """

    def __init__(
        self,
        addr: Address = (_LOOPBACK, MASTER_PORT),
        timeout: float | None = None,
        **options: Unpack[Credentials],
    ) -> None:
        super().__init__(addr, timeout, **options)

    def new_job_id(self) -> str:
        """Return a unique id: 32 upper-case hexadecimal digits."""
        return os.urandom(16).hex().upper()

    @_warns_of_two_unnamed
    def submit(
        self,
        id: str | int | None = None,
        type: str | None = None,
        body: Any = None,
        priority: int = 0,
        timeout: Timeout = UNSET,
        *,
        job_timeout: float | None = None,
        expires: float | None = None,
        delay: float | None = None,
        retries: int | None = None,
        require_slave: bool = False,
    ) -> str | int:
        """
        Submit a job and wait until the broker has accepted it.

        Outcomes that come in the meantime are kept for `receive`.

        The order of the arguments is that of 2009: the first two are the id and
        the type. A call with just two unnamed arguments warns, because
        ``submit("echo", "hello")`` looks like a type and a body.

        Args:
            id: 1 to 255 characters or an integer, unique over the whole system
                while the job is in flight; by default one of `new_job_id`.
            type: The job type, 1 to 255 characters; None for any slave.
            body: The job's body; any value that JSON has.
            priority: As in `gloom.client.terms.Terms`.
            timeout: The time limit of this call, not of the job.
            job_timeout: As ``timeout`` in `gloom.client.terms.Terms`.
            expires: As in `gloom.client.terms.Terms`.
            delay: As in `gloom.client.terms.Terms`.
            retries: As in `gloom.client.terms.Terms`.
            require_slave: As in `gloom.client.terms.Terms`.

        Returns:
            The job's id.

        Raises:
            RequestRefused: The broker did not accept it; ``error`` is the code.
            BodyError: *body* is not JSON; nothing was sent.
            TypeError: An argument is of another kind; nothing was sent.
            ValueError: An argument is out of its range; nothing was sent.
            TimedOut: No reply in time; the job may have been accepted, and
                then `receive` returns its outcome.
            TransportError: The connection has ended.
        """
        request = self._submit_request(id, type, body, priority, job_timeout, expires, delay, retries, require_slave)
        self._wire.ask(request, self._deadline(timeout))
        return request.id

    def submit_many(
        self, jobs: Iterable[Mapping[str, Any]], timeout: Timeout = UNSET
    ) -> list[str | int | RequestRefused]:
        """
        Submit many jobs together, and wait until the broker has accepted or refused each.

        They are sent in as few frames as the broker's limit allows. If this call
        times out, the jobs of the first frames may be in flight.

        Args:
            jobs: One mapping for each job: the arguments of `submit` without *timeout*, all optional.

        Returns:
            One entry for each job, in order: its id, or the error with which the broker refused it.

        Raises:
            BodyError: The body of a job is not JSON; nothing was sent. TypeError and
                ValueError likewise, as for `submit`.
            TimedOut: No reply in time.
            TransportError: The connection has ended.
        """
        deadline = self._deadline(timeout)
        requests = [self._submit_request(**job) for job in jobs]
        if not requests:
            return []
        # The broker's limit for a frame is in the reply to hello, which comes before this one's.
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

    def cancel(self, id: str | int, timeout: Timeout = UNSET) -> str:
        """
        Cancel a job of this master; its outcome, `JobFailed` with ``cancelled``, follows.

        Returns:
            ``"cancelled"`` for a job in the queue, ``"cancelling"`` for a running one.

        Raises:
            RequestRefused: No such job is in flight (``unknown_job``): it has its outcome already.
            TimedOut: No reply in time; the broker may have cancelled it.
            TransportError: The connection has ended.
        """
        return self._wire.ask(Cancel(checked_id(id)), self._deadline(timeout)).message.state or "cancelled"

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
        return submission(
            id,
            type,
            body,
            priority=priority,
            timeout=job_timeout,
            expires=expires,
            delay=delay,
            retries=retries,
            require_slave=require_slave,
        )

    def receive(self, timeout: Timeout = UNSET) -> Job:
        """
        Wait for the next outcome of a submitted job.

        Returns:
            The answer: the job's ``id``, and the answer as ``body``.

        Raises:
            JobFailed: A job ended without an answer; ``id`` is its id.
            BodyError: Python cannot read the answer; ``id`` is the job's.
            TimedOut: None came in time.
            TransportError: The connection has ended.
        """
        outcome = self._wire.next_outcome(self._deadline(timeout))
        if outcome.error is not None:
            raise outcome.error
        return Job(id=outcome.id, body=body_of(outcome))

    @overload
    def do_many(
        self, jobs: Iterable[Mapping[str, Any]], timeout: Timeout = UNSET, *, window: int = ...
    ) -> Iterator[Job]: ...

    @overload
    def do_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        timeout: Timeout = UNSET,
        *,
        window: int = ...,
        return_errors: Literal[True],
    ) -> Iterator[Job | ServerError | BodyError]: ...

    def do_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        timeout: Timeout = UNSET,
        *,
        window: int = 256,
        return_errors: bool = False,
    ) -> Iterator[Job | ServerError | BodyError]:
        """
        Submit many jobs, and yield their answers as they come.

        At most *window* jobs are in flight, and *jobs* is read no faster than
        that, so it may be endless. `submit`, `receive` and another `do_many` may
        be used between two answers; each gets its own.

        A wait for the next answer that times out loses nothing: call ``next``
        on the iterator again. When the iteration stops early, because of another
        error or because the iterator is dropped, the jobs in flight still run,
        and their outcomes are dropped.

        Args:
            jobs: One mapping for each job: the arguments of `submit` without *timeout*, all optional.
            timeout: Longest wait for each answer, in seconds.
            window: Number of jobs that may be in flight, 1 or more.
            return_errors: Whether to yield the error of a job in place of its answer, and go on, instead
                of raising it: the job was refused, it failed, or its answer cannot be read.

        Returns:
            An iterator of one `Job` for each of *jobs*.

        Raises:
            ValueError: *window* is less than 1.
            TimedOut: From the iterator; the next wait goes on.
            JobFailed: From the iterator, when a job ended without an answer.
            RequestRefused: From the iterator, when the broker did not accept a job.
            GloomError: From the iterator, as for `submit` and `receive`.
        """
        checked_number("window", window, 1)
        checked_flag("return_errors", return_errors)
        self._deadline(timeout)  # raises at the call, if the timeout is wrong
        # Not a generator: an interrupt would end it, and the next call of next would see the end of the jobs.
        requests = map(lambda job: self._submit_request(**job), jobs)  # noqa: C417
        return ManyJobs(self._wire, requests, partial(self._deadline, timeout), window, return_errors)
