"""
The wire's vocabulary, and the one place where bytes become values.

Implements the field tables of docs/protocol.md, sections 3 and 4. Nothing here
knows a connection, a job's state or a limit; past this room there is no JSON.
``body`` values stay `msgspec.Raw`, the sender's own bytes: the broker never
decodes them and never writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gloom.errors import (
    InvalidAction,
    InvalidState,
    InvalidType,
    ProtocolError,
    UnknownAction,
)
from gloom.wire.largebytes import Payload
from gloom.wire.nesting import (
    BODY_LEVELS,
    MESSAGE_LEVELS,
    NEVER_DEEP_BYTES,
    cut,
    has_more,
    is_deeper,
    with_room,
)
from gloom.wire.refusals import (
    MOST_VALUES,
    fault_of,
    fault_of_job,
    fault_of_lists,
    quote,
    read_fields,
    read_verb,
    verb_of,
)

PROTOCOL_VERSION = 1

# A message with more commas is searched for long lists before it becomes values.
_MANY_COMMAS = 100_000
# Over these limits a message that is nested too deeply is refused at once; in a smaller one the jobs
# of a submit_many are read.
_FEW_BRACKETS = 200_000
_FEW_BYTES = 4 << 20
_TOO_DEEP = f"the message is nested more than {MESSAGE_LEVELS} levels deep, a body in it may have {BODY_LEVELS}"
_JOB_TOO_DEEP = f"the job is nested more than {MESSAGE_LEVELS} levels deep, a body in it may have {BODY_LEVELS}"

# No control characters, no separators of lines, and nothing that turns the direction of writing.
_PLAIN = "^[^\\x00-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*\\Z"

ShortText = Annotated[str, Meta(min_length=1, max_length=255)]
JobId = ShortText | int
JobType = ShortText
PeerName = Annotated[str, Meta(min_length=1, max_length=255, pattern=_PLAIN)]
# The kinds that a peer accepts. The list is searched once, and not kept.
Kinds = Annotated[list[str], Meta(max_length=MOST_VALUES["accept"])]
Priority = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
SomeSeconds = Annotated[float, Meta(gt=0, le=1e9)]
Retries = Annotated[int, Meta(ge=0, le=100)]
JobTypes = Annotated[list[JobType], Meta(min_length=1, max_length=MOST_VALUES["types"])]
# Each takes time and an answer of its own: without a bound one frame could hold up everybody.
Jobs = Annotated[list[Raw], Meta(max_length=MOST_VALUES["jobs"])]
Slots = Annotated[int, Meta(ge=1, le=1000)]


class Request(Struct, tag_field="action", omit_defaults=True):
    """What a peer asks of the broker; the class's tag is the verb on the wire."""


class Hello(Request, tag="hello"):
    """Begin the extended level (section 4)."""

    version: int
    name: PeerName | None = None
    heartbeat: Seconds = 0.0
    accept: Kinds = []
    token: str | None = None


class Ping(Request, tag="ping"):
    """Show life, and ask for it."""


class Submit(Request, tag="submit"):
    """Queue a job, base level (section 3)."""

    id: JobId
    body: Raw
    type: JobType | None = None
    priority: Priority = 0


class ExtendedSubmit(Submit, tag="submit"):
    """Queue a job, extended level (section 4)."""

    attach: bool = False
    timeout: SomeSeconds | None = None
    expires: Seconds | None = None
    delay: Seconds | None = None
    retries: Retries | None = None
    require_slave: bool = False


class SubmitMany(Request, tag="submit_many"):
    """Queue jobs, each with the fields of ``submit``; one reply says of each whether it was."""

    jobs: Jobs


class Cancel(Request, tag="cancel"):
    """End a job of this master."""

    id: JobId


class Join(Request, tag="join"):
    """Take jobs of one type; null takes only untyped jobs."""

    type: JobType | None


class ExtendedJoin(Request, tag="join"):
    """Take jobs of one type or of several, one or several at once, extended level."""

    type: JobType | UnsetType | None = UNSET
    types: JobTypes | None = None
    slots: Slots = 1


class Respond(Request, tag="respond"):
    """Answer the job in hand, base level."""

    body: Raw


class ExtendedRespond(Respond, tag="respond"):
    """Answer the job in hand and name it, extended level."""

    id: JobId | None = None


class Fail(Request, tag="fail"):
    """Say that the job in hand failed."""

    reason: str
    kind: ShortText | None = None
    traceback: str | None = None
    retry: bool = False
    id: JobId | None = None


class Progress(Request, tag="progress"):
    """Say how the job in hand gets on; there is no reply."""

    body: Raw
    id: JobId | None = None


