"""
The verbs of the two ports: a request becomes a verb of the broker, what the broker says becomes frames.

Implements docs/protocol.md, sections 3 and 4, between `gloom.wire.messages` and
`gloom.broker.interfaces.IBroker`. No job logic here, and no Deferred: everything is
synchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, Raw
from zope.interface import implementer

from gloom.broker.interfaces import IMasterPeer, ISlavePeer
from gloom.broker.values import ATTACH_TERMS, BASE_TERMS, Failure, JobKey, Receipt, Terms, text_of
from gloom.errors import IdExists, InvalidType, MissingField, ProtocolError
from gloom.server.peers import OK_FRAME, PeerFactory, PeerProtocol
from gloom.server.surroundings import Surroundings
from gloom.transport.sending import FlushTurn
from gloom.wire.encoding import (
    CANCELLED,
    CANCELLING,
    encode_answer,
    encode_batch,
    encode_extended_failure,
    encode_failure,
    encode_job,
    encode_progress,
    encode_receipted_answer,
    encode_revocation,
)
from gloom.wire.messages import (
    MASTER,
    SLAVE,
    Cancel,
    ExtendedJoin,
    ExtendedRespond,
    ExtendedSubmit,
    Fail,
    Hello,
    Join,
    Leave,
    Ping,
    Progress,
    Respond,
    Submit,
    SubmitMany,
    Vocabulary,
    decode_job,
    key_of,
)

# A master that has so many jobs in flight goes on while its answers wait for a moment.
_MANY_IN_FLIGHT = 16
#: After so many jobs of one request the time is looked at.
JOBS_A_STEP = 4


@implementer(IMasterPeer)
class MasterProtocol(PeerProtocol):
    """A connection on the master port."""

    role = MASTER
    base = Vocabulary(MASTER, extended=False)
    extended = Vocabulary(MASTER, extended=True)
    features = (
        "attach", "cancel", "delay", "expires", "progress", "quiet", "receipt",
        "require_slave", "retries", "submit_many", "timeout",
    )  # fmt: skip
    __slots__ = ("_batch", "_held_ids", "_master", "wants_receipts")

    def __init__(self, factory: PeerFactory[Any]) -> None:
        super().__init__(factory)
        self.wants_receipts = False
        self._batch: list[ProtocolError | None] | None = None
        # The jobs whose outcomes are held until the reply to the batch: their ids are taken until then.
        self._held_ids: set[JobKey] = set()

    @staticmethod
    def flushes_of(around: Surroundings) -> FlushTurn:
        return around.answers

    def enter(self) -> None:
        self._master = self._broker.master_connected(self)

    def gone(self) -> None:
        self._broker.master_lost(self._master, self._seconds())
        # Each refers to the other: kept, they would be garbage only the collector finds.
        del self._master

    def hello(self, request: Hello) -> None:
        super().hello(request)
        self.wants_receipts = "receipt" in self.accepts

    # Verbs

    def submit(self, request: Submit) -> None:
        """Queue a job, base level."""
        self._submit(request, BASE_TERMS)

    def extended_submit(self, request: ExtendedSubmit) -> None:
        """Queue a job, extended level."""
        self._submit(request, _terms(request))

    def _submit(self, request: Submit, terms: Terms) -> None:
        id, type = request.id, request.type
        if type is None and self._settings.require_type:
            raise MissingField("type is required by this broker (--require-type): a string of 1 to 255 characters")
        if self._identity is not None:
            self.check_type(type)
        key, seconds = id if isinstance(id, str) else key_of(id), self._seconds
        payload = encode_job(key, type, request.body)
        # Opaque to the broker, which only gives it back: a map serves as well as bytes.
        self._broker.submit(self._master, key, type, request.priority, payload, terms, seconds())  # type: ignore[arg-type]

    def submit_many(self, request: SubmitMany) -> None:
        """Queue jobs; the one reply says of each whether it was."""
        self.work_off(self._submit_each(request.jobs))

    def _submit_each(self, jobs: Sequence[Raw]) -> Generator[None, None, None]:
        self._batch = batch = []
        try:
            for first in range(0, len(jobs), JOBS_A_STEP):
                for job in jobs[first : first + JOBS_A_STEP]:
                    try:
                        self._submit_of_batch(decode_job(job))
                    except ProtocolError as error:
                        self.note_refusal(error)
                        # Without the stack that it was raised on: thousands of them are kept until the reply.
                        batch.append(error.with_traceback(None))
                yield
        finally:
            self._batch = None
        self._held_ids.clear()
        outcomes = self.release()
        self.sendString(encode_batch(batch))
        for outcome in outcomes:
            self.send_frame(outcome)

    def _submit_of_batch(self, request: ExtendedSubmit) -> None:
        if self._held_ids and key_of(request.id) in self._held_ids:
            # The master would take the outcome of the job before for that of this one.
            raise IdExists(text_of(request.id))
        self.extended_submit(request)

    def cancel(self, request: Cancel) -> None:
        """End a job of this master."""
        self._broker.cancel(self._master, key_of(request.id), self._seconds())

    # What the broker tells

    def can_wait(self) -> bool:
        # One that waits for few answers is perhaps not doing anything until it has one.
        return not self._is_gone and self._broker.in_flight(self._master) >= _MANY_IN_FLIGHT

    def accepted(self) -> None:
        if self._batch is None:
            self.send_frame(OK_FRAME)
        else:
            self._batch.append(None)

    def cancelling(self, running: bool) -> None:
        """See `IMasterPeer.cancelling`."""
        self.sendString(CANCELLING if running else CANCELLED)

    def answered(self, id: JobKey, body: bytes, receipt: Receipt | None) -> None:
        """See `IMasterPeer.answered`."""
        if self._batch is not None:
            self._held_ids.add(id)
        if receipt is None:
            self.sendString(encode_answer(id, body))
        else:
            self.sendString(
                encode_receipted_answer(
                    id, body, receipt.queued_seconds, receipt.ran_seconds, receipt.attempts, receipt.slave
                )
            )

    def progressed(self, id: JobKey, body: bytes) -> None:
        """See `IMasterPeer.progressed`."""
        if "progress" in self.accepts:
            self.sendString(encode_progress(id, body))

    def failed(self, id: JobKey, failure: Failure) -> None:
        """See `IMasterPeer.failed`."""
        if self._batch is not None:
            self._held_ids.add(id)
        if self._is_extended:
            message = encode_extended_failure(
                id, failure.error, failure.reason, failure.kind, failure.traceback, failure.attempts
            )
        else:
            message = encode_failure(id, failure.error, failure.reason)
        self.sendString(message)

    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        Submit: submit,
        ExtendedSubmit: extended_submit,
        SubmitMany: submit_many,
        Cancel: cancel,
        Hello: hello,
        Ping: PeerProtocol.ping,
    }


def _key_of(id: str | int | None) -> JobKey | None:
    return None if id is None else key_of(id)


def _terms(request: ExtendedSubmit) -> Terms:
    # Nearly all jobs of our clients ask for nothing: they share these two.
    if (
        request.timeout is None
        and request.expires is None
        and request.delay is None
        and request.retries is None
        and not request.require_slave
    ):
        return ATTACH_TERMS if request.attach else BASE_TERMS
    return Terms(
        request.attach,
        request.timeout,
        request.expires,
        request.delay or 0.0,
        request.retries,
        request.require_slave,
    )


@implementer(ISlavePeer)
class SlaveProtocol(PeerProtocol):
    """A connection on the slave port."""

    role = SLAVE
    base = Vocabulary(SLAVE, extended=False)
    extended = Vocabulary(SLAVE, extended=True)
    features = ("cancel", "fail", "leave", "progress", "quiet", "slots", "types")
    __slots__ = ("_slave",)

    def enter(self) -> None:
        self._slave = self._broker.slave_connected(self)

    def gone(self) -> None:
        self._broker.slave_lost(self._slave, self._seconds())
        # As with a master.
        del self._slave

    # Verbs

    def join(self, request: Join) -> None:
        """Take jobs of a type, one at a time."""
        self._join((request.type,), 1)

    def extended_join(self, request: ExtendedJoin) -> None:
        """Take jobs of one or several types, one or several at once."""
        if request.types is not None:
            if request.type is not UNSET:
                raise InvalidType("types must not come with type: join takes one of the two")
            self._join(request.types, request.slots)
        elif request.type is UNSET:
            raise MissingField("type is required by join, or types: a string, null, or a list of strings")
        else:
            self._join((request.type,), request.slots)

    def _join(self, types: Sequence[str | None], slots: int) -> None:
        for type in types:
            self.check_type(type)
        # Untyped jobs go to every slave, unless the access rules keep them from it.
        untyped = (None,) if self.may_have(None) else ()
        self._broker.join(self._slave, (*types, *untyped), slots, self._seconds())

    def respond(self, request: Respond) -> None:
        """Answer the job in hand, base level."""
        seconds = self._seconds
        self._broker.respond(self._slave, None, request.body, seconds())

    def extended_respond(self, request: ExtendedRespond) -> None:
        """Answer a job in hand, extended level."""
        seconds = self._seconds
        self._broker.respond(self._slave, _key_of(request.id), request.body, seconds())

    def fail(self, request: Fail) -> None:
        """End a job in hand as failed."""
        self._broker.fail(
            self._slave,
            _key_of(request.id),
            request.reason,
            request.kind,
            request.traceback,
            request.retry,
            self._seconds(),
        )

    def progress(self, request: Progress) -> None:
        """Pass on how a job in hand gets on."""
        self._broker.progress(self._slave, _key_of(request.id), request.body)

    def leave(self, request: Leave) -> None:
        """Take no more jobs."""
        self._broker.leave(self._slave)

    # What the broker tells

    def assigned(self, payload: bytes) -> bool:
        """See `ISlavePeer.assigned`."""
        self.sendString(payload)
        return self._has_large_output

    def output_blocked(self) -> None:
        if not self._is_ending():
            self._broker.slave_blocked(self._slave)

    def output_ready(self) -> None:
        if not self._is_ending():
            self._broker.slave_ready(self._slave, self._seconds())

    def _is_ending(self) -> bool:
        return self._closed or self._is_gone

    def revoked(self, id: JobKey) -> None:
        """See `ISlavePeer.revoked`."""
        if "cancel" in self.accepts:
            self.sendString(encode_revocation(id))

    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        Join: join,
        ExtendedJoin: extended_join,
        Respond: respond,
        ExtendedRespond: extended_respond,
        Fail: fail,
        Progress: progress,
        Leave: leave,
        Hello: PeerProtocol.hello,
        Ping: PeerProtocol.ping,
    }
