"""
The client's side of the protocol without input or output: requests out, events in.

Implements docs/protocol.md, section 1.4: they come in the
order of the requests, so a session remembers which request is the oldest
unanswered one. Shared by every client; imports no Twisted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import Raw, Struct

from gloom.client.salvage import salvaged
from gloom.errors import BodyError, JobFailed, ProtocolError, RequestRefused
from gloom.wire.messages import OK, BrokerMessage, Hello, Progress, Request, decode_broker_message, encode_request

# Half of what a client hears: read once.
_OK_MESSAGE = decode_broker_message(OK)


class Greeting(Hello, tag="hello"):
    """A ``hello`` whose token is in no log: it is not shown."""

    def __repr__(self) -> str:
        return f"Greeting(name={self.name!r})"


class Reply(Struct, frozen=True):
    """
    The broker's reply to one request.

    Attributes:
        request: The request that it answers.
        error: Why it was refused, or None.
        message: The whole reply.
    """

    request: Request
    error: RequestRefused | None
    message: BrokerMessage


class Outcome(Struct, frozen=True):
    """
    How a job of this master ended.

    Attributes:
        id: The job's id.
        body: The answer, as JSON; empty where the job failed.
        error: Why it failed, or None; a `BodyError` where the broker's message cannot be read.
        receipt: How the job went (``queued``, ``ran``, ``attempts``, ``slave``),
            where receipts were asked for and it has an answer.
    """

    id: str | int
    body: Raw
    error: JobFailed | BodyError | None
    receipt: dict[str, Any] | None = None


class Progressed(Struct, frozen=True):
    """
    How a job of this master gets on.

    Attributes:
        id: The job's id.
        body: What its slave said of it, as JSON.
    """

    id: str | int
    body: Raw


class Assignment(Struct, frozen=True):
    """
    A job for this slave.

    Attributes:
        id: The job's id.
        type: The job type, or None for an untyped job.
        body: What the master sent, as JSON.
    """

    id: str | int
    type: str | None
    body: Raw


class UnreadableJob(Struct, frozen=True):
    """
    A job for this slave that cannot be read, but for its id; the slave has it in hand.

    Attributes:
        id: The job's id.
        error: The reason why it cannot be read.
    """

    id: str | int
    error: BodyError


class Revocation(Struct, frozen=True):
    """
    The broker has ended an attempt of this slave: cancelled, or out of time.

    The slave has it in hand until it answers or fails it; nobody hears what it says.

    Attributes:
        id: The job's id.
    """

    id: str | int


class Quiet(Struct, frozen=True):
    """The broker is about to shut down."""


Event = Reply | Outcome | Progressed | Assignment | UnreadableJob | Revocation | Quiet


class Session:
    """
    One connection, as its client sees it.

    Attributes:
        unanswered: The requests that have no reply yet, oldest first.
    """

    def __init__(self) -> None:
        self.unanswered: deque[Request] = deque()

    def ask(self, request: Request) -> bytes:
        """Return the payload of the frame that carries *request*, and expect its reply, if it will have one."""
        payload = encode_request(request)
        if type(request) is not Progress:
            self.unanswered.append(request)
        return payload

    def take_back(self, request: Request) -> None:
        """Expect no reply to *request*, the last that was asked: it is not sent after all."""
        if self.unanswered and self.unanswered[-1] is request:
            self.unanswered.pop()

    def receive(self, frame: bytes) -> Event | None:
        """
        Return what *frame*, a payload from the broker, says.

        Returns:
            None for a kind of message that this version does not know
            (unknown kinds are ignored, section 1.4).

        Raises:
            ProtocolError: It is not a message, or a reply without a request.
                Where at least the job's id can be read, that job has failed instead.
        """
        if frame == OK and self.unanswered:
            # The short way, for half of what a client hears.
            return Reply(self.unanswered.popleft(), None, _OK_MESSAGE)
        try:
            return self._read(frame)
        except (ProtocolError, BodyError) as error:
            if any(isinstance(request, Hello) for request in self.unanswered):
                raise  # is it a broker?
            return _unreadable(frame, error)

    def _read(self, frame: bytes) -> Event | None:
        message = decode_broker_message(frame)
        if message.action is not None:
            return _unasked(message)
        if message.id is not None:
            return _of_job(message, message.id)
        return self._reply(message)

    def _reply(self, message: BrokerMessage) -> Reply:
        if not self.unanswered:
            raise ProtocolError(f"the broker replied to no request: {message.error or message.ok}")
        request = self.unanswered.popleft()
        if message.error is not None:
            id = getattr(request, "id", None)
            return Reply(request, RequestRefused(message.error, message.reason, id), message)
        # The README of 2009 shows "true"; its code sends, and this broker sends, true.
        if message.ok is not True and message.ok != "true":
            raise ProtocolError(f"a reply must have ok or error, got neither for {type(request).__name__}")
        return Reply(request, None, message)


def _unreadable(frame: bytes, error: ProtocolError | BodyError) -> Event | None:
    """Return the event of the one job that *frame* is about; raise *error* where no job is known."""
    found = salvaged(frame)
    if found is None:
        raise error
    told = BodyError(f"job {found.id!r}: {error}", found.id)
    if found.action is None:
        return Progressed(found.id, Raw()) if found.is_progress else Outcome(found.id, Raw(), told)
    return UnreadableJob(found.id, told) if found.action == "job" else None


def _unasked(message: BrokerMessage) -> Event | None:
    if message.action == "job":
        return _assignment(message)
    if message.action == "cancel":
        if message.id is None:
            raise ProtocolError("a cancel must have an id")
        return Revocation(message.id)
    return Quiet() if message.action == "quiet" else None


def _of_job(message: BrokerMessage, id: str | int) -> Outcome | Progressed:
    if memoryview(message.progress):
        return Progressed(id, message.progress)
    return _outcome(message, id)


def _assignment(message: BrokerMessage) -> Assignment:
    if message.id is None or not memoryview(message.body):
        raise ProtocolError("a job must have an id and a body")
    return Assignment(message.id, message.type, message.body)


def _outcome(message: BrokerMessage, id: str | int) -> Outcome:
    if message.error is not None:
        failed = JobFailed(message.error, message.reason, id, message.kind, message.traceback, message.attempts)
        return Outcome(id, message.body, failed)
    if not memoryview(message.body):
        raise ProtocolError(f"an outcome must have a body or an error, job {id!r} has neither")
    return Outcome(id, message.body, None, message.receipt)