class Leave(Request, tag="leave"):
    """Take no more jobs; those in hand are still answered."""


class BrokerMessage(Struct):
    """
    Anything that a broker sends, as a client reads it.

    An absent ``body`` is an empty `Raw`; unknown keys are ignored.
    """

    action: str | None = None
    id: JobId | None = None
    type: JobType | None = None
    body: Raw = Raw()
    ok: bool | str | None = None
    error: str | None = None
    reason: str = ""
    kind: str | None = None
    traceback: str | None = None
    attempts: list[dict[str, Any]] = []
    version: int | None = None
    server: str | None = None
    max_frame: int | None = None
    heartbeat: float = 0.0
    features: list[str] = []
    progress: Raw = Raw()
    receipt: dict[str, Any] | None = None
    state: str | None = None
    jobs: list[dict[str, Any]] = []


MASTER, SLAVE = "master", "slave"

#: The kinds of message that a peer may accept with ``hello`` (section 4.1).
KINDS = frozenset({"cancel", "progress", "quiet", "receipt"})

#: The verbs of each port by level; extended verbs need a ``hello`` before them.
BASE_REQUESTS: dict[str, tuple[type[Request], ...]] = {
    MASTER: (Hello, Submit),
    SLAVE: (Hello, Join, Respond),
}
EXTENDED_REQUESTS: dict[str, tuple[type[Request], ...]] = {
    MASTER: (Hello, Ping, ExtendedSubmit, SubmitMany, Cancel),
    SLAVE: (Hello, Ping, ExtendedJoin, ExtendedRespond, Fail, Progress, Leave),
}


class Vocabulary:
    """
    What one port understands at one level: frames in, requests out.

    Args:
        role: ``"master"`` or ``"slave"``.
        extended: Whether the peer has said ``hello``.
    """

    def __init__(self, role: str, *, extended: bool) -> None:
        self.role = role
        requests = (EXTENDED_REQUESTS if extended else BASE_REQUESTS)[role]
        self.requests = {verb_of(request): request for request in requests}
        self._verbs = ", ".join(sorted(self.requests))
        self._decode = _decoder_of(requests)
        self._decode_listless = _decoder_of(
            [request for request in requests if not MOST_VALUES.keys() & set(request.__struct_fields__)]
        )

    def decode(self, frame: Payload) -> Request:
        """
        Turn one frame's payload into a request.

        Raises:
            ProtocolError: The frame breaks sections 1 to 4; the reason names
                the field, what it may hold and what it held.
        """
        if len(frame) > NEVER_DEEP_BYTES:
            # Nearly every long body is a text, and has no bracket of its own.
            if (frame.find(b"{", 1) >= 0 or frame.find(b"[") >= 0) and is_deeper(frame, MESSAGE_LEVELS):
                return self._decode_deep(bytes(frame))
            if len(frame) > 2 * _MANY_COMMAS and has_more(frame, _MANY_COMMAS, b","):
                request = self._decode_without_lists(bytes(frame))
                if request is not None:
                    return request
                self._refuse_long_lists(bytes(frame))
        try:
            # msgspec checks UTF-8 only in values that it builds: a body that
            # is not UTF-8 would go through to a slave and break it there.
            if not frame.isascii():
                frame.decode()
            return self._decode(frame)
        except (ValueError, RecursionError) as error:
            # Off the hot path: a second, slower reading finds the words.
            return self._decode_slowly(bytes(frame), error)

    def _decode_without_lists(self, frame: bytes) -> Request | None:
        """Read a request whose values are no lists: nearly always a large body, for which a single reading does."""
        with suppress(ValueError, RecursionError):
            frame.decode()
            return self._decode_listless(frame)
        return None

    def _decode_deep(self, frame: bytes) -> Request:
        """Read a submit_many for those of its jobs that are not too deep; refuse anything else."""
        if is_deeper(frame, MESSAGE_LEVELS + 2):
            if len(frame) > _FEW_BYTES or has_more(frame, _FEW_BRACKETS, b"[", b"{", b"]", b"}"):
                raise InvalidType(_TOO_DEEP)
            # One level more than a job in the list of jobs may have: it stays too deep.
            frame = cut(frame, MESSAGE_LEVELS + 3)
        if has_more(frame, _MANY_COMMAS, b","):
            self._refuse_long_lists(frame)
        try:
            frame.decode()
            request = self._decode(frame)
        except (ValueError, RecursionError) as error:
            request = self._decode_slowly(frame, error)
        if type(request) is not SubmitMany:
            raise InvalidType(_TOO_DEEP)
        return request

    def _refuse_long_lists(self, frame: bytes) -> None:
        """Refuse a list that is far too long before its values are made; any other mistake is left to be found."""
        try:
            fields = with_room(read_fields, frame)
            request = self.requests.get(read_verb(fields, self._verbs), Ping)
        except (RecursionError, ProtocolError):
            return
        fault = fault_of_lists(request, fields)
        if fault is not None:
            raise fault

    def _decode_slowly(self, frame: bytes, error: Exception) -> Request:
        try:
            return with_room(self._decode_again, frame, error)
        except RecursionError:
            raise InvalidType(_TOO_DEEP) from None

    def _decode_again(self, frame: bytes, error: Exception) -> Request:
        """Read *frame* again where the stack was too full for it; else find the words for *error*."""
        if isinstance(error, RecursionError):
            try:
                return self._decode(frame)
            except ValueError as found:
                error = found
        fields = read_fields(frame, error)
        verb = read_verb(fields, self._verbs)
        if verb not in self.requests:
            raise self._refusal_of(verb)
        raise fault_of(self.requests[verb], fields)

    def _refusal_of(self, verb: str) -> ProtocolError:
        other = SLAVE if self.role == MASTER else MASTER
        if verb in _VERBS[self.role]:
            return InvalidState(f"{verb} needs a hello before it on this connection")
        if verb in _VERBS[other]:
            return InvalidAction(f"{verb} is for the {other} port; this is the {self.role} port")
        shown = quote(verb.encode(errors="replace"))
        return UnknownAction(f"action {shown} is unknown; this port has {self._verbs}")


