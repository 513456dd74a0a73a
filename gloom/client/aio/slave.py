"""
Slaves for programs on asyncio; `gloom.client.aio` is where to import them from.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Unpack

from msgspec import Raw

from gloom.client.aio.connection import BrokerConnection
from gloom.client.aio.link import BrokerLink
from gloom.client.aio.run import Run, RunState, current
from gloom.client.arguments import MOST_SLOTS, checked_function, checked_number, checked_types, seconds
from gloom.client.failing import failure_of, fitted
from gloom.client.options import ClientKeywords
from gloom.client.session import Assignment, Event, Quiet, Reply, Revocation, UnreadableJob
from gloom.errors import BodyError, ProtocolError
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import ExtendedJoin, ExtendedRespond, Fail, Leave, Request

# For the coroutines of jobs that a stop has cancelled: they may clean up.
_CANCEL_SECONDS = 1.0


class Slave(BrokerLink):
    """
    Takes jobs of one type or several, and answers with what a function returns.

    Use it in ``async with``, or call `start` and `stop`, or await
    `serve_forever`. It joins when it is connected, and again after each
    reconnect. Stopping says ``leave``, so that no attempt is spent, and waits
    for the jobs in hand.

    A coroutine function runs in the event loop. A plain function runs in a
    thread, so that it does not hold up the loop: with one slot, one job at a time.

    What *function* raises reaches the master as `JobFailed` with its kind,
    reason and traceback; raising `TryAgain` gives the job to a slave once more.

    When the connection drops, the jobs in hand are cancelled: the broker gives
    them to other slaves. When a master cancels a job, or the time of its
    attempt is over, its coroutine is cancelled here. A function in a thread
    cannot be cancelled: its slot is free when it has returned.

    Inside the function, `gloom.client.aio.current_job` says which job it
    is, and tells its master of progress.

    Args:
        address: The broker's slave port, as for `Master`.
        type: The job type, or a list of 1 to 1000 of them; None for untyped jobs only.
        function: Called with a job's body; a coroutine function or a plain one.
        slots: How many jobs may be in hand at once, 1 to 1000.
        finish_seconds: How long stopping waits for the jobs in hand; then they
            are cancelled, and the broker gives them to other slaves.
        options: As for `Master`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is of another kind, or unknown.
    """

    accepts = ("cancel", "quiet")

    def __init__(
        self,
        address: str,
        type: str | Sequence[str] | None,
        function: Callable[[Any], Any],
        *,
        slots: int = 1,
        finish_seconds: float = 30.0,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(address, **options)
        self._function: Callable[[Any], Any] = checked_function("function", function)
        self._is_coroutine_function = _is_coroutine_function(function)
        self._slots = checked_number("slots", slots, 1, MOST_SLOTS)
        self._join = _join(type, self._slots)
        self._finish_seconds = seconds("finish_seconds", finish_seconds)
        # One a slot; more only where a cancelled one takes its time.
        self._runs: set[Run] = set()
        self._threads: ThreadPoolExecutor | None = None
        # The leave of a stop, and the wait for its reply.
        self._leave = Leave()
        self._left: asyncio.Future[None] | None = None
        self._finished: asyncio.Future[None] | None = None

    # For users

    async def serve_forever(self) -> None:
        """
        Take jobs until this call is cancelled, by Ctrl-C under `asyncio.run` for example; then stop as `stop` does.

        A slave that has been started already is served until it stops.

        Raises:
            RuntimeError: The slave is stopping, or runs in another event loop.
        """
        self.start()
        try:
            await self._stopped.wait()
        finally:
            await self.stop()

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        connection.ask(self._join)

    def disconnected(self) -> None:
        # The broker gives the jobs in hand to others: these runs of them are of no use now.
        self._abandon_runs()
        _fire(self._left)

    def writable(self, connection: BrokerConnection) -> None:
        """Nothing to do: the slots bound the answers that wait."""

    def broken(self, error: ProtocolError) -> None:
        """Nothing to do: the jobs in hand go to other slaves, as after any end of a connection."""

    def give_up(self) -> None:
        """Nothing to do: nobody waits here."""

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Assignment:
            self._assigned(connection, event)
        elif type(event) is Reply:
            self._replied(event)
        elif type(event) is Revocation:
            for run in [run for run in self._runs if run.connection is connection and run.job.id == event.id]:
                run.cancel(RunState.REVOKED, self._cancelled)
        elif type(event) is UnreadableJob:
            self.log.warning("%s", event.error)
            connection.ask(fitted(failure_of(event.error, event.id), connection.max_frame_bytes))
        elif type(event) is Quiet:
            self.log.info("the broker is about to shut down")

    def _replied(self, reply: Reply) -> None:
        if reply.error is not None:
            self.log.error("the broker refused: %s", reply.error)
        if reply.request is self._leave:
            _fire(self._left)

    def _assigned(self, connection: BrokerConnection, job: Assignment) -> None:
        if len(self._runs) >= self._slots and self._in_hand(connection) >= self._slots:
            connection.give_up(ProtocolError(f"it gave more than {self._slots} jobs at once, the slots of this slave"))
            return
        loop = asyncio.get_running_loop()
        run = Run(connection, job, loop)
        self._runs.add(run)
        run.task = loop.create_task(self._have_done(run))

    def _in_hand(self, connection: BrokerConnection) -> int:
        return sum(run.connection is connection for run in self._runs)

    # Runs

    async def _have_done(self, run: Run) -> None:
        current.set(run)
        try:
            said = await self._outcome(run)
        except GeneratorExit:
            raise  # the loop was closed: nothing can be said
        except BaseException as error:
            self._ended(run, self._failure(run, error))
            if not isinstance(error, Exception | SystemExit):
                raise  # the cancellation, or Ctrl-C
        else:
            self._ended(run, said)

    async def _outcome(self, run: Run) -> Request:
        """Return what the broker is told of a job."""
        if self._is_coroutine_function:
            return _response(run, await self._function(decode_body(run.job.body)))
        answer, error = await self._in_thread(run)
        if error is not None:
            return self._failure(run, error)
        return _response(run, await answer if inspect.isawaitable(answer) else answer)

    async def _in_thread(self, run: Run) -> tuple[Any, BaseException | None]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._slots, f"gloom slave {self.peer_name}")
        run.threaded = self._threads.submit(copy_context().run, _called, self._function, run.job.body)
        try:
            return await asyncio.wrap_future(run.threaded)
        finally:
            run.threaded = None

    def _failure(self, run: Run, error: BaseException) -> Fail:
        limit = run.connection.max_frame_bytes
        if run.state is RunState.REVOKED:
            # Nobody hears it; the slot is free again.
            return Fail("the broker has ended this attempt", kind="Cancelled", id=run.job.id)
        if isinstance(error, asyncio.CancelledError) and run.task.cancelling():
            # From outside, as when the program ends: another slave does the job.
            return Fail("the slave's task was cancelled", kind="CancelledError", retry=True, id=run.job.id)
        return fitted(failure_of(error, run.job.id), limit)

    def _ended(self, run: Run, said: Request) -> None:
        """The function has ended, and the slot is free."""
        if run.state is RunState.ENDED:
            return
        if run.state is not RunState.ABANDONED:
            run.say(said)
        run.state = RunState.ENDED
        self._runs.discard(run)
        if not self._runs:
            _fire(self._finished)

    def _cancelled(self, run: Run) -> None:
        self._ended(run, self._failure(run, asyncio.CancelledError()))

    def _abandon_runs(self) -> None:
        for run in list(self._runs):
            run.cancel(RunState.ABANDONED, self._cancelled)

    # Stopping

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        try:
            async with asyncio.timeout(self._finish_seconds):
                await self._leave_and_finish(connection)
        except TimeoutError:
            text = "stopping: %d jobs are still in hand after %g s; the broker gives them to other slaves"
            self.log.warning(text, len(self._runs), self._finish_seconds)
        tasks = [run.task for run in self._runs if run.threaded is None]
        self._abandon_runs()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _leave_and_finish(self, connection: BrokerConnection | None) -> None:
        loop = asyncio.get_running_loop()
        if connection is not None and not connection.closed:
            # A job may have been on its way when the broker heard the leave: its reply comes after it.
            self._left = loop.create_future()
            self._leave = Leave()
            connection.ask(self._leave)
            await self._left
        if self._runs:
            self._finished = loop.create_future()
            await self._finished


def _join(type: str | Sequence[str] | None, slots: int) -> ExtendedJoin:
    types = checked_types(type)
    return ExtendedJoin(types=types, slots=slots) if isinstance(types, list) else ExtendedJoin(types, slots=slots)


def _is_coroutine_function(function: Any) -> bool:
    call = function.func if isinstance(function, partial) else function
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _called(function: Callable[[Any], Any], body: Raw) -> tuple[Any, BaseException | None]:
    """Call *function* in its thread; an exception is returned, since a future takes no StopIteration."""
    try:
        return function(decode_body(body)), None
    except BaseException as error:
        return None, error


def _response(run: Run, answer: Any) -> Request:
    connection, id = run.connection, run.job.id
    try:
        body = encode_body(answer)
    except BodyError as error:
        return fitted(Fail(f"the answer is {error}", kind="BodyError", id=id), connection.max_frame_bytes)
    response = ExtendedRespond(body, id)
    too_large = connection.oversize(response, body)
    if too_large is not None:
        return Fail(f"the answer makes {too_large}", kind="SizeError", id=id)
    return response


def _fire(waiting: asyncio.Future[None] | None) -> None:
    """Complete *waiting*, if it is there and not done."""
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
