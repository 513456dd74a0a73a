"""
The wire's vocabulary, and the one place where bytes become values.

Implements the field tables of docs/protocol.md, sections 3 and 4. Nothing here
knows a connection, a job's state or a limit; past this room there is no JSON.
``body`` values stay `msgspec.Raw`, the sender's own bytes: the broker never
decodes them and never writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gloom.errors import (
    BodyError,
    InvalidAction,
    InvalidJSON,
    InvalidState,
    InvalidType,
    MissingField,
    ProtocolError,
    UnknownAction,
)
from gloom.largebytes import MAPPED_OVER_BYTES, join_large

PROTOCOL_VERSION = 1

ShortText = Annotated[str, Meta(min_length=1, max_length=255)]
JobId = ShortText | int
JobType = ShortText
# An id as the broker keeps it, see `key_of`.
IdKey = str | int | bytes
Priority = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
SomeSeconds = Annotated[float, Meta(gt=0, le=1e9)]
Retries = Annotated[int, Meta(ge=0, le=100)]
JobTypes = Annotated[list[JobType], Meta(min_length=1, max_length=1000)]
# Each takes time and an answer of its own: without a bound one frame could hold up everybody.
Jobs = Annotated[list[Raw], Meta(max_length=10_000)]
Slots = Annotated[int, Meta(ge=1, le=1000)]


class Request(Struct, tag_field="action", omit_defaults=True):
    """What a peer asks of the broker; the class's tag is the verb on the wire."""


class Hello(Request, tag="hello"):
    """Begin the extended level (section 4)."""

    version: int
    name: ShortText | None = None
    heartbeat: Seconds = 0.0
    accept: list[str] = []
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


#: What each field may hold, in the words of an error's reason.
FIELD_RULES = {
    "id": "a string of 1 to 255 characters or an integer",
    "type": "a string of 1 to 255 characters or null",
    "priority": "an integer of signed 64 bits",
    "body": "any JSON value",
    "version": "an integer",
    "name": "a string of 1 to 255 characters or null",
    "heartbeat": "a number of seconds, 0 to 1000000000",
    "accept": "a list of strings",
    "token": "a string or null",
    "attach": "true or false",
    "timeout": "a number of seconds over 0, to 1000000000, or null",
    "expires": "a number of seconds, 0 to 1000000000, or null",
    "delay": "a number of seconds, 0 to 1000000000, or null",
    "retries": "an integer of 0 to 100, or null",
    "require_slave": "true or false",
    "jobs": "a list of at most 10000 objects, each with the fields of submit",
    "types": "a list of 1 to 1000 strings of 1 to 255 characters each, or null",
    "slots": "an integer of 1 to 1000",
    "reason": "a string",
    "kind": "a string of 1 to 255 characters or null",
    "traceback": "a string or null",
    "retry": "true or false",
}

MASTER, SLAVE = "master", "slave"

#: The verbs of each port by level; extended verbs need a ``hello`` before them.
BASE_REQUESTS: dict[str, tuple[type[Request], ...]] = {
    MASTER: (Hello, Submit),
    SLAVE: (Hello, Join, Respond),
}
EXTENDED_REQUESTS: dict[str, tuple[type[Request], ...]] = {
    MASTER: (Hello, Ping, ExtendedSubmit, SubmitMany, Cancel),
    SLAVE: (Hello, Ping, ExtendedJoin, ExtendedRespond, Fail, Progress, Leave),
}


def verb_of(request: type[Request]) -> str:
    """Return the verb that names *request* on the wire."""
    return str(request.__struct_config__.tag)


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
        union: Any = requests[0]
        for request in requests[1:]:
            union |= request
        self._decode = msgspec.json.Decoder(union).decode

    def decode(self, frame: bytes) -> Request:
        """
        Turn one frame's payload into a request.

        Raises:
            ProtocolError: The frame breaks sections 1 to 4; the reason names
                the field, what it may hold and what it held.
        """
        try:
            # msgspec checks UTF-8 only in values that it builds: a body that
            # is not UTF-8 would go through to a slave and break it there.
            if not frame.isascii():
                frame.decode()
            return self._decode(frame)  # type: ignore[no-any-return]
        except (ValueError, RecursionError) as error:
            # Off the hot path: a second, slower reading finds the words.
            self._explain(bytes(frame), error)

    def _explain(self, frame: bytes, error: Exception) -> NoReturn:
        fields = _read_fields(frame)
        _check_fields(self._request_named(fields), fields, error)

    def _request_named(self, fields: dict[str, Raw]) -> type[Request]:
        if "action" not in fields:
            raise MissingField(f"action is required: one of {self._verbs()}")
        try:
            verb = msgspec.json.decode(fields["action"], type=str)
        except ValueError:
            raise InvalidType(f"action must be a string, got {quote(fields['action'])}") from None
        if verb in self.requests:
            return self.requests[verb]
        raise self._refusal_of(verb)

    def _refusal_of(self, verb: str) -> ProtocolError:
        other = SLAVE if self.role == MASTER else MASTER
        if verb in map(verb_of, EXTENDED_REQUESTS[self.role]):
            return InvalidState(f"{verb} needs a hello before it on this connection")
        if verb in map(verb_of, EXTENDED_REQUESTS[other]):
            return InvalidAction(f"{verb} is for the {other} port; this is the {self.role} port")
        shown = quote(verb.encode(errors="replace"))
        return UnknownAction(f"action {shown} is unknown; this port has {self._verbs()}")

    def _verbs(self) -> str:
        return ", ".join(sorted(self.requests))


