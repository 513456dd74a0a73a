"""
The unanswered jobs of a master: when each is sent, sent again, accepted, refused, answered or cancelled.

Knows the connection and no event loop; times are the business of the caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Raw

from gloom.client.aio.connection import BrokerConnection
from gloom.client.aio.logs import PeerLogger
from gloom.client.backoff import retry_delay_seconds
from gloom.client.session import Event, Outcome, Progressed, Reply
from gloom.client.terms import batches
from gloom.errors import (
    BodyError,
    Busy,
    Draining,
    GloomError,
    InvalidType,
    JobFailed,
    ProtocolError,
    RequestRefused,
    SizeError,
)
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Cancel, ExtendedSubmit, SubmitMany, encode_request

# A job is given up after so many connections that ended with an unreadable message. A broker tries a job as often.
_MOST_BROKEN_CONNECTIONS = 4


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> object:
        """Do not make the call."""


class Job(ABC):
    """
    A job of a master that has no outcome yet.

    Args:
        request: The request that submits it, the first time and again.
        on_progress: Called with each progress value, or None.
        on_receipt: Called with the receipt, or None.
        is_patient: Whether it is submitted again, ever more slowly, where the broker is busy.

    Attributes:
        sent: Whether a broker may have it.
        accepted: Whether a broker has said ok to it.
        broken: How many connections ended with an unreadable message while it was unanswered.
        refusals: How often in a row the broker was too busy for it.
        pause: The timer that submits it again after that, or None.
    """

    __slots__ = (
        "accepted",
        "broken",
        "is_patient",
        "on_progress",
        "on_receipt",
        "pause",
        "refusals",
        "request",
        "sent",
    )

    def __init__(
        self,
        request: ExtendedSubmit,
        on_progress: Callable[[Any], object] | None = None,
        on_receipt: Callable[[Mapping[str, Any]], object] | None = None,
        is_patient: bool = False,
    ) -> None:
        self.request = request
        self.on_progress = on_progress
        self.on_receipt = on_receipt
        self.is_patient = is_patient
        self.sent = self.accepted = False
        self.broken = self.refusals = 0
        self.pause: Timer | None = None

    @abstractmethod
    def resolve(self, answer: Any) -> None:
        """Take the answer."""

    @abstractmethod
    def reject(self, error: Exception) -> None:
        """Take the reason why there will be no answer."""


class Jobs:
    """
    The unanswered jobs of one master.

    Args:
        log: For callbacks of users that raise.
        later: Calls a function after some seconds.

    Attributes:
        by_id: The jobs, oldest first.
    """

    def __init__(self, log: PeerLogger, later: Callable[[float, Callable[[], None]], Timer]) -> None:
        self.by_id: dict[str | int, Job] = {}
        self._log = log
        self._later = later
        self._connection: BrokerConnection | None = None
        # Cancelled on this connection, and whether the broker has said ok to that: other messages
        # with these ids are about the cancelled jobs, so the next job with such an id is not sent yet.
        self._cancelled: dict[str | int, bool] = {}
        # The jobs of each submit_many without a reply, oldest first.
        self._batches: deque[list[Job]] = deque()
        # Not sent yet, because the transport is full; in their order.
        self._held: dict[Job, None] = {}

    # Callers

    def submit(self, job: Job) -> None:
        """Keep *job* until its outcome, and send it as soon as it can be sent."""
        self.by_id[job.request.id] = job
        connection = self._connection
        if connection is None or job.request.id in self._cancelled:
            return
        if connection.is_full or self._held:
            self._held[job] = None
        else:
            self._send(connection, job)

    def submit_many(self, jobs: Sequence[Job]) -> None:
        """Keep *jobs*, and send them together."""
        self.by_id.update((job.request.id, job) for job in jobs)
        if self._connection is None:
            return
        encoded = list[tuple[Job, Raw]]()
        for job in jobs:
            try:
                encoded.append((job, Raw(encode_request(job.request))))
            except (TypeError, ValueError, RecursionError) as error:
                self._refuse(job, RequestRefused(InvalidType.code, f"not JSON: {error}", job.request.id))
        for part in batches([len(memoryview(payload)) for _, payload in encoded], self._connection.max_frame_bytes):
            if self._connection.is_full or self._held:
                self._held.update(dict.fromkeys(job for job, _ in encoded[part]))
            else:
                self._send_batch(self._connection, encoded[part])

    def cancel(self, job: Job) -> None:
        """End *job*, for which nobody waits any more; does nothing if it has its outcome."""
        id = job.request.id
        if self.by_id.get(id) is not job:
            return
        self._forget(job)
        connection = self._connection
        if job.sent and connection is not None and not connection.closed:
            connection.ask(Cancel(id))
            self._cancelled[id] = False

    def give_up(self, error_of: Callable[[], GloomError]) -> None:
        """Fail every job."""
        for job in list(self.by_id.values()):
            self._refuse(job, error_of())

    # The connection

    def connected(self, connection: BrokerConnection) -> None:
        """Send every job, with ``attach`` where a broker may have it still."""
        self._connection = connection
        for job in list(self.by_id.values()):
            # Else the refusal of another job made its owner give this one up.
            if self.by_id.get(job.request.id) is job:
                self.submit(job)

    def writable(self) -> None:
        """Send the jobs that wait for room in the transport."""
        while self._held and self._connection is not None and not self._connection.is_full:
            job = next(iter(self._held))
            del self._held[job]
            self._send(self._connection, job)

    def disconnected(self) -> None:
        """Keep the unanswered jobs for the next connection; the cancelled ones ended with this connection."""
        self._connection = None
        self._cancelled.clear()
        self._batches.clear()
        self._held.clear()

    def broken(self, error: ProtocolError) -> None:
        """One of the jobs may be the cause: each is given up after some broken connections."""
        for job in [job for job in self.by_id.values() if job.sent]:
            job.broken += 1
            if job.broken == _MOST_BROKEN_CONNECTIONS:
                self._refuse(job, ProtocolError(f"job {job.request.id!r}: given up, because {error}"))

    def heard(self, event: Event) -> None:
        """Take an event of the broker."""
        kind = type(event)
        if kind is Outcome:
            self._outcome_came(event)  # type: ignore[arg-type]
        elif kind is Reply:
            self._replied(event)  # type: ignore[arg-type]
        elif kind is Progressed:
            self._progressed(event)  # type: ignore[arg-type]

    # Requests out

    def _send(self, connection: BrokerConnection, job: Job) -> None:
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

    def _send_batch(self, connection: BrokerConnection, batch: list[tuple[Job, Raw]]) -> None:
        if len(batch) == 1:
            self._send(connection, batch[0][0])
            return
        connection.ask(SubmitMany([payload for _, payload in batch]))
        self._batches.append([job for job, _ in batch])
        for job, _ in batch:
            job.sent = True

    # Events in

    def _outcome_came(self, outcome: Outcome) -> None:
        id = outcome.id
        if self._cancelled and id in self._cancelled:
            if self._cancelled[id]:
                self._free(id)
            return
        job = self.by_id.get(id)
        if job is None or not job.accepted:
            return
        if isinstance(outcome.error, JobFailed) and outcome.error.error == Draining.code:
            self._keep(job)
            return
        self._forget(job)
        if job.on_receipt is not None and outcome.receipt is not None:
            self._tell(job, job.on_receipt, outcome.receipt)
        _settle(job, outcome)

    def _replied(self, reply: Reply) -> None:
        request = reply.request
        if type(request) is ExtendedSubmit:
            job = self.by_id.get(request.id)
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
            if self.by_id.get(job.request.id) is job:  # else it was cancelled
                self._decided(job, _refusal_in(reply, index, job.request.id))

    def _decided(self, job: Job, error: RequestRefused | None) -> None:
        if error is None:
            job.accepted = True
            job.refusals = 0
        elif error.error == Draining.code:
            self._keep(job)
        elif error.error == Busy.code and job.is_patient:
            self._keep(job)
            job.pause = self._later(retry_delay_seconds(job.refusals), lambda: self._again(job))
            job.refusals += 1
        else:
            self._refuse(job, error)

    def _keep(self, job: Job) -> None:
        """The broker does not have it any more: it goes out again, at the latest with the next connection."""
        job.sent = job.accepted = False

    def _again(self, job: Job) -> None:
        job.pause = None
        if not job.sent:  # else a new connection was earlier
            self.submit(job)

    def _progressed(self, progress: Progressed) -> None:
        job = self.by_id.get(progress.id)
        if job is None or job.on_progress is None or not job.accepted:
            return
        try:
            value = decode_body(progress.body)
        except BodyError as error:
            self._log.warning("the progress of %r cannot be read: %s", progress.id, error)
            return
        self._tell(job, job.on_progress, value)

    def _tell(self, job: Job, told: Callable[[Any], object], value: Any) -> None:
        try:
            told(value)
        except Exception:
            # The job has nothing to do with it.
            self._log.exception("a callback of job %r raised", job.request.id)

    # Ends

    def _free(self, id: str | int) -> None:
        """The broker has forgotten a job that was cancelled: the next one with its id may go out."""
        del self._cancelled[id]
        job = self.by_id.get(id)
        if job is not None:
            self.submit(job)

    def _refuse(self, job: Job, error: GloomError) -> None:
        # Else it was given up in the meantime.
        if self.by_id.get(job.request.id) is job:
            self._forget(job)
            job.reject(error)

    def _forget(self, job: Job) -> None:
        del self.by_id[job.request.id]
        if self._held:
            self._held.pop(job, None)
        if job.pause is not None:
            job.pause.cancel()
            job.pause = None


def _settle(job: Job, outcome: Outcome) -> None:
    if outcome.error is not None:
        job.reject(outcome.error)
        return
    try:
        answer = decode_body(outcome.body)
    except BodyError as error:
        job.reject(BodyError(f"job {outcome.id!r}: {error}", outcome.id))
    else:
        job.resolve(answer)


def _refusal_in(reply: Reply, index: int, id: str | int) -> RequestRefused | None:
    """Return why one job of a ``submit_many`` was refused, or None."""
    if reply.error is not None:
        return RequestRefused(reply.error.error, reply.error.reason, id)
    said = reply.message.jobs[index] if index < len(reply.message.jobs) else {}
    if said.get("ok") is True:
        return None
    return RequestRefused(str(said.get("error")), str(said.get("reason", "")), id)
