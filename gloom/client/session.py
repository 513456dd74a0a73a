"""
The client's side of the protocol without input or output: requests out, events in.

Implements docs/protocol.md, section 1.4: the broker replies in request order, so
a session remembers the requests that have no reply yet. Every client uses it.
Imports no Twisted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import Raw, Struct

from gloom.client.salvage import salvaged
from gloom.errors import BodyError, JobFailed, ProtocolError, RequestRefused
from gloom.wire.messages import OK, BrokerMessage, Hello, Progress, Request, decode_broker_message, encode_request

# Decoded once: half of all messages to a client are this one.
_OK_MESSAGE = decode_broker_message(OK)


class Greeting(Hello, tag="hello"):
    """A ``hello`` that shows no token in a log or an error."""

    def __repr__(self) -> str:
        return f"Greeting(name={self.name!r})"


class Reply(Struct, frozen=True):
    """
    The broker's reply to one request.

    Attributes:
        request: The request.
        error: The reason why the broker refused it, or None.
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
        body: The answer, as JSON; empty if the job failed.
        error: The reason why it failed, or None; a `BodyError` if the broker's message cannot be read.
        receipt: A mapping with ``queued``, ``ran``, ``attempts`` and ``slave``, for an answer
            on a connection that asked for receipts; else None.
    """

    id: str | int
    body: Raw
    error: JobFailed | BodyError | None
    receipt: dict[str, Any] | None = None


class Progressed(Struct, frozen=True):
    """
    Progress of a job of this master.

    Attributes:
        id: The job's id.
        body: The value that its slave sent, as JSON.
    """

    id: str | int
    body: Raw


class Assignment(Struct, frozen=True):
    """
    A job for this slave.

    Attributes:
        id: The job's id.
        type: The job type, or None for an untyped job.
        body: The job's body, as JSON.
    """

    id: str | int
    type: str | None
    body: Raw


class UnreadableJob(Struct, frozen=True):
    """
    A job for this slave of which only the id can be read; it takes a slot as any other job.

    Attributes:
        id: The job's id.
        error: The reason why it cannot be read.
    """

    id: str | int
    error: BodyError


class Revocation(Struct, frozen=True):
    """
    The broker has ended an attempt of this slave: the job was cancelled, or its time is over.

    The slot stays taken until the slave answers or fails the job; the broker drops that answer.

    Attributes:
        id: The job's id.
    """

    id: str | int


class Quiet(Struct, frozen=True):
    """The broker will shut down soon."""


Event = Reply | Outcome | Progressed | Assignment | UnreadableJob | Revocation | Quiet


class Session:
    """
    The state of the protocol on one connection, on the client's side.

    Attributes:
        unanswered: The requests that have no reply yet, oldest first.
    """

    def __init__(self) -> None:
        self.unanswered: deque[Request] = deque()

    def ask(self, request: Request) -> bytes:
        """Return the payload of the frame for *request*, and expect its reply unless its kind has none."""
        payload = encode_request(request)
        if type(request) is not Progress:
            self.unanswered.append(request)
        return payload

    def take_back(self, request: Request) -> None:
        """Expect no reply to *request*, the last one of `ask`: it will not be sent."""
        if self.unanswered and self.unanswered[-1] is request:
            self.unanswered.pop()

    def receive(self, frame: bytes) -> Event | None:
        """
        Return the event in *frame*, a payload from the broker.

        Returns:
            None for a kind of message that this version does not know
            (unknown kinds are ignored, section 1.4).

        Raises:
            ProtocolError: *frame* is not a message, or a reply without a request. If the
                id of a job can be read in it, an event that fails this job is returned instead.
        """
        if frame == OK and self.unanswered:
            # A shortcut for half of all messages.
            return Reply(self.unanswered.popleft(), None, _OK_MESSAGE)
        try:
            return self._read(frame)
        except (ProtocolError, BodyError) as error:
            if any(isinstance(request, Hello) for request in self.unanswered):
                raise  # perhaps the other side is no broker
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
        # The README of 2009 has the string "true"; its code and this broker send true.
        if message.ok is not True and message.ok != "true":
            raise ProtocolError(f"a reply must have ok or error, got neither for {type(request).__name__}")
        return Reply(request, None, message)


def _unreadable(frame: bytes, error: ProtocolError | BodyError) -> Event | None:
    """Return an event that fails the job of *frame*; raise *error* if no id of a job can be read."""
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