def _read_fields(frame: bytes) -> dict[str, Raw]:
    try:
        frame.decode()
        if not frame.strip():
            raise InvalidJSON("the frame is empty; expected a JSON object")
        return msgspec.json.decode(frame, type=dict[str, Raw])
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"the frame is not UTF-8: {error.reason} at byte {error.start}") from None
    except msgspec.ValidationError:
        raise InvalidJSON(f"the frame must hold a JSON object, got {_quote_frame(frame)}") from None
    except ValueError as error:
        raise InvalidJSON(f"{error}: {_quote_frame(frame)}") from None
    except RecursionError:
        raise InvalidJSON("the JSON is nested too deeply, about 1000 levels are allowed") from None


def _quote_frame(frame: bytes) -> str:
    # A token belongs in no error and in no log, however broken the hello that holds it.
    return f"{len(frame)} bytes with a token among them" if b"token" in frame else quote(frame)


_decode_job = msgspec.json.Decoder(ExtendedSubmit).decode


def decode_job(job: Raw) -> ExtendedSubmit:
    """
    Read one job of a ``submit_many``; the frame around it has been checked.

    Raises:
        ProtocolError: It is not what ``submit`` takes.
    """
    try:
        return _decode_job(job)
    except ValueError as error:
        try:
            fields = msgspec.json.decode(job, type=dict[str, Raw])
        except ValueError:
            raise InvalidType(f"jobs must be a list of objects, one is {quote(job)}") from None
        _check_fields(ExtendedSubmit, fields, error)


def _check_fields(request: type[Request], fields: dict[str, Raw], error: Exception) -> NoReturn:
    for field in msgspec.structs.fields(request):
        _check_field(verb_of(request), field, fields)
    raise InvalidType(f"action {verb_of(request)}: {error}")


def _check_field(verb: str, field: msgspec.structs.FieldInfo, fields: dict[str, Raw]) -> None:
    rule = FIELD_RULES[field.encode_name]
    if field.encode_name not in fields:
        if field.required:
            raise MissingField(f"{field.encode_name} is required by {verb}: {rule}")
        return
    raw = fields[field.encode_name]
    if field.type is Raw:
        return
    try:
        msgspec.json.decode(raw, type=field.type)
    except ValueError:
        got = "something else" if field.encode_name == "token" else quote(raw)
        raise InvalidType(f"{field.encode_name} must be {rule}, got {got}") from None


def quote(raw: bytes | Raw, length: int = 100) -> str:
    """Return *raw* as text for an error's reason, cut at *length* characters."""
    head = bytes(memoryview(raw)[: 4 * length]).decode(errors="replace")
    return head if len(head) <= length and len(memoryview(raw)) <= 4 * length else head[:length] + "..."


OK = b'{"ok":true}'
QUIET = b'{"action":"quiet"}'
CANCELLED = b'{"ok":true,"state":"cancelled"}'
CANCELLING = b'{"ok":true,"state":"cancelling"}'

_encode = msgspec.json.Encoder().encode
_decode_broker_message = msgspec.json.Decoder(BrokerMessage).decode


def key_of(id: str | int) -> str | bytes:
    """
    Return *id* as the broker keeps it, and as the functions below take it: a string as it is, an integer as its digits.

    Python's hash of an integer can be foreseen, so whoever chooses integers could
    have all of them collide in a dict; that of bytes, as that of a string, is keyed
    with a secret (decision 21). Bytes equal no string.
    """
    return id if type(id) is str else _encode(id)


def text_of(id: IdKey) -> str:
    """Return *id* as an error shows it."""
    return id.decode() if isinstance(id, bytes) else str(id)


def _id(id: IdKey) -> bytes:
    return id if type(id) is bytes else _encode(id)


def encode_request(request: Request) -> bytes:
    """Return the payload that carries *request*."""
    return _encode(request)


