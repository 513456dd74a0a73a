"""
Masters for programs on asyncio; `gloom.client.aio` is where to import them from.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from itertools import count
from typing import Any, Unpack

from gloom.client.aio.answers import Answers
from gloom.client.aio.connection import BrokerConnection
from gloom.client.aio.jobs import Job, Jobs
from gloom.client.aio.link import BrokerLink
from gloom.client.arguments import checked_flag, checked_function, checked_id
from gloom.client.options import ClientKeywords
from gloom.client.session import Event, Quiet
from gloom.client.terms import Terms, WatchedTerms, checked_terms, submission
from gloom.errors import GloomError, IdExists, ProtocolError, RequestRefused, TransportError
from gloom.wire.messages import ExtendedSubmit

OnProgress = Callable[[Any], object] | None
OnReceipt = Callable[[Mapping[str, Any]], object] | None


class Awaited(Job):
    """
    A job whose outcome a future takes.

    Attributes:
        future: Its result is the answer.
    """

    __slots__ = ("future",)

    future: asyncio.Future[Any]

    def resolve(self, answer: Any) -> None:
        if not self.future.done():  # else it was cancelled in this turn
            self.future.set_result(answer)

    def reject(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Master(BrokerLink):
    """
    Submits jobs and gets their answers.

    Use it in ``async with``, or call `start` and `stop`. Jobs that are
    submitted before the first connection wait for it. Stopping fails the
    unanswered jobs with `TransportError`.

    It is for one thread: another thread calls
    ``asyncio.run_coroutine_threadsafe(master.submit(...), loop)``.

    Args:
        address: The broker's master port: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH``; or
            several with commas: where one does not answer, the next is tried at once.
        receipts: Whether the broker tells of each answer how the job went.
        options: ``name``, ``heartbeat_seconds``, ``token`` and ``tls``; see
            `gloom.client.options.ClientOptions`.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is of another kind, or unknown.
    """

    accepts = ("progress", "quiet")

    def __init__(self, address: str, *, receipts: bool = False, **options: Unpack[ClientKeywords]) -> None:
        super().__init__(address, **options)
        self._receipts = checked_flag("receipts", receipts)
        if receipts:
            self._hello.accept.append("receipt")
        self._jobs = Jobs(self.log, self._later)
        # Unique over all masters: a random part a master, and a number a job.
        self._id_prefix = uuid.uuid4().hex
        self._numbers = count(1)

    @property
    def unanswered(self) -> int:
        """How many jobs have no outcome yet."""
        return len(self._jobs.by_id)

    # For users

    async def submit(
        self,
        type: str | None,
        body: Any,
        *,
        id: str | int | None = None,
        on_progress: OnProgress = None,
        on_receipt: OnReceipt = None,
        **terms: Unpack[Terms],
    ) -> Any:
        """
        Have a job of *type* done (docs/protocol.md, ``submit``), and return the answer.

        Cancelling the task that waits, or a timeout around this call, cancels
        the job at the broker. A job with the same id waits here until the
        broker has answered that.

        Args:
            type: The job type, 1 to 255 characters; None for any slave.
            body: The argument of the slave's function; any value that JSON has.
            id: 1 to 255 characters or an integer, unique over the whole system
                while in flight; made up when absent.
            on_progress: Called with each value that the slave tells of the job while it runs.
            on_receipt: Called before the answer comes, with how the job went: a mapping
                with ``queued`` and ``ran`` (seconds), ``attempts`` and ``slave``.
            terms: ``priority``, ``timeout``, ``expires``, ``delay``,
                ``retries`` and ``require_slave``; see `gloom.client.terms.Terms`.

        Returns:
            The answer.

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
            RuntimeError: This master was not started, or runs in another event loop.
        """
        loop = self.check_running()
        job = Awaited(self._submission(type, body, id, on_progress, on_receipt, terms), on_progress, on_receipt)
        return await self._outcome_of(job, loop)

    async def submit_patiently(self, type: str | None, body: Any, **terms: Unpack[WatchedTerms]) -> Any:
        """
        As `submit`, but where the broker is too busy for the job, wait and try again, ever more slowly.

        Args:
            type: As for `submit`.
            body: As for `submit`.
            terms: As for `submit`, without an id.

        Returns:
            The answer.

        Raises:
            GloomError: As `submit`; but never ``busy``.
        """
        loop = self.check_running()
        request, on_progress, on_receipt = self._watched(type, body, dict(terms))
        return await self._outcome_of(Awaited(request, on_progress, on_receipt, is_patient=True), loop)

    def submit_many(
        self, type: str | None, bodies: Iterable[Any], **terms: Unpack[WatchedTerms]
    ) -> list[asyncio.Future[Any]]:
        """
        Have a job of *type* done for each of *bodies*, submitted together.

        They leave in one frame where it holds them, in several otherwise.
        Unlike `map` it knows no window: all of them are in flight at once.

        Args:
            type: As for `submit`.
            bodies: What the jobs get.
            terms: As for `submit`, the same for all.

        Returns:
            One `asyncio.Future` a body, in their order, with the answer or the
            error of `submit`. Cancelling one cancels its job.

        Raises:
            TransportError: This master was stopped.
            RuntimeError: This master was not started, or runs in another event loop.
        """
        loop = self.check_running()
        futures, jobs = list[asyncio.Future[Any]](), list[Awaited]()
        for body in bodies:
            future: asyncio.Future[Any] = loop.create_future()
            futures.append(future)
            try:
                job = Awaited(*self._watched(type, body, dict(terms)))
            except (GloomError, TypeError, ValueError) as error:
                future.set_exception(error)
            else:
                job.future = future
                future.add_done_callback(lambda _, job=job: self._jobs.cancel(job))  # type: ignore[misc]
                jobs.append(job)
        self._jobs.submit_many(jobs)
        return futures

    def map(
        self,
        type: str | None,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 64,
        ordered: bool = False,
        **terms: Unpack[WatchedTerms],
    ) -> Answers:
        """
        Have a job of *type* done for each of *bodies*.

        Where the broker is too busy for one, it is tried again, ever more slowly.

        Args:
            type: As for `submit`.
            bodies: What the jobs get; read no faster than the window allows, so it may be endless.
            window: How many jobs may be unanswered, or answered and not yet taken, at a time; 1 or more.
            ordered: Whether answers come in the order of the bodies; else as completed.
            terms: As for `submit`, the same for all.

        Returns:
            An asynchronous iterator of one `Answer` a body; a job that fails does not end it.

        Raises:
            ValueError: *window* is less than 1, or a term is out of its range.
            TypeError: *bodies* cannot be iterated over, or *type* or a term is of another kind, or unknown.
            TransportError: This master was stopped.
            RuntimeError: This master was not started, or runs in another event loop.
        """
        loop = self.check_running()
        watchers = self._check_terms_of_map(type, dict(terms))

        def request(body: Any) -> ExtendedSubmit:
            self.check_running()
            return self._watched(type, body, dict(terms))[0]

        return Answers(self._jobs, request, watchers, bodies, window, checked_flag("ordered", ordered), loop)

    # Jobs out

    def _later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        return self.check_running().call_later(seconds, function)

    async def _outcome_of(self, job: Awaited, loop: asyncio.AbstractEventLoop) -> Any:
        job.future = loop.create_future()
        self._jobs.submit(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._jobs.cancel(job)
            raise

    def _check_terms_of_map(self, type: str | None, terms: dict[str, Any]) -> tuple[OnProgress, OnReceipt]:
        """Refuse, at the call, the terms for which each single job would be refused; return the callbacks."""
        if "id" in terms:
            raise TypeError("map takes no id: each job has one of its own; its place among the bodies is in the answer")
        watchers = terms.pop("on_progress", None), terms.pop("on_receipt", None)
        self._check_watchers(*watchers)
        unknown = terms.keys() - Terms.__annotations__.keys()
        if unknown:
            allowed = ", ".join(WatchedTerms.__annotations__)
            raise TypeError(f"map takes no {', '.join(sorted(unknown))}; its keywords are window, ordered, {allowed}")
        checked_terms(type, **terms)
        return watchers

    def _check_watchers(self, on_progress: Any, on_receipt: Any) -> None:
        if on_progress is not None:
            checked_function("on_progress", on_progress)
        if on_receipt is not None:
            checked_function("on_receipt", on_receipt)
            if not self._receipts:
                raise ValueError("on_receipt needs a master with receipts: Master(..., receipts=True)")

    def _watched(
        self, type: str | None, body: Any, terms: dict[str, Any]
    ) -> tuple[ExtendedSubmit, OnProgress, OnReceipt]:
        """Return the request of a job with a made-up id, and its callbacks."""
        on_progress, on_receipt = terms.pop("on_progress", None), terms.pop("on_receipt", None)
        return self._submission(type, body, None, on_progress, on_receipt, terms), on_progress, on_receipt

    def _submission(
        self,
        type: str | None,
        body: Any,
        id: str | int | None,
        on_progress: OnProgress,
        on_receipt: OnReceipt,
        terms: Any,
    ) -> ExtendedSubmit:
        if on_progress is not None or on_receipt is not None:
            self._check_watchers(on_progress, on_receipt)
        if id is None:
            id = f"{self._id_prefix}-{next(self._numbers)}"
        else:
            id = checked_id(id)
            if id in self._jobs.by_id:
                raise RequestRefused(IdExists.code, str(id), id)
        return submission(id, type, body, **terms)

    # The broker's side

    def connected(self, connection: BrokerConnection) -> None:
        self._jobs.connected(connection)

    def disconnected(self) -> None:
        self._jobs.disconnected()

    def writable(self, connection: BrokerConnection) -> None:
        self._jobs.writable()

    def broken(self, error: ProtocolError) -> None:
        self._jobs.broken(error)

    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Nothing to do: the unanswered jobs were given up."""

    def give_up(self) -> None:
        self._jobs.give_up(lambda: TransportError("this master was stopped before the answer came"))

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Quiet:
            self.log.info("the broker is about to shut down")
        else:
            self._jobs.heard(event)
