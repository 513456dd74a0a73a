"""
Why a frame is wrong: the slower, second reading that finds the words for a refusal.

Implements the reasons of docs/protocol.md, section 2. Knows fields and their
rules, not which port has which verb: that is `gloom.messages`.
"""

from __future__ import annotations

from typing import NoReturn

import msgspec
from msgspec import Raw, Struct

from gloom.errors import InvalidJSON, InvalidType, MissingField

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


def verb_of(request: type[Struct]) -> str:
    """Return the verb that names *request* on the wire."""
    return str(request.__struct_config__.tag)


def read_fields(frame: bytes) -> dict[str, Raw]:
    """
    Return the fields of *frame*, each as JSON.

    Raises:
        InvalidJSON: It is not one JSON object in UTF-8.
    """
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


def check_fields(request: type[Struct], fields: dict[str, Raw], error: Exception) -> NoReturn:
    """
    Raise for the first of *fields* that *request* does not take.

    Raises:
        MissingField: It is absent.
        InvalidType: It holds another kind of value, or one out of its range.
    """
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
