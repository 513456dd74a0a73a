"""
One run of a job on a Deferred slave, and `current_job` inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from msgspec import Raw
from twisted.internet.defer import Deferred

from gloom.client.deferred.connection import BrokerConnection
from gloom.client.session import Assignment
from gloom.errors import BodyError
from gloom.wire.bodies import encode_body
from gloom.wire.messages import ExtendedRespond, Progress, Request, encode_request

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_current: ContextVar[Run] = ContextVar("the current job")


class Run:
    """
    One run of a job.

    Args:
        connection: The connection that the job came from. The answer may go to no other: when
            it ends, the broker gives the job to another slave.
        job: The job.

    Attributes:
        deferred: Fires when the function has ended; None before the function has returned it.
        cancelled: Whether the slave has cancelled the run; then it reports no failure.
        revoked: Whether the broker has ended the attempt.
        ended: Whether the run has ended.
    """

    def __init__(self, connection: BrokerConnection, job: Assignment) -> None:
        self.connection = connection
        self.job = job
        self.deferred: Deferred[Any] | None = None
        self.cancelled = False
        self.revoked = False
        self.ended = False

    def begin(self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call *function* such that `current_job` returns this job, in it and in the coroutines that it starts."""
        before = _current.set(self)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(before)

    def max_answer_bytes(self) -> int:
        """Return the size of the largest answer that the broker takes, as JSON."""
        envelope = len(encode_request(ExtendedRespond(Raw(b"0"), self.job.id))) - 1
        return self.connection.max_frame_bytes - envelope

    def cancel(self) -> None:
        """Cancel the run's Deferred; a user's canceller may raise anything."""
        if self.deferred is not None:
            self.deferred.cancel()

    def say(self, request: Request) -> None:
        """Send *request*, unless the connection has ended: then the job is another slave's."""
        if not self.connection.closed:
            self.connection.ask(request)

    def tell(self, value: Any) -> None:
        """As `CurrentJob.progress`."""
        body = encode_body(value)
        request = Progress(body, self.job.id)
        too_large = self.connection.oversize(request, body)
        if too_large is not None:
            raise BodyError(f"the progress makes {too_large}")
        if not self.ended and not self.revoked:
            self.say(request)


class CurrentJob:
    """
    The job that the slave's function is doing; `current_job` returns it.

    Attributes:
        id: The job's id.
        type: The job type, or None for an untyped job.
    """

    __slots__ = ("_run", "id", "type")

    def __init__(self, run: Run) -> None:
        self.id = run.job.id
        self.type = run.job.type
        self._run = run

    def progress(self, value: Any) -> None:
        """
        Send progress to the job's master; nothing is sent after the job has ended.

        Args:
            value: Any value that JSON has.

        Raises:
            BodyError: *value* is not JSON, or larger than the broker takes.
        """
        self._run.tell(value)


def current_job() -> CurrentJob:
    """
    Return the job of the slave's function that calls this.

    A coroutine may call it at any time; a function that returns a Deferred
    must call it before it returns, and keep the result.

    Raises:
        LookupError: The caller was not called by a slave.
    """
    try:
        return CurrentJob(_current.get())
    except LookupError:
        raise LookupError("there is no current job: no slave has called this function") from None
