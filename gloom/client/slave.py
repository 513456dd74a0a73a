"""
Slaves for programs on Twisted; `gloom.client.deferred` is where to import them from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from gloom.client.connection import BrokerConnection
from gloom.client.link import BrokerLink, seconds, short_text
from gloom.client.run import Run, fire, sendable
from gloom.client.session import Assignment, Event, Quiet, Reply, Revocation
from gloom.client.tls import ClientTLS
from gloom.errors import BodyError, TryAgain
from gloom.messages import ExtendedJoin, ExtendedRespond, Fail, Leave, decode_body, encode_body, encode_request

# Characters; the end of a traceback tells most, and the beginning of a reason.
_LONGEST_TRACEBACK = 64 * 1024
_LONGEST_REASON = 64 * 1024
_MOST_TYPES = 1000
_MOST_SLOTS = 1000


class Slave(BrokerLink):
    """
    Takes jobs of one type or several, and answers with what a function returns.

    A Service: it joins when it starts and again after each reconnect. Stopping
    says ``leave``, so that no attempt is spent, and waits for the jobs in hand.

    What *function* raises reaches the master as `JobFailed` with its kind,
    reason and traceback; raising `TryAgain` gives the job to a slave once more.
    A plain function holds the reactor while it runs: longer than
    *heartbeat_seconds*, and the broker takes this slave for dead and gives the
    job to another. Make it short, or return a Deferred, or use ``gloom work``,
    which runs it in processes of its own.

    When the connection drops, the jobs in hand are cancelled: the broker gives
    them to other slaves. When a master cancels a job, or the time of its
    attempt is over, its Deferred or coroutine is cancelled here.

    Inside the function, `gloom.client.deferred.current_job` says which job it
    is, and tells its master of progress.

    Args:
        endpoint: The broker's slave port, as for `Master`.
        type: The job type, or a list of 1 to 1000 of them; None for untyped jobs only.
        function: Called with a job's body; returns the answer, or a Deferred
            or coroutine of it.
        reactor: Clock, and what a string connects with.
        name: How the broker names this slave; ``host:pid`` when absent.
        heartbeat_seconds: Longest silence that either side accepts; 0 for none.
        finish_seconds: How long stopping waits for the jobs in hand; then they
            are cancelled, and the broker gives them to other slaves.
        slots: How many jobs may be in hand at once, 1 to 1000; more than one
            makes sense for functions that return Deferreds or coroutines.
        token: As for `Master`.
        tls: As for `Master`.

    Raises:
        ValueError: An argument is out of its range.
    """

    accepts = ("cancel", "quiet")

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        type: str | Sequence[str] | None,
        function: Callable[[Any], Any],
        *,
        reactor: Any,
        name: str | None = None,
        heartbeat_seconds: float = 30.0,
        finish_seconds: float = 30.0,
        slots: int = 1,
        token: str | None = None,
        tls: ClientTLS | None = None,
    ) -> None:
        super().__init__(
            endpoint, reactor=reactor, name=name, heartbeat_seconds=heartbeat_seconds, token=token, tls=tls
        )
        if not 1 <= slots <= _MOST_SLOTS:
            raise ValueError(f"slots must be 1 to {_MOST_SLOTS}, got {slots}")
        self._joining = _join(type, slots)
        self._function = function
        self._finish_seconds = seconds("finish_seconds", finish_seconds)
        # One a slot; more only where a cancelled one takes its time.
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

    def revoke(self, run: Run) -> None:
        """End a *run* that the broker has ended: its Deferred or coroutine is cancelled."""
        self._cancel(run)

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        connection.ask(self._joining)

    def disconnected(self) -> None:
        # The broker gives the jobs in hand to others: these runs of them are of no use now.
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
        elif type(event) is Revocation:
            for run in [run for run in self._runs if run.connection is connection and run.job.id == event.id]:
                run.revoked = True
                self.revoke(run)
        elif type(event) is Quiet:
            self.told_quiet()

    def _serve(self, connection: BrokerConnection, job: Assignment) -> None:
        run = Run(connection, job)
        self._runs.add(run)
        deferred = run.deferred = run.begin(maybeDeferred, self.run, job, run.max_answer_bytes())
        deferred.addCallback(self._answer, run)
        deferred.addErrback(self._fail, run)
        deferred.addBoth(self._done, run)

    def _done(self, _result: None, run: Run) -> None:
        run.ended = True
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
        if run.revoked:
            # Nobody hears it; the slot is free again.
            run.say(Fail("the broker has ended this attempt", kind="Cancelled", id=run.job.id))
            return
        said = self.describe(run.job, failure)
        if len(encode_request(said)) > run.connection.max_frame_bytes:
            # The least of it that says something: each character may take six bytes.
            said = Fail(said.reason[:50], kind=(said.kind or "")[:50] or None, retry=said.retry)
        run.say(said)

    def _cancel_runs(self) -> None:
        for run in list(self._runs):
            run.cancelled = True
            self._cancel(run)

    def _cancel(self, run: Run) -> None:
        try:
            run.cancel()
        except Exception:
            # Its Deferred's own canceller may raise anything.
            self.log.failure("{name}: a job's Deferred cannot be cancelled", name=self.peer_name)


def _join(type: str | Sequence[str] | None, slots: int) -> ExtendedJoin:
    if type is None or isinstance(type, str):
        return ExtendedJoin(None if type is None else short_text("type", type), slots=slots)
    types = list(dict.fromkeys(short_text("type", one) for one in type))
    if not 1 <= len(types) <= _MOST_TYPES:
        raise ValueError(f"type must be one or a list of 1 to {_MOST_TYPES}, got {len(types)}")
    return ExtendedJoin(types=types, slots=slots)
