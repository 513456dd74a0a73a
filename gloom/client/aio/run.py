"""
One run of a job on an asyncio slave: the job, the connection for its answer, and its state.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from enum import Enum
from typing import Any

from gloom.client.aio.connection import BrokerConnection
from gloom.client.session import Assignment
from gloom.errors import BodyError
from gloom.wire.bodies import encode_body
from gloom.wire.messages import Progress, Request

current: ContextVar[Run] = ContextVar("the job in hand")


class RunState(Enum):
    """The life of a run."""

    RUNNING = "the function runs"
    REVOKED = "the broker has ended the attempt; the slot is taken until the function ends"
    ABANDONED = "the slave has given it up; its answer goes nowhere"
    ENDED = "the function has ended"


class Run:
    """
    One run of a job.

    Args:
        connection: The only connection that its answer may go to: the broker
            gives the job to another slave when that ends.
        job: The job.
        loop: The event loop of the slave; this is its thread.

    Attributes:
        task: The task that waits for the function.
        threaded: The function in its thread, while it runs there; else None.
        state: Its state.
    """

    __slots__ = ("_loop", "_thread", "connection", "job", "state", "task", "threaded")

    task: asyncio.Task[None]

    def __init__(self, connection: BrokerConnection, job: Assignment, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.job = job
        self.threaded: Future[Any] | None = None
        self.state = RunState.RUNNING
        self._loop = loop
        self._thread = threading.get_ident()

    def cancel(self, state: RunState, ended: Callable[[Run], None]) -> None:
        """
        Cancel the function; one that runs in a thread goes on to its end.

        Args:
            state: The reason.
            ended: Called when the task has ended: one that is cancelled before it begins cannot tell.
        """
        if self.state is RunState.ENDED:
            return
        self.state = state
        if self.threaded is not None:
            self.threaded.cancel()  # if it has not begun
        else:
            self.task.add_done_callback(lambda _: ended(self))
            self.task.cancel()

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
        if threading.get_ident() == self._thread:
            self._tell(request)
        else:
            with suppress(RuntimeError):  # the loop was closed: nobody hears it
                self._loop.call_soon_threadsafe(self._tell, request)

    def _tell(self, request: Request) -> None:
        if self.state is RunState.RUNNING:
            self.say(request)


class CurrentJob:
    """
    The job of the function that runs; `current_job` returns it.

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

        May be called in the function's thread and in the event loop.

        Args:
            value: Any value that JSON has.

        Raises:
            BodyError: It is not JSON, or larger than the broker takes.
        """
        self._run.tell(value)


def current_job() -> CurrentJob:
    """
    Return the job of the function that calls this, at any time, in a coroutine or in its thread.

    Raises:
        LookupError: No job is: it was not a slave that called the function.
    """
    try:
        return CurrentJob(current.get())
    except LookupError:
        raise LookupError("there is no current job: no slave has called this function") from None
