"""
The protocol of a Deferred slave: it joins, takes jobs, reports their ends and leaves. Subclasses do the jobs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from gloom.client.arguments import MOST_SLOTS, checked_number, checked_types, seconds
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.link import BrokerLink
from gloom.client.deferred.run import Run
from gloom.client.failing import failure_of, fitted
from gloom.client.options import ClientKeywords
from gloom.client.session import Assignment, Event, Quiet, Reply, Revocation, UnreadableJob
from gloom.transport.deferreds import fire
from gloom.wire.messages import ExtendedJoin, ExtendedRespond, Fail, Leave


class SlaveLink(BrokerLink):
    """
    Takes jobs: the base class of slaves.

    Each job is a `Run`. A subclass starts it in `begin`, and ends it with one
    call of `answer` or `failed`, followed by `done`.

    Args:
        endpoint: The broker's slave port.
        type: The job type, or a list of 1 to 1000 of them; None for untyped jobs only.
        reactor: As for `BrokerLink`.
        finish_seconds: Seconds that a stop waits for running jobs; then they are
            cancelled, and the broker gives them to other slaves.
        slots: Number of jobs that may run at once, 1 to 1000.
        options: See `gloom.client.options.ClientOptions`.

    Raises:
        ValueError: An argument is out of its range.
    """

    accepts = ("cancel", "quiet")

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        type: str | Sequence[str] | None,
        *,
        reactor: IReactorTime,
        finish_seconds: float = 30.0,
        slots: int = 1,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(endpoint, reactor=reactor, **options)
        self.joining = _join(type, checked_number("slots", slots, 1, MOST_SLOTS))
        self._finish_seconds = seconds("finish_seconds", finish_seconds)
        # One a slot; more while cancelled ones have not ended.
        self._runs: set[Run] = set()
        # The leave of a stop, and a Deferred that fires with its reply.
        self._leave = Leave()
        self._left: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None

    # For subclasses to implement

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Start a run."""

    @abstractmethod
    def describe(self, job: Assignment, failure: Failure) -> Fail:
        """Return the ``fail`` of a *job* that ended in *failure*."""

    def revoke(self, run: Run) -> None:
        """Cancel a *run*, because the broker has ended its attempt."""
        self._cancel(run)

    def cancel(self, run: Run) -> None:
        """Cancel a *run*, which reports nothing any more; a user's canceller may raise anything."""
        run.cancel()

    # For subclasses to call

    def answer(self, run: Run, body: Raw) -> None:
        """Answer a job with *body*, of `Run.max_answer_bytes` at most."""
        run.say(ExtendedRespond(body, run.job.id))

    def failed(self, failure: Failure, run: Run) -> None:
        """Report to the broker that a job has ended in *failure*."""
        if run.cancelled:
            return  # the connection has ended, or will: the broker gives the job to another slave
        if run.revoked:
            # The broker drops it, and gives the slot another job.
            run.say(Fail("the broker has ended this attempt", kind="Cancelled", id=run.job.id))
            return
        try:
            said = self.describe(run.job, failure)
        except Exception as error:
            # A subclass may raise here: the broker must get the job's failure all the same.
            self.log.failure("{name}: cannot describe the failure of job {id!r}", name=self.peer_name, id=run.job.id)
            said = failure_of(error, run.job.id)
        self.tell_failed(run, said)

    def tell_failed(self, run: Run, said: Fail) -> None:
        """Send *said*, cut to the broker's limits."""
        run.say(fitted(said, run.connection.max_frame_bytes))

    def done(self, run: Run) -> None:
        """Forget a *run*, which has ended: its slot is free."""
        run.ended = True
        self._runs.remove(run)
        if not self._runs:
            fire(self._finished)

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        connection.ask(self.joining)

    def disconnected(self) -> None:
        # The broker gives the running jobs to other slaves.
        self._cancel_runs()
        fire(self._left)

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        finishing = Deferred.fromCoroutine(self._finish(connection))
        await finishing.addTimeout(self._finish_seconds, self._clock, onTimeoutCancel=lambda *_: None)
        self._cancel_runs()

    async def _finish(self, connection: BrokerConnection | None) -> None:
        if connection is not None:
            # The broker may have sent a job before it read the leave: such a job comes before the reply.
            self._left = Deferred()
            self._leave = Leave()
            connection.ask(self._leave)
            await self._left
        if self._runs:
            self._finished = Deferred()
            await self._finished

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Assignment:
            run = Run(connection, event)
            self._runs.add(run)
            self.begin(run)
        elif type(event) is Reply:
            if event.error is not None:
                self.log.error("{name}: the broker refused: {error}", name=self.peer_name, error=event.error)
            if event.request is self._leave:
                fire(self._left)
        elif type(event) is Revocation:
            for run in [run for run in self._runs if run.connection is connection and run.job.id == event.id]:
                run.revoked = True
                self.revoke(run)
        elif type(event) is UnreadableJob:
            self._refuse(connection, event)
        elif type(event) is Quiet:
            self.told_quiet()

    def _refuse(self, connection: BrokerConnection, job: UnreadableJob) -> None:
        self.log.warn("{name}: {error}", name=self.peer_name, error=job.error)
        connection.ask(fitted(failure_of(job.error, job.id), connection.max_frame_bytes))

    def _cancel_runs(self) -> None:
        for run in list(self._runs):
            run.cancelled = True
            self._cancel(run)

    def _cancel(self, run: Run) -> None:
        try:
            self.cancel(run)
        except Exception:
            # A user's canceller may raise anything.
            self.log.failure("{name}: a job's Deferred cannot be cancelled", name=self.peer_name)


def _join(type: str | Sequence[str] | None, slots: int) -> ExtendedJoin:
    types = checked_types(type)
    return ExtendedJoin(types=types, slots=slots) if isinstance(types, list) else ExtendedJoin(types, slots=slots)
