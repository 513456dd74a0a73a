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

import uuid
from collections.abc import AsyncIterable, Callable, Iterable
from itertools import count
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from gloom.client.answers import Answer, Answers
from gloom.client.connection import BrokerConnection
from gloom.client.link import BrokerLink, seconds, short_text
from gloom.client.run import Run, fire, sendable
from gloom.client.session import Assignment, Event, Outcome, Reply
from gloom.errors import BodyError, GloomError, RequestRefused, TransportError, TryAgain
from gloom.messages import (
    ExtendedRespond,
    ExtendedSubmit,
    Fail,
    Join,
    Leave,
    decode_body,
    encode_body,
    encode_request,
)

__all__ = ["Answer", "Answers", "Master", "Slave"]

# Characters; the end of a traceback tells most, and the beginning of a reason.
_LONGEST_TRACEBACK = 64 * 1024
_LONGEST_REASON = 64 * 1024


class _Unanswered:
    """
    A job of a master that has no outcome yet.

    Attributes:
        request: What is sent, and sent again.
        deferred: Fires with the answer.
        sent: Whether a broker may have it.
        accepted: Whether a broker has said ok to it.
    """

    __slots__ = ("accepted", "deferred", "request", "sent")

    def __init__(self, request: ExtendedSubmit, deferred: Deferred[Any]) -> None:
        self.request = request
        self.deferred = deferred
        self.sent = False
        self.accepted = False


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
        # All of them come through the Deferred.
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
            # Not there any more: the refusal of another made its owner give it up.
            if self._jobs.get(job.request.id) is job:
                self._send(connection, job)

    def disconnected(self) -> None:
        """Nothing to do: what is unanswered goes out again with the next connection."""

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        for job in list(self._jobs.values()):
            self._refuse(job, TransportError("this master was stopped before the answer came"))

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Outcome:
            job = self._jobs.get(event.id)
            # Before its ok comes, it is the outcome of a job that was given up and whose id this one has now.
            if job is not None and job.accepted:
                del self._jobs[event.id]
                _settle(job.deferred, event)
        elif type(event) is Reply and type(event.request) is ExtendedSubmit:
            job = self._jobs.get(event.request.id)
            if job is not None and job.request is event.request:  # else it was given up
                self._replied(job, event.error)

    def _replied(self, job: _Unanswered, error: RequestRefused | None) -> None:
        if error is None:
            job.accepted = True
        else:
            self._refuse(job, error)

    def _send(self, connection: BrokerConnection, job: _Unanswered) -> None:
        request = job.request
        # Sent before: the broker may have it still, and then this is its master again.
        request.attach = job.sent
        try:
            too_large = connection.oversize(request, request.body)
            if too_large is None:
                connection.ask(request)
                job.sent = True
                return
        except (TypeError, ValueError, RecursionError) as error:
            self._refuse(job, RequestRefused("invalid_type", f"not JSON: {error}", request.id))
        else:
            # Sent, it would end the connection, and with it everyone else's jobs on it.
            self._refuse(job, RequestRefused("size_error", too_large, request.id))

    def _refuse(self, job: _Unanswered, error: GloomError) -> None:
        # Given up meanwhile, by what another one's failure has set off: then its Deferred has fired.
        if self._jobs.get(job.request.id) is job:
            del self._jobs[job.request.id]
            job.deferred.errback(error)

    def _abandon(self, job: _Unanswered) -> None:
        del self._jobs[job.request.id]


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
    A plain function holds the reactor while it runs: longer than
    *heartbeat_seconds*, and the broker takes this slave for dead and gives the
    job to another. Make it short, or return a Deferred, or use ``gloom work``,
    which runs it in processes of its own.

    When the connection drops, the job in hand is cancelled: the broker gives
    it to another slave.

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

    Raises:
        ValueError: An argument is out of its range.
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
        self._type = None if type is None else short_text("type", type)
        self._function = function
        self._finish_seconds = seconds("finish_seconds", finish_seconds)
        # One; more only where a cancelled one takes its time.
        self._runs: set[Run] = set()
        self._left: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None

    # What a subclass may do in another way

    def run(self, job: Assignment, max_answer_bytes: int) -> Any:
        """
        Have *job* done: here, by the function.

        Args:
            job: The job, its body still JSON.
            max_answer_bytes: What the broker takes; a larger answer fails the job.

        Returns:
            The answer, or a Deferred or coroutine of it; a `Raw` is sent as it is.
        """
        return self._function(decode_body(job.body))

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        """Return what the master is told of a *job* that ended in *failure*."""
        error = failure.value
        return Fail(
            reason=sendable(safe_str(error) or repr(error))[:_LONGEST_REASON],
            kind=sendable(type(error).__name__)[:255],
            traceback=sendable(failure.getTraceback())[-_LONGEST_TRACEBACK:],
            retry=isinstance(error, TryAgain),
            id=job.id,
        )

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        connection.ask(Join(self._type))

    def disconnected(self) -> None:
        # The broker gives the job in hand to another: this run of it is of no use now.
        self._cancel_runs()
        fire(self._left)

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        finishing = Deferred.fromCoroutine(self._finish(connection))
        await finishing.addTimeout(self._finish_seconds, self._reactor, onTimeoutCancel=lambda *_: None)
        self._cancel_runs()

    async def _finish(self, connection: BrokerConnection | None) -> None:
        if connection is not None:
            # A job may have been on its way when the broker heard the leave: its reply comes after it.
            self._left = Deferred()
            connection.ask(Leave())
            await self._left
        if self._runs:
            self._finished = Deferred()
            await self._finished

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Assignment:
            self._serve(connection, event)
        elif type(event) is Reply:
            if event.error is not None:
                self.log.error("{name}: the broker refused: {error}", name=self.peer_name, error=event.error)
            if type(event.request) is Leave:
                fire(self._left)

    def _serve(self, connection: BrokerConnection, job: Assignment) -> None:
        run = Run(connection, job)
        self._runs.add(run)
        deferred = run.deferred = maybeDeferred(self.run, job, run.max_answer_bytes())
        deferred.addCallback(self._answer, run)
        deferred.addErrback(self._fail, run)
        deferred.addBoth(self._done, run)

    def _done(self, _result: None, run: Run) -> None:
        self._runs.remove(run)
        if not self._runs:
            fire(self._finished)

    def _answer(self, answer: Any, run: Run) -> None:
        try:
            body = answer if isinstance(answer, Raw) else encode_body(answer)
        except BodyError as error:
            run.say(Fail(f"the answer is {error}", kind="BodyError", id=run.job.id))
            return
        respond = ExtendedRespond(body, run.job.id)
        too_large = run.connection.oversize(respond, body)
        if too_large is None:
            run.say(respond)
        else:
            run.say(Fail(f"the answer makes {too_large}", kind="SizeError", id=run.job.id))

    def _fail(self, failure: Failure, run: Run) -> None:
        if run.cancelled:
            return  # by this slave: the broker gives the job to another
        said = self.describe(run.job, failure)
        if len(encode_request(said)) > run.connection.max_frame_bytes:
            # The least of it that says something: each character may take six bytes.
            said = Fail(said.reason[:50], kind=(said.kind or "")[:50] or None, retry=said.retry)
        run.say(said)

    def _cancel_runs(self) -> None:
        for run in list(self._runs):
            try:
                run.cancel()
            except Exception:
                self.log.failure("{name}: a job's Deferred cannot be cancelled", name=self.peer_name)
