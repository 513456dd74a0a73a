"""
Masters and slaves for programs on Twisted: Deferreds, Services, connections that come back.

    master = Master("127.0.0.1:9998", reactor=reactor)
    master.startService()
    answer = await master.submit("double", 21)

    slave = Slave("127.0.0.1:9999", "double", lambda n: 2 * n, reactor=reactor)
    slave.startService()

Bodies and answers are plain Python values that JSON has. What a master has
unanswered when its connection drops is submitted again on the next one, with
``attach`` (docs/protocol.md, section 5): a broker that restarts costs time and
perhaps a second run of a job, never an answer.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterable, Callable, Iterable
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from gloom.client.answers import Answer, Answers
from gloom.client.connection import BrokerConnection, BrokerLink
from gloom.client.session import Assignment, Event, Outcome, Reply
from gloom.errors import BodyError, RequestRefused, TransportError, TryAgain
from gloom.messages import ExtendedRespond, ExtendedSubmit, Fail, Join, Leave, Request, decode_body, encode_body

__all__ = ["Answer", "Answers", "Master", "Slave"]

# The most that a frame adds around a body: keys, braces, an id and a type of
# 255 characters each, every one of them escaped.
_ENVELOPE_BYTES = 4096
_LONGEST_TRACEBACK = 64 * 1024


class _Unanswered:
    """A job of a master that has no outcome yet."""

    __slots__ = ("deferred", "request", "sent")

    def __init__(self, request: ExtendedSubmit, deferred: Deferred[Any]) -> None:
        self.request = request
        self.deferred = deferred
        self.sent = False


class Master(BrokerLink):
    """
    Submits jobs and gets their answers.

    A Service: start it, or give it a parent. `submit` may be called before the
    first connection; jobs wait for it. Stopping fails what is unanswered with
    `TransportError`.

    Args:
        endpoint: The broker's master port: an `IStreamClientEndpoint`,
            ``"HOST:PORT"``, or a Twisted client endpoint description.
        reactor: Clock, and what a string connects with.
        name: How the broker names this master; ``host:pid`` when absent.
        heartbeat_seconds: Longest silence that either side accepts; 0 for none.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any,
        name: str | None = None,
        heartbeat_seconds: float = 30.0,
    ) -> None:
        super().__init__(endpoint, reactor=reactor, name=name, heartbeat_seconds=heartbeat_seconds)
        self._jobs: dict[str | int, _Unanswered] = {}
        self._stopped = False
        # Unique over all masters: a random part a master, and a number a job.
        self._id_prefix = uuid.uuid4().hex
        self._numbers = count(1)

    @property
    def unanswered(self) -> int:
        """How many jobs have no outcome yet."""
        return len(self._jobs)

    def submit(self, type: str | None, body: Any, *, id: str | int | None = None, priority: int = 0) -> Deferred[Any]:
        """
        Have a job of *type* done (docs/protocol.md, ``submit``).

        Cancelling the Deferred gives the answer up: the job may still run, its
        answer is thrown away.

        Args:
            type: The job type, 1 to 255 characters; None for any slave.
            body: What the slave's function gets; any value that JSON has.
            id: 1 to 255 characters or an integer, unique over the whole system
                while in flight; made up when absent.
            priority: Signed 64 bits; larger first, equal ones by submission.

        Returns:
            Fires with the answer.

        Raises:
            JobFailed: The slave's function raised, or the job's attempts are spent.
            RequestRefused: The broker did not accept it; ``error`` says why.
            BodyError: *body* is not JSON, or the answer is more than Python reads.
            TransportError: This master was stopped.
        """
        if self._stopped:
            return fail(TransportError("this master was stopped"))
        if id is None:
            id = f"{self._id_prefix}-{next(self._numbers)}"
        elif id in self._jobs:
            return fail(RequestRefused("id_exists", str(id), id))
        try:
            request = ExtendedSubmit(id, encode_body(body), type, priority)
        except BodyError:
            return fail(Failure())
        job = _Unanswered(request, Deferred(lambda _: self._abandon(job)))
        self._jobs[id] = job
        if self.connection is not None:
            self._send(self.connection, job)
        return job.deferred

    def map(
        self,
        type: str | None,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 64,
        priority: int = 0,
    ) -> Answers:
        """
        Have a job of *type* done for each of *bodies*.

        Args:
            type: As for `submit`.
            bodies: What the jobs get; read no faster than the window allows, so it may be endless.
            window: How many jobs may be unanswered, or answered and not yet taken, at a time; 1 or more.
            priority: As for `submit`.

        Returns:
            An asynchronous iterator of one `Answer` a body, as completed; a
            job that fails does not end it.

        Raises:
            ValueError: *window* is less than 1.
        """
        return Answers(lambda body: self.submit(type, body, priority=priority), bodies, window)

    def connected(self, connection: BrokerConnection) -> None:
        for job in list(self._jobs.values()):
            self._send(connection, job)

    def disconnected(self) -> None:
        """Nothing to do: what is unanswered goes out again with the next connection."""

    async def wind_down(self) -> None:
        self._stopped = True
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.deferred.errback(TransportError("this master was stopped before the answer came"))

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Outcome:
            job = self._jobs.pop(event.id, None)
            if job is not None:  # else it was given up
                _settle(job.deferred, event)
        elif type(event) is Reply and event.error is not None:
            self._refused(event)

    def _refused(self, reply: Reply) -> None:
        id = getattr(reply.request, "id", None)
        job = self._jobs.get(id) if id is not None else None
        if job is not None and job.request is reply.request:
            del self._jobs[job.request.id]
            job.deferred.errback(reply.error)

    def _send(self, connection: BrokerConnection, job: _Unanswered) -> None:
        request = job.request
        size = len(memoryview(request.body))
        if size + _ENVELOPE_BYTES > connection.max_frame_bytes:
            # Sent, it would end the connection, and with it everyone else's jobs on it.
            del self._jobs[request.id]
            limit = connection.max_frame_bytes - _ENVELOPE_BYTES
            text = f"the body has {size} bytes, the broker takes {limit}"
            job.deferred.errback(RequestRefused("size_error", text, request.id))
            return
        # Sent before: the broker may have it still, and then this is its master again.
        request.attach = job.sent
        job.sent = True
        connection.ask(request)

    def _abandon(self, job: _Unanswered) -> None:
        self._jobs.pop(job.request.id, None)


