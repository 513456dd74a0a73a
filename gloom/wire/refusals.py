"""
The reasons of refusals: a second reading of a wrong frame that finds the fault.

Implements the reasons of docs/protocol.md, section 2. Knows the fields and their
rules; `gloom.wire.messages` knows the verbs of each port. A refusal must
not cost much more than an acceptance: one pass over the frame, and one decoder
for each field, made once. A refusal quotes no part of a ``hello`` that could be
a token, and no part of an unreadable frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from gloom.errors import InvalidJSON, InvalidType, MissingField, ProtocolError
from gloom.wire.largebytes import Payload

#: The rule of each field, in the words of an error's reason.
FIELD_RULES = {
    "id": "a string of 1 to 255 characters or an integer",
    "type": "a string of 1 to 255 characters or null",
    "priority": "an integer of signed 64 bits",
    "body": "any JSON value",
    "version": "an integer",
    "name": "a string of 1 to 255 characters, none of them a control character, or null",
    "heartbeat": "a number of seconds, 0 to 1000000000",
    "accept": "a list of at most 100 strings",
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

#: The limit for the number of values in each list.
MOST_VALUES = {"accept": 100, "types": 1000, "jobs": 10_000}

_ABSENT = Raw()
#: All fields of all requests as JSON, in one pass; other keys are skipped.
_Fields = msgspec.defstruct("_Fields", [(name, Raw, _ABSENT) for name in ("action", *FIELD_RULES)])
_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_text = msgspec.json.Decoder(str).decode
#: Numbers, null, true and false, and lists of them, which cannot hold a token.
_HARMLESS = re.compile(rb"(?:[\s\[\],0-9.+-]|(?<=[0-9])[eE]|null|true|false)*")
_KINDS = {b'"': "a string", b"[": "a list", b"{": "an object"}


class _Field(NamedTuple):
    name: str
    required: bool
    #: None for any JSON value.
    decode: Callable[[Raw], Any] | None


def verb_of(request: type[Struct]) -> str:
    """Return the verb that names *request* on the wire."""
    return str(request.__struct_config__.tag)


@cache
def _fields_of(request: type[Struct]) -> tuple[_Field, ...]:
    return tuple(
        _Field(
            field.encode_name,
            field.required,
            None if field.type is Raw else msgspec.json.Decoder(field.type).decode,
        )
        for field in msgspec.structs.fields(request)
    )


def read_fields(frame: bytes, error: Exception | None = None) -> Struct:
    """
    Return the fields of *frame*, each as JSON.

    Args:
        frame: The payload.
        error: The exception that ended the first reading.

    Raises:
        InvalidJSON: *frame* is not one JSON object in UTF-8.
    """
    if isinstance(error, UnicodeDecodeError):
        raise InvalidJSON(f"the frame is not UTF-8: {error.reason} at byte {error.start}")
    try:
        return _decode_fields(frame)
    except msgspec.ValidationError:
        raise InvalidJSON(f"the frame must hold a JSON object, got {_shown(frame)}") from None
    except ValueError as found:
        reason = str(found) if frame.strip() else "the frame is empty; expected a JSON object"
        raise InvalidJSON(reason) from None


def read_verb(fields: Struct, verbs: str) -> str:
    """
    Return the verb in *fields*.

    Args:
        fields: The fields of the request.
        verbs: The allowed verbs, for the text of an error.

    Raises:
        MissingField: There is no verb.
        InvalidType: The verb is not a string.
    """
    raw: Raw = fields.action  # type: ignore[attr-defined]
    if raw is _ABSENT:
        raise MissingField(f"action is required: one of {verbs}")
    try:
        return _decode_text(raw)
    except ValueError:
        raise InvalidType(f"action must be a string, got {_shown(raw)}") from None


def fault_of(request: type[Struct], fields: Struct) -> ProtocolError:
    """Return the error of *fields* as a *request*: the first field that is missing or wrong."""
    verb = verb_of(request)
    for name, required, decode in _fields_of(request):
        raw: Raw = getattr(fields, name)
        if raw is _ABSENT:
            if required:
                return MissingField(f"{name} is required by {verb}: {FIELD_RULES[name]}")
        elif decode is not None and not _is_readable(raw, decode):
            return InvalidType(f"{name} must be {FIELD_RULES[name]}, got {_got(verb, name, raw)}")
    return InvalidType(f"a key of {verb} comes twice, with different values")


def fault_of_lists(request: type[Struct], fields: Struct) -> ProtocolError | None:
    """Return an error if a list in *fields* is too long for a *request*, without decoding its values."""
    for name in MOST_VALUES.keys() & request.__struct_fields__:
        raw: Raw = getattr(fields, name)
        if _is_longer(raw, MOST_VALUES[name]):
            return InvalidType(f"{name} must be {FIELD_RULES[name]}, got {_got(verb_of(request), name, raw)}")
    return None


def _is_longer(raw: Raw, most: int) -> bool:
    try:
        return getattr(_first_of(most)(raw), f"value{most}") is not _ABSENT
    except ValueError:
        return False  # not a list


@cache
def _first_of(most: int) -> Callable[[Raw], Struct]:
    """Return a decoder of one value more than *most*; it skips the rest of a list, which makes no objects."""
    values = [(f"value{number}", Raw, _ABSENT) for number in range(most + 1)]
    first: Callable[[Raw], Struct] = msgspec.json.Decoder(msgspec.defstruct("_First", values, array_like=True)).decode
    return first


def fault_of_job(request: type[Struct], job: bytes) -> ProtocolError:
    """Return the error of *job* as a *request*: a job in a ``submit_many`` that was read."""
    try:
        fields = _decode_fields(job)
    except ValueError:
        return InvalidType(f"jobs must be a list of objects, one is {quote(job)}")
    action: Raw = fields.action  # type: ignore[attr-defined]
    if action is not _ABSENT and not _is_text(action, verb_of(request)):
        return InvalidType(f'action of a job must be "{verb_of(request)}", or left out, got {quote(action)}')
    return fault_of(request, fields)


def _is_readable(raw: Raw, decode: Callable[[Raw], Any]) -> bool:
    try:
        decode(raw)
    except ValueError:
        return False
    return True


def _is_text(raw: Raw, text: str) -> bool:
    try:
        return _decode_text(raw) == text
    except ValueError:
        return False


def _got(verb: str, name: str, raw: Raw) -> str:
    if name == "token":
        return "something else"
    return _shown(raw) if verb == "hello" else quote(raw)


def _shown(raw: Payload | Raw) -> str:
    """Return *raw* as `quote` does if it cannot hold a token, else its kind."""
    head = bytes(memoryview(raw)[:400])
    return quote(raw) if _HARMLESS.fullmatch(head) else _KINDS.get(head.lstrip()[:1], "something else")


def quote(raw: Payload | Raw, length: int = 100) -> str:
    """Return *raw* as text for an error's reason, cut at *length* characters."""
    head = bytes(memoryview(raw)[: 4 * length]).decode(errors="replace")
    return head if len(head) <= length and len(memoryview(raw)) <= 4 * length else head[:length] + "..."
