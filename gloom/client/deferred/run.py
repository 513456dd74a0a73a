"""
One run of a job on a slave: where the job came from, and what will have its answer.
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

_current: ContextVar[Run] = ContextVar("the job in hand")


class Run:
    """
    One run of a job.

    Args:
        connection: The only connection that its answer may go to: the broker
            gives the job to another slave when that ends.
        job: The job.

    Attributes:
        deferred: Fires when the run has ended; None while it has not begun to wait.
        cancelled: Whether the slave has cancelled it, and no failure of it matters.
        revoked: Whether the broker has ended it.
        ended: Whether it has ended.
    """

    def __init__(self, connection: BrokerConnection, job: Assignment) -> None:
        self.connection = connection
        self.job = job
        self.deferred: Deferred[Any] | None = None
        self.cancelled = False
        self.revoked = False
        self.ended = False

    def begin(self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call *function*, and have `current_job` return this job in it, and in the coroutines that it starts."""
        before = _current.set(self)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(before)

    def max_answer_bytes(self) -> int:
        """Return how large the broker takes the answer, as JSON."""
        envelope = len(encode_request(ExtendedRespond(Raw(b"0"), self.job.id))) - 1
        return self.connection.max_frame_bytes - envelope

    def cancel(self) -> None:
        """End it; its Deferred's own canceller may raise anything."""
        if self.deferred is not None:
            self.deferred.cancel()

    def say(self, request: Request) -> None:
        """Tell the broker, unless the connection has ended and taken the job along."""
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
    The job that a function is at; `current_job` returns it.

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
        Tell the job's master how it gets on; once the job has ended, nothing is told.

        Args:
            value: Any value that JSON has.

        Raises:
            BodyError: It is not JSON, or larger than the broker takes.
        """
        self._run.tell(value)


def current_job() -> CurrentJob:
    """
    Return the job that the function which calls this is at.

    A coroutine may call it at any time; a function that returns a Deferred
    calls it before it returns, and keeps what it got.

    Raises:
        LookupError: No job is: it was not a slave that called the function.
    """
    try:
        return CurrentJob(_current.get())
    except LookupError:
        raise LookupError("there is no current job: no slave has called this function") from None