def encode_job(id: IdKey, type: str | None, body: bytes | Raw) -> bytes:
    """Return the message that hands a job to a slave (section 3)."""
    # As `_id`, without a call for each job.
    key = id if isinstance(id, bytes) else _encode(id)
    pieces = (b'{"action":"job","id":', key, b',"type":', _encode(type), b',"body":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_answer(id: IdKey, body: bytes | Raw) -> bytes:
    """Return the outcome of a job that was answered; *body* is not touched."""
    key = id if isinstance(id, bytes) else _encode(id)
    pieces = (b'{"id":', key, b',"body":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_receipted_answer(
    id: IdKey, body: bytes | Raw, queued_seconds: float, ran_seconds: float, attempts: int, slave: str
) -> bytes:
    """Return the outcome of a job that was answered, with a receipt (section 4)."""
    receipt = {"queued": queued_seconds, "ran": ran_seconds, "attempts": attempts, "slave": slave}
    pieces = (b'{"id":', _id(id), b',"body":', body, b',"receipt":', _encode(receipt), b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_progress(id: IdKey, body: bytes | Raw) -> bytes:
    """Return the message that tells a master how its job gets on."""
    pieces = (b'{"id":', _id(id), b',"progress":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_revocation(id: IdKey) -> bytes:
    """Return the message that tells a slave that its attempt at a job has been ended."""
    return b"".join((b'{"action":"cancel","id":', _id(id), b"}"))


def encode_batch(errors: Sequence[ProtocolError | None]) -> bytes:
    """Return the reply to ``submit_many``: of each job ok, or why not."""
    # One by one: where memory ends, msgspec's encoder ends the process, and `join` raises an exception.
    replies = b",".join([OK if error is None else encode_error(error) for error in errors])
    return b"".join((b'{"ok":true,"jobs":[', replies, b"]}"))


def encode_failure(id: IdKey, error: str, reason: str) -> bytes:
    """Return the outcome of a job that failed, as a base master reads it."""
    return _encode({"id": Raw(_id(id)), "error": error, "reason": reason})


def encode_extended_failure(
    id: IdKey,
    error: str,
    reason: str,
    kind: str | None,
    traceback: str | None,
    attempts: Sequence[dict[str, Any]],
) -> bytes:
    """Return the outcome of a job that failed, with all that section 4 adds."""
    message: dict[str, Any] = {"id": Raw(_id(id)), "error": error, "reason": reason, "attempts": attempts}
    if kind is not None:
        message["kind"] = kind
    if traceback is not None:
        message["traceback"] = traceback
    return _encode(message)


def encode_error(error: ProtocolError) -> bytes:
    """Return the reply to a request that was refused."""
    return _encode({"error": error.code, "reason": error.reason})


def encode_welcome(server: str, max_frame_bytes: int, heartbeat: float, features: Sequence[str]) -> bytes:
    """Return the reply to ``hello``."""
    return _encode(
        {
            "ok": True,
            "version": PROTOCOL_VERSION,
            "server": server,
            "max_frame": max_frame_bytes,
            "heartbeat": heartbeat,
            "features": features,
        }
    )


def decode_broker_message(frame: bytes) -> BrokerMessage:
    """
    Read what a broker sent.

    Raises:
        ProtocolError: It is not a message of the protocol.
    """
    try:
        return _decode_broker_message(frame)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the broker sent what is not a message: {error}: {quote(frame)}") from None


def encode_body(value: Any) -> Raw:
    """
    Return *value* as JSON; a `Raw` is JSON already, and returned as it is.

    Beyond what `json` takes, msgspec writes bytes as base64, sets as lists,
    dates and UUIDs as text, dataclasses as objects: they come back as those.

    Raises:
        BodyError: JSON cannot carry it: an object of another kind, NaN or an
            infinity, a lone surrogate, nesting without an end.
    """
    if isinstance(value, Raw):
        return value
    try:
        data = _encode(value)
        if b"null" in data:
            # msgspec writes NaN and the infinities as null, which would lose them silently.
            _refuse_nan(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BodyError(f"not JSON: {error}") from None
    return Raw(data)


def _refuse_nan(value: Any) -> None:
    # to_builtins, since json looks into neither sets nor dataclasses.
    json.dumps(msgspec.to_builtins(value), allow_nan=False)


def decode_body(body: bytes | Raw) -> Any:
    """
    Return the Python value of a body.

    Raises:
        BodyError: It is nested too deeply for Python's JSON readers.
    """
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return _decode_leniently(body)


def _decode_leniently(body: bytes | Raw) -> Any:
    # Valid JSON that msgspec declines: floats beyond the double's range.
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise BodyError(f"cannot read the body: {error}") from None