def _decoder_of(requests: Sequence[type[Request]]) -> Callable[[Payload], Request]:
    union: Any = requests[0]
    for request in requests[1:]:
        union |= request
    return msgspec.json.Decoder(union).decode


_VERBS = {role: frozenset(map(verb_of, requests)) for role, requests in EXTENDED_REQUESTS.items()}
_decode_hello = msgspec.json.Decoder(Hello).decode


def decode_hello(frame: Payload) -> Hello | None:
    """
    Read the frame of a peer that is not known yet (section 1.8).

    Returns:
        None if it is anything but a ``hello``.

    Raises:
        ProtocolError: A field of the ``hello`` is wrong.
    """
    if is_deeper(frame, MESSAGE_LEVELS):
        return None
    try:
        frame = bytes(frame)
        frame.decode()
        fields = read_fields(frame)
        if read_verb(fields, "hello") != "hello":
            return None
    except (ValueError, RecursionError, ProtocolError):
        return None
    try:
        return _decode_hello(frame)
    except ValueError:
        raise fault_of(Hello, fields) from None


_decode_job = msgspec.json.Decoder(ExtendedSubmit).decode


def decode_job(job: Raw) -> ExtendedSubmit:
    """
    Read one job of a ``submit_many``; the frame around it has been checked.

    Raises:
        ProtocolError: It is not what ``submit`` takes.
    """
    if len(job) > NEVER_DEEP_BYTES and is_deeper(job, MESSAGE_LEVELS):
        raise InvalidType(_JOB_TOO_DEEP)
    try:
        return _decode_job(job)
    except (ValueError, RecursionError):
        pass
    # Outside of the except clause: the error would keep the exception as its context.
    return with_room(_decode_job_again, job)


def _decode_job_again(job: Raw) -> ExtendedSubmit:
    with suppress(ValueError):
        return _decode_job(job)
    raise fault_of_job(ExtendedSubmit, bytes(job))


OK = b'{"ok":true}'

_encode = msgspec.json.Encoder().encode
_decode_broker_message = msgspec.json.Decoder(BrokerMessage).decode


def key_of(id: str | int) -> str | bytes:
    """
    Return *id* as the broker and `gloom.wire.encoding` use it: a string as it is, an integer as its digits.

    Python's hash of an integer can be foreseen, so a peer could choose integers
    that all collide in a dict; that of bytes, as that of a string, is keyed
    with a secret (decision 21). Bytes equal no string.
    """
    return id if type(id) is str else _encode(id)


def encode_request(request: Request) -> bytes:
    """Return the payload that carries *request*."""
    return _encode(request)


def decode_broker_message(frame: Payload) -> BrokerMessage:
    """
    Read what a broker sent.

    Raises:
        ProtocolError: It is not a message of the protocol.
    """
    try:
        return _decode_broker_message(frame)
    except (ValueError, RecursionError):
        return _decode_broker_message_again(frame)


def _decode_broker_message_again(frame: Payload) -> BrokerMessage:
    try:
        return with_room(_decode_broker_message, frame)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the broker sent what is not a message: {error}: {quote(frame)}") from None
