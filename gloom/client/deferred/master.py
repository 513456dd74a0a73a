"""
Masters for programs on Twisted; `gloom.client.deferred` is where to import them from.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, Unpack, cast

from msgspec import Raw
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from gloom.client.arguments import checked_flag, checked_function, checked_id
from gloom.client.deferred.answers import Answers
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.link import BrokerLink, retry_delay_seconds
from gloom.client.deferred.unanswered import Unanswered, refusal_in
from gloom.client.options import ClientKeywords
from gloom.client.session import Event, Outcome, Progressed, Quiet, Reply
from gloom.client.terms import Terms, WatchedTerms, batches, checked_terms, submission
from gloom.errors import (
    BodyError,
    Busy,
    Draining,
    GloomError,
    IdExists,
    InvalidType,
    JobFailed,
    ProtocolError,
    RequestRefused,
    SizeError,
    TransportError,
)
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Cancel, ExtendedSubmit, SubmitMany, encode_request

# A job is given up after so many connections that ended with an unreadable message. A broker tries a job as often.
_MOST_BROKEN_CONNECTIONS = 4


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
        receipts: Whether the broker tells of each answer how the job went.
        options: ``name``, ``heartbeat_seconds``, ``token`` and ``tls``; see
            `gloom.client.options.ClientOptions`.

    Raises:
        ValueError: An argument is out of its range.
    """

    accepts = ("progress", "quiet")

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any,
        receipts: bool = False,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(endpoint, reactor=reactor, **options)
        if checked_flag("receipts", receipts):
            self._hello.accept.append("receipt")
        self._receipts = receipts
        self._jobs: dict[str | int, Unanswered] = {}
        # Cancelled on this connection, with whether the broker has said ok to that: what else comes
        # for these ids is theirs, so the next job with one of them is not sent yet.
        self._cancelled: dict[str | int, bool] = {}
        # The jobs of each submit_many without a reply, oldest first.
        self._batches: deque[list[Unanswered]] = deque()
        # Waits of those that the broker was too busy for.
        self._pauses: dict[Deferred[None], IDelayedCall] = {}
        # Unique over all masters: a random part a master, and a number a job.
        self._id_prefix = uuid.uuid4().hex
        self._numbers = count(1)

    @property
    def unanswered(self) -> int:
        """How many jobs have no outcome yet."""
        return len(self._jobs)

    # What users call

    def submit(
        self,
        type: str | None,
        body: Any,
        *,
        id: str | int | None = None,
        on_progress: Callable[[Any], object] | None = None,
        on_receipt: Callable[[Mapping[str, Any]], object] | None = None,
        **terms: Unpack[Terms],
    ) -> Deferred[Any]:
        """
        Have a job of *type* done (docs/protocol.md, ``submit``).

        Cancelling the Deferred cancels the job at the broker. A job that has
        the same id waits here until the broker has answered that.

        Args:
            type: The job type, 1 to 255 characters; None for any slave.
            body: What the slave's function gets; any value that JSON has.
            id: 1 to 255 characters or an integer, unique over the whole system
                while in flight; made up when absent.
            on_progress: Called with each value that the slave tells of the job while it runs.
            on_receipt: Called before the answer comes, with how the job went: a mapping
                with ``queued`` and ``ran`` (seconds), ``attempts`` and ``slave``.
            terms: ``priority``, ``timeout``, ``expires``, ``delay``,
                ``retries`` and ``require_slave``; see `gloom.client.terms.Terms`.

        Returns:
            Fires with the answer.

        Raises:
            JobFailed: The slave's function raised, the job's attempts are
                spent, or it ended otherwise; ``error`` says how.
            RequestRefused: The broker did not accept it; ``error`` says why.
            BodyError: *body* is not JSON, or the answer is more than Python reads.
            ValueError: A term is out of its range, or *on_receipt* is given to
                a master without receipts.
            TypeError: A term is of another kind, or unknown.
            TransportError: This master was stopped.
            ProtocolError: On four connections in a row, while the job was unanswered, the
                broker sent a message that cannot be read.
        """
        # All of them come through the Deferred.
        try:
            job = self._new_job(type, body, id, on_progress, on_receipt, terms)
        except (GloomError, TypeError, ValueError):
            return fail(Failure())
        if self.connection is not None and job.request.id not in self._cancelled:
            self._send(self.connection, job)
        return job.deferred

    def submit_many(
        self, type: str | None, bodies: Iterable[Any], **terms: Unpack[WatchedTerms]
    ) -> list[Deferred[Any]]:
        """
        Have a job of *type* done for each of *bodies*, submitted together.

        They leave in one frame where it holds them, in several otherwise.
        Unlike `map` it knows no window: all of them are in flight at once.

        Args:
            type: As for `submit`.
            bodies: What the jobs get.
            terms: As for `submit`, the same for all.

        Returns:
            One Deferred a body, in their order, each as that of `submit`.
        """
        watched = {"on_progress": terms.pop("on_progress", None), "on_receipt": terms.pop("on_receipt", None)}
        deferreds, jobs = list[Deferred[Any]](), list[Unanswered]()
        for body in bodies:
            try:
                job = self._new_job(type, body, None, **watched, terms=cast(Terms, terms))
            except (GloomError, TypeError, ValueError):
                deferreds.append(fail(Failure()))
            else:
                jobs.append(job)
                deferreds.append(job.deferred)
        if self.connection is not None:
            self._send_many(self.connection, jobs)
        return deferreds

    def submit_patiently(self, type: str | None, body: Any, **terms: Unpack[WatchedTerms]) -> Deferred[Any]:
        """
        As `submit`, but where the broker is too busy for the job, wait and try again, ever more slowly.

        Args:
            type: As for `submit`.
            body: As for `submit`.
            terms: As for `submit`, without an id.

        Returns:
            As `submit`; never fails with ``busy``.
        """
        return self._submit_until_room(partial(self.submit, type, body, **terms), 0)

    def map(
        self,
        type: str | None,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 64,
        **terms: Unpack[WatchedTerms],
    ) -> Answers:
        """
        Have a job of *type* done for each of *bodies*.

        Where the broker is too busy for one, it is tried again, ever more slowly.

        Args:
            type: As for `submit`.
            bodies: What the jobs get; read no faster than the window allows, so it may be endless.
            window: How many jobs may be unanswered, or answered and not yet taken, at a time; 1 or more.
            terms: As for `submit`, the same for all.

        Returns:
            An asynchronous iterator of one `Answer` a body, as completed; a
            job that fails does not end it.

        Raises:
            ValueError: *window* is less than 1, or a term is out of its range.
            TypeError: *bodies* cannot be iterated over, or *type* or a term is of another kind, or unknown.
        """
        self._check_terms_of_map(type, dict(terms))
        return Answers(lambda body: self.submit_patiently(type, body, **terms), bodies, window)

    # Jobs out

    def _check_terms_of_map(self, type: str | None, terms: dict[str, Any]) -> None:
        """Refuse, at the call, the terms for which each single job would be refused."""
        if "id" in terms:
            raise TypeError("map takes no id: each job has one of its own; its place among the bodies is in the answer")
        self._check_watchers(terms.pop("on_progress", None), terms.pop("on_receipt", None))
        unknown = terms.keys() - Terms.__annotations__.keys()
        if unknown:
            allowed = ", ".join(WatchedTerms.__annotations__)
            raise TypeError(f"map takes no {', '.join(sorted(unknown))}; its keywords are window, {allowed}")
        checked_terms(type, **terms)

    def _check_watchers(self, on_progress: Any, on_receipt: Any) -> None:
        if on_progress is not None:
            checked_function("on_progress", on_progress)
        if on_receipt is not None:
            checked_function("on_receipt", on_receipt)
            if not self._receipts:
                raise ValueError("on_receipt needs a master with receipts: Master(..., receipts=True)")

    def _new_job(
        self,
        type: str | None,
        body: Any,
        id: str | int | None,
        on_progress: Callable[[Any], object] | None,
        on_receipt: Callable[[Mapping[str, Any]], object] | None,
        terms: Terms,
    ) -> Unanswered:
        if self._stopped:
            raise TransportError("this master was stopped")
        if on_progress is not None or on_receipt is not None:
            self._check_watchers(on_progress, on_receipt)
        if id is None:
            id = f"{self._id_prefix}-{next(self._numbers)}"
        else:
            id = checked_id(id)
            if id in self._jobs:
                raise RequestRefused(IdExists.code, str(id), id)
        request = submission(id, type, body, **terms)
        job = Unanswered(request, Deferred(lambda _: self._cancel(job)), on_progress, on_receipt)
        self._jobs[id] = job
        return job

    def _send(self, connection: BrokerConnection, job: Unanswered) -> None:
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
            self._refuse(job, RequestRefused(InvalidType.code, f"not JSON: {error}", request.id))
        else:
            # Sent, it would end the connection, and with it everyone else's jobs on it.
            self._refuse(job, RequestRefused(SizeError.code, too_large, request.id))

    def _send_many(self, connection: BrokerConnection, jobs: Iterable[Unanswered]) -> None:
        encoded = list[tuple[Unanswered, Raw]]()
        for job in jobs:
            try:
                encoded.append((job, Raw(encode_request(job.request))))
            except (TypeError, ValueError, RecursionError) as error:
                self._refuse(job, RequestRefused(InvalidType.code, f"not JSON: {error}", job.request.id))
        for part in batches([len(memoryview(payload)) for _, payload in encoded], connection.max_frame_bytes):
            self._send_batch(connection, encoded[part])

    def _send_batch(self, connection: BrokerConnection, batch: list[tuple[Unanswered, Raw]]) -> None:
        if len(batch) == 1:
            self._send(connection, batch[0][0])
            return
        connection.ask(SubmitMany([payload for _, payload in batch]))
        self._batches.append([job for job, _ in batch])
        for job, _ in batch:
            job.sent = True

    def _submit_until_room(self, submit: Callable[[], Deferred[Any]], failures: int) -> Deferred[Any]:
        return submit().addErrback(self._again_if_busy, submit, failures)

    def _again_if_busy(self, failure: Failure, submit: Callable[[], Deferred[Any]], failures: int) -> Any:
        error = failure.value
        if not isinstance(error, RequestRefused) or error.error != Busy.code:
            return failure
        pause: Deferred[None] = Deferred(lambda pause: self._pauses.pop(pause).cancel())
        self._pauses[pause] = self._clock.callLater(retry_delay_seconds(failures), self._end_pause, pause)
        return pause.addCallback(lambda _: self._submit_until_room(submit, failures + 1))

    def _end_pause(self, pause: Deferred[None]) -> None:
        del self._pauses[pause]
        pause.callback(None)

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        for job in list(self._jobs.values()):
            # Not there any more: the refusal of another made its owner give it up.
            if self._jobs.get(job.request.id) is job:
                self._send(connection, job)

    def disconnected(self) -> None:
        """What is unanswered goes out again with the next connection; what was cancelled went with this one."""
        self._cancelled.clear()
        self._batches.clear()

    def broken(self, error: ProtocolError) -> None:
        """One of the jobs may be the cause: each is given up after some broken connections."""
        for job in [job for job in self._jobs.values() if job.sent]:
            job.broken += 1
            if job.broken == _MOST_BROKEN_CONNECTIONS:
                self._refuse(job, ProtocolError(f"job {job.request.id!r}: given up, because {error}"))

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Nothing to do: what is unanswered was given up."""

    def give_up(self) -> None:
        for job in list(self._jobs.values()):
            self._refuse(job, TransportError("this master was stopped before the answer came"))
        for pause, call in list(self._pauses.items()):
            if call.active():  # else the end of another has ended it too
                call.cancel()
                self._end_pause(pause)

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        kind = type(event)
        if kind is Outcome:
            self._outcome_came(event)  # type: ignore[arg-type]
        elif kind is Reply:
            self._replied(event)  # type: ignore[arg-type]
        elif kind is Progressed:
            self._progressed(event)  # type: ignore[arg-type]
        elif kind is Quiet:
            self.told_quiet()

    def _outcome_came(self, outcome: Outcome) -> None:
        job = self._jobs.get(outcome.id)
        if outcome.id in self._cancelled:
            if self._cancelled[outcome.id]:
                self._free(outcome.id)
        elif job is not None and job.accepted:
            if isinstance(outcome.error, JobFailed) and outcome.error.error == Draining.code:
                self._keep(job)
                return
            del self._jobs[outcome.id]
            if job.on_receipt is not None and outcome.receipt is not None:
                self._tell(job, job.on_receipt, outcome.receipt)
            job.settle(outcome)

    def _replied(self, reply: Reply) -> None:
        request = reply.request
        if type(request) is ExtendedSubmit:
            job = self._jobs.get(request.id)
            if job is not None and job.request is request:  # else it was cancelled
                self._decided(job, reply.error)
        elif type(request) is SubmitMany:
            self._batch_replied(reply)
        elif type(request) is Cancel:
            if reply.error is None:
                self._cancelled[request.id] = True  # its outcome comes yet
            else:
                self._free(request.id)

    def _batch_replied(self, reply: Reply) -> None:
        for index, job in enumerate(self._batches.popleft()):
            if self._jobs.get(job.request.id) is job:  # else it was cancelled
                self._decided(job, refusal_in(reply, index, job.request.id))

    def _decided(self, job: Unanswered, error: RequestRefused | None) -> None:
        if error is None:
            job.accepted = True
        elif error.error == Draining.code:
            self._keep(job)
        else:
            self._refuse(job, error)

    def _keep(self, job: Unanswered) -> None:
        """The broker shuts down, and has it no more: it goes out with the next connection."""
        job.sent = job.accepted = False

    def _progressed(self, progress: Progressed) -> None:
        job = self._jobs.get(progress.id)
        if job is None or job.on_progress is None or not job.accepted:
            return
        try:
            value = decode_body(progress.body)
        except BodyError as error:
            self.log.warn(
                "{name}: the progress of {id!r} cannot be read: {error}",
                name=self.peer_name,
                id=progress.id,
                error=error,
            )
            return
        self._tell(job, job.on_progress, value)

    def _tell(self, job: Unanswered, told: Callable[[Any], object], value: Any) -> None:
        try:
            told(value)
        except Exception:
            # The job has nothing to do with it.
            self.log.failure("{name}: of job {id!r} cannot be told", name=self.peer_name, id=job.request.id)

    # Ends

    def _free(self, id: str | int) -> None:
        """The broker has forgotten a job that was cancelled: the next one with its id may go out."""
        del self._cancelled[id]
        job = self._jobs.get(id)
        if job is not None and self.connection is not None:
            self._send(self.connection, job)

    def _refuse(self, job: Unanswered, error: GloomError) -> None:
        # Given up meanwhile, by what another one's failure has set off: then its Deferred has fired.
        if self._jobs.get(job.request.id) is job:
            del self._jobs[job.request.id]
            job.deferred.errback(error)

    def _cancel(self, job: Unanswered) -> None:
        id = job.request.id
        del self._jobs[id]
        connection = self.connection
        if job.sent and connection is not None and not connection.closed:
            connection.ask(Cancel(id))
            self._cancelled[id] = False