def _settle(deferred: Deferred[Any], outcome: Outcome) -> None:
    if outcome.error is not None:
        deferred.errback(outcome.error)
        return
    try:
        answer = decode_body(outcome.body)
    except BodyError:
        deferred.errback()
    else:
        deferred.callback(answer)


class Slave(BrokerLink):
    """
    Takes jobs of one type, one at a time, and answers with what a function returns.

    A Service: it joins when it starts and again after each reconnect. Stopping
    says ``leave``, so that no attempt is spent, and waits for the job in hand.

    What *function* raises reaches the master as `JobFailed` with its kind,
    reason and traceback; raising `TryAgain` gives the job to a slave once more.
    A plain function holds the reactor while it runs: make it short, or return
    a Deferred, or use ``gloom work``, which runs it in processes of its own.

    Args:
        endpoint: The broker's slave port, as for `Master`.
        type: The job type; None for untyped jobs only.
        function: Called with a job's body; returns the answer, or a Deferred
            or coroutine of it.
        reactor: Clock, and what a string connects with.
        name: How the broker names this slave; ``host:pid`` when absent.
        heartbeat_seconds: Longest silence that either side accepts; 0 for none.
        finish_seconds: How long stopping waits for the job in hand; then the
            job is cancelled, and the broker gives it to another slave.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        type: str | None,
        function: Callable[[Any], Any],
        *,
        reactor: Any,
        name: str | None = None,
        heartbeat_seconds: float = 30.0,
        finish_seconds: float = 30.0,
    ) -> None:
        super().__init__(endpoint, reactor=reactor, name=name, heartbeat_seconds=heartbeat_seconds)
        self._type = type
        self._function = function
        self._finish_seconds = finish_seconds
        self._running: Deferred[Any] | None = None
        self._left: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None

    def connected(self, connection: BrokerConnection) -> None:
        connection.ask(Join(self._type))

    def disconnected(self) -> None:
        # The broker gives the job in hand to another: this run of it is of no use now.
        if self._running is not None:
            self._running.cancel()
        self._fire(self._left)

    async def wind_down(self) -> None:
        if self.connection is None:
            return
        self._left = Deferred()
        self.connection.ask(Leave())
        # A job may have been on its way when the broker heard the leave: its reply comes after it.
        await self._left
        if self._running is not None:
            self._finished = Deferred()
            self._finished.addTimeout(self._finish_seconds, self._reactor, onTimeoutCancel=lambda *_: None)
            await self._finished
        if self._running is not None:
            self._running.cancel()

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Assignment:
            self._serve(connection, event)
        elif type(event) is Reply:
            if event.error is not None:
                self.log.error("{name}: the broker refused: {error}", name=self.name, error=event.error)
            if type(event.request) is Leave:
                self._fire(self._left)

    def _fire(self, waiting: Deferred[None] | None) -> None:
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def _serve(self, connection: BrokerConnection, job: Assignment) -> None:
        try:
            result = self._function(decode_body(job.body))
        except Exception:
            self._fail(connection, job, Failure())
            return
        if inspect.iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            self._running = result
            result.addCallback(lambda answer: self._answer(connection, job, answer))
            result.addErrback(lambda failure: self._fail(connection, job, failure))
            result.addBoth(self._done, result)
        else:
            self._answer(connection, job, result)

    def _done(self, _result: None, run: Deferred[Any]) -> None:
        if self._running is run:
            self._running = None
        self._fire(self._finished)

    def _answer(self, connection: BrokerConnection, job: Assignment, answer: Any) -> None:
        try:
            body = encode_body(answer)
        except BodyError as error:
            self._say(connection, Fail(f"the answer is {error}", kind="BodyError", id=job.id))
            return
        size = len(memoryview(body))
        if size + _ENVELOPE_BYTES > connection.max_frame_bytes:
            limit = connection.max_frame_bytes - _ENVELOPE_BYTES
            reason = f"the answer has {size} bytes, the broker takes {limit}"
            self._say(connection, Fail(reason, kind="SizeError", id=job.id))
        else:
            self._say(connection, ExtendedRespond(body, job.id))

    def _fail(self, connection: BrokerConnection, job: Assignment, failure: Failure) -> None:
        if failure.check(CancelledError) and (connection.lost or not self.running):
            return  # cancelled by this slave: the broker gives the job to another
        error = failure.value
        self._say(
            connection,
            Fail(
                reason=str(error) or repr(error),
                kind=type(error).__name__[:255],
                traceback=failure.getTraceback()[-_LONGEST_TRACEBACK:],
                retry=isinstance(error, TryAgain),
                id=job.id,
            ),
        )

    def _say(self, connection: BrokerConnection, request: Request) -> None:
        # A connection that has ended in the meantime took the job along.
        if not connection.lost:
            connection.ask(request)
