"""
The jobs of a Deferred master that have no outcome: sent, sent again on the next connection, and settled once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred

from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.unanswered import Unanswered, refusal_in
from gloom.client.session import Outcome, Progressed, Reply
from gloom.client.terms import batches
from gloom.errors import (
    BodyError,
    Draining,
    GloomError,
    InvalidType,
    JobFailed,
    ProtocolError,
    RequestRefused,
    SizeError,
    TransportError,
)
from gloom.logs import PeerLogger
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Cancel, ExtendedSubmit, SubmitMany, encode_request

# A job is given up after so many connections that ended with an unreadable message: the broker's default
# of attempts a job.
_MOST_BROKEN_CONNECTIONS = 4


class JobsInFlight:
    """
    The jobs of one master: each is sent, and its outcome settles it.

    Without a connection, jobs wait for the next one. A callback of one job may
    cancel others, or add some.

    Args:
        name: The master's name in the log.
    """

    log = PeerLogger()

    def __init__(self, name: str) -> None:
        self._name = name
        self._connection: BrokerConnection | None = None
        self._jobs: dict[str | int, Unanswered] = {}
        # The ids of jobs that were cancelled on this connection, and whether the broker has accepted the cancel.
        # Until its outcome has come, messages with such an id belong to that job, and a new one waits.
        self._cancelled: dict[str | int, bool] = {}
        # The jobs of each submit_many without a reply, oldest first.
        self._batches: deque[list[Unanswered]] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, id: str | int) -> bool:
        return id in self._jobs

    # From the master

    def add(
        self,
        request: ExtendedSubmit,
        on_progress: Callable[[Any], object] | None,
        on_receipt: Callable[[Mapping[str, Any]], object] | None,
    ) -> Unanswered:
        """Return a new job, which `send` or `send_many` sends."""
        job = Unanswered(request, Deferred(lambda _: self._cancel(job)), on_progress, on_receipt)
        self._jobs[request.id] = job
        return job

    def send(self, job: Unanswered) -> None:
        """Send *job* now, if there is a connection and the broker has forgotten a cancelled job of the same id."""
        if self._connection is not None and job.request.id not in self._cancelled:
            self._send(self._connection, job)

    def send_many(self, jobs: Iterable[Unanswered]) -> None:
        """Send *jobs* now, if there is a connection, in as few frames as the broker's limit allows."""
        connection = self._connection
        if connection is None:
            return
        encoded = list[tuple[Unanswered, Raw]]()
        for job in jobs:
            try:
                encoded.append((job, Raw(encode_request(job.request))))
            except (TypeError, ValueError, RecursionError) as error:
                self._refuse(job, RequestRefused(InvalidType.code, f"not JSON: {error}", job.request.id))
        for part in batches([len(memoryview(payload)) for _, payload in encoded], connection.max_frame_bytes):
            self._send_batch(connection, encoded[part])

    def connected(self, connection: BrokerConnection) -> None:
        """Send every job on a new *connection*."""
        self._connection = connection
        for job in list(self._jobs.values()):
            # The refusal of an earlier one may have made its owner cancel this one.
            if self._jobs.get(job.request.id) is job:
                self._send(connection, job)

    def disconnected(self) -> None:
        """Keep every job for the next connection; the cancelled ones ended with this one."""
        self._connection = None
        self._cancelled.clear()
        self._batches.clear()

    def connection_broke(self, error: ProtocolError) -> None:
        """Give up each job that was unanswered on too many connections that ended with an unreadable message."""
        self._connection = None
        for job in [job for job in self._jobs.values() if job.sent]:
            job.broken += 1
            if job.broken == _MOST_BROKEN_CONNECTIONS:
                self._refuse(job, ProtocolError(f"job {job.request.id!r}: given up, because {error}"))

    def give_up(self) -> None:
        """Fail every job: the master stops."""
        self._connection = None
        for job in list(self._jobs.values()):
            self._refuse(job, TransportError("this master was stopped before the answer came"))

    # From the broker

    def outcome_came(self, outcome: Outcome) -> None:
        """Settle the job of *outcome*."""
        job = self._jobs.get(outcome.id)
        if outcome.id in self._cancelled:
            if self._cancelled[outcome.id]:
                self._free(outcome.id)
        elif job is not None and job.accepted:
            if isinstance(outcome.error, JobFailed) and outcome.error.error == Draining.code:
                job.keep()
                return
            del self._jobs[outcome.id]
            if job.on_receipt is not None and outcome.receipt is not None:
                self._call(job, job.on_receipt, outcome.receipt)
            job.settle(outcome)

    def replied(self, reply: Reply) -> None:
        """Note whether the broker has accepted a request."""
        request = reply.request
        if type(request) is ExtendedSubmit:
            job = self._jobs.get(request.id)
            if job is not None and job.request is request:  # else it was cancelled
                self._decided(job, reply.error)
        elif type(request) is SubmitMany:
            self._batch_replied(reply)
        elif type(request) is Cancel:
            if reply.error is None:
                self._cancelled[request.id] = True  # its outcome follows
            else:
                self._free(request.id)

    def progressed(self, progress: Progressed) -> None:
        """Call the job's ``on_progress`` with the value in *progress*."""
        job = self._jobs.get(progress.id)
        if job is None or job.on_progress is None or not job.accepted:
            return
        try:
            value = decode_body(progress.body)
        except BodyError as error:
            text = "{name}: the progress of {id!r} cannot be read: {error}"
            self.log.warn(text, name=self._name, id=progress.id, error=error)
            return
        self._call(job, job.on_progress, value)

    # Sending

    def _send(self, connection: BrokerConnection, job: Unanswered) -> None:
        request = job.request
        # A broker may have it from an earlier connection: this master is its master again.
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
            # The broker would end the connection, and with it every other job on it.
            self._refuse(job, RequestRefused(SizeError.code, too_large, request.id))

    def _send_batch(self, connection: BrokerConnection, batch: list[tuple[Unanswered, Raw]]) -> None:
        if len(batch) == 1:
            self._send(connection, batch[0][0])
            return
        connection.ask(SubmitMany([payload for _, payload in batch]))
        self._batches.append([job for job, _ in batch])
        for job, _ in batch:
            job.sent = True

    # Decisions of the broker

    def _batch_replied(self, reply: Reply) -> None:
        for index, job in enumerate(self._batches.popleft()):
            if self._jobs.get(job.request.id) is job:  # else it was cancelled
                self._decided(job, refusal_in(reply, index, job.request.id))

    def _decided(self, job: Unanswered, error: RequestRefused | None) -> None:
        if error is None:
            job.accepted = True
        elif error.error == Draining.code:
            job.keep()
        else:
            self._refuse(job, error)

    def _call(self, job: Unanswered, callback: Callable[[Any], object], value: Any) -> None:
        try:
            callback(value)
        except Exception:
            # The user's error, which does not concern the job.
            text = "{name}: a callback of job {id!r} raised an exception"
            self.log.failure(text, name=self._name, id=job.request.id)

    # Ends

    def _cancel(self, job: Unanswered) -> None:
        id = job.request.id
        del self._jobs[id]
        connection = self._connection
        if job.sent and connection is not None and not connection.closed:
            connection.ask(Cancel(id))
            self._cancelled[id] = False

    def _free(self, id: str | int) -> None:
        """Send the next job with *id*: the broker has forgotten the cancelled one."""
        del self._cancelled[id]
        job = self._jobs.get(id)
        if job is not None and self._connection is not None:
            self._send(self._connection, job)

    def _refuse(self, job: Unanswered, error: GloomError) -> None:
        # The failure of another job may have made its owner cancel this one: then its Deferred has fired.
        if self._jobs.get(job.request.id) is job:
            del self._jobs[job.request.id]
            job.deferred.errback(error)
