"""
Masters for programs on Twisted. Import them from `gloom.client.deferred`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Any, Unpack, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from gloom.client.arguments import checked_flag, checked_function, checked_id
from gloom.client.backoff import retry_delay_seconds
from gloom.client.deferred.answers import Answers
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.inflight import JobsInFlight
from gloom.client.deferred.link import STOPPED, BrokerLink
from gloom.client.deferred.unanswered import Unanswered
from gloom.client.options import ClientKeywords
from gloom.client.session import Event, Outcome, Progressed, Quiet, Reply
from gloom.client.terms import Terms, WatchedTerms, checked_terms, submission
from gloom.errors import (
    Busy,
    GloomError,
    IdExists,
    ProtocolError,
    RequestRefused,
    TransportError,
)


class Master(BrokerLink):
    """
    Submits jobs and gets their answers.

    A Service: start it, or give it a parent. `submit` may be called before the
    first connection, and the jobs wait for it. A stop fails the unanswered jobs
    with `TransportError`.

    Args:
        endpoint: The broker's master port: an `IStreamClientEndpoint`,
            ``"HOST:PORT"``, or a Twisted client endpoint description.
        reactor: The clock; with a string as *endpoint*, it connects too.
        receipts: Whether the broker sends a receipt with each answer, for ``on_receipt``.
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
        reactor: IReactorTime,
        receipts: bool = False,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(endpoint, reactor=reactor, **options)
        if checked_flag("receipts", receipts):
            self._hello.accept.append("receipt")
        self._receipts = receipts
        self._in_flight = JobsInFlight(self.peer_name)
        # The pauses of `submit_patiently`, each until its next attempt.
        self._pauses: dict[Deferred[None], IDelayedCall] = {}
        # Unique over all masters: a random part a master, and a number a job.
        self._id_prefix = uuid.uuid4().hex
        self._numbers = count(1)

    @property
    def unanswered(self) -> int:
        """The number of jobs that have no outcome yet."""
        return len(self._in_flight)

    # For users

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
        Submit a job of *type* (docs/protocol.md, ``submit``), and wait for its answer.

        To cancel the Deferred cancels the job at the broker. Another job with the
        same id waits in this master until the broker has answered the cancel.

        Args:
            type: The job type, 1 to 255 characters; None for any slave.
            body: The argument of the slave's function; any value that JSON has.
            id: 1 to 255 characters or an integer, unique over the whole system
                while in flight; by default a new one.
            on_progress: See `gloom.client.terms.WatchedTerms`.
            on_receipt: See `gloom.client.terms.WatchedTerms`.
            terms: ``priority``, ``timeout``, ``expires``, ``delay``,
                ``retries`` and ``require_slave``; see `gloom.client.terms.Terms`.

        Returns:
            Fires with the answer.

        Raises:
            JobFailed: The slave's function raised an exception, the job's attempts are
                spent, or it ended otherwise; ``error`` is the code.
            RequestRefused: The broker did not accept it; ``error`` is the code.
            BodyError: *body* is not JSON, or Python cannot read the answer.
            ValueError: A term is out of its range, or *on_receipt* is given to
                a master without receipts.
            TypeError: A term is of another kind, or unknown.
            TransportError: This master was stopped.
            ProtocolError: While the job was unanswered, four connections ended with a
                message of the broker that cannot be read.
        """
        # Every error comes through the Deferred.
        try:
            job = self._new_job(type, body, id, on_progress, on_receipt, terms)
        except (GloomError, TypeError, ValueError):
            return fail(Failure())
        self._in_flight.send(job)
        return job.deferred

    def submit_many(
        self, type: str | None, bodies: Iterable[Any], **terms: Unpack[WatchedTerms]
    ) -> list[Deferred[Any]]:
        """
        Submit a job of *type* for each of *bodies* together.

        The jobs are sent in as few frames as the broker's limit allows. Unlike
        with `map`, all of them are in flight at once.

        Args:
            type: As for `submit`.
            bodies: The bodies of the jobs.
            terms: As for `submit`, the same for all.

        Returns:
            One Deferred for each body, in order, each as that of `submit`.
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
        self._in_flight.send_many(jobs)
        return deferreds

    def submit_patiently(self, type: str | None, body: Any, **terms: Unpack[WatchedTerms]) -> Deferred[Any]:
        """
        As `submit`, but while the broker is too busy for the job, try again after growing pauses.

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
        Submit a job of *type* for each of *bodies*, and yield the answers as completed.

        While the broker is too busy for a job, it is submitted again after growing pauses.

        Args:
            type: As for `submit`.
            bodies: The bodies of the jobs; read no faster than the window allows, so it may be endless.
            window: Number of jobs that may be unanswered, or answered and not yet taken, at a time; 1 or more.
            terms: As for `submit`, the same for all.

        Returns:
            An asynchronous iterator of one `Answer` for each body; a job that
            fails does not end it.

        Raises:
            ValueError: *window* is less than 1, or a term is out of its range.
            TypeError: *bodies* cannot be iterated over, or *type* or a term is of another kind, or unknown.
        """
        self._check_terms_of_map(type, dict(terms))
        return Answers(lambda body: self.submit_patiently(type, body, **terms), bodies, window)

    # New jobs

    def _check_terms_of_map(self, type: str | None, terms: dict[str, Any]) -> None:
        """Raise, at the call, the error that each single job would have because of its terms."""
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
        if self._state in STOPPED:
            raise TransportError("this master was stopped")
        if on_progress is not None or on_receipt is not None:
            self._check_watchers(on_progress, on_receipt)
        if id is None:
            id = f"{self._id_prefix}-{next(self._numbers)}"
        else:
            id = checked_id(id)
            if id in self._in_flight:
                raise RequestRefused(IdExists.code, str(id), id)
        request = submission(id, type, body, **terms)
        return self._in_flight.add(request, on_progress, on_receipt)

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

    # Events of the connection

    def connected(self, connection: BrokerConnection) -> None:
        self._in_flight.connected(connection)

    def disconnected(self) -> None:
        self._in_flight.disconnected()

    def broken(self, error: ProtocolError) -> None:
        self._in_flight.connection_broke(error)

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Do nothing: `give_up` has failed every unanswered job."""

    def give_up(self) -> None:
        self._in_flight.give_up()
        for pause, call in list(self._pauses.items()):
            if call.active():  # else a callback of another pause has ended this one
                call.cancel()
                self._end_pause(pause)

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        kind = type(event)
        if kind is Outcome:
            self._in_flight.outcome_came(event)  # type: ignore[arg-type]
        elif kind is Reply:
            self._in_flight.replied(event)  # type: ignore[arg-type]
        elif kind is Progressed:
            self._in_flight.progressed(event)  # type: ignore[arg-type]
        elif kind is Quiet:
            self.told_quiet()
