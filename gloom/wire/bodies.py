"""
Python values to bodies and back, for clients; the broker does neither (decision 2).

Implements the body of docs/protocol.md, section 1.3. Whether a value can be a body
depends on the value only, and not on the depth of the caller's stack or on Python's version.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from gloom.errors import BodyError
from gloom.wire.nesting import BODY_LEVELS, is_deeper, with_room
from gloom.wire.plainvalues import check_plain

_BODY_TOO_DEEP = f"not JSON that a message may carry: nested more than {BODY_LEVELS} levels deep, or without an end"

# A level takes two bytes, so a shorter body cannot be too deep.
_NEVER_DEEP_BYTES = 2 * BODY_LEVELS

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_body(value: Any) -> Raw:
    """
    Return *value* as JSON; a `Raw` is JSON already, and is returned unchanged.

    `decode_body` returns an equal value, except that a tuple becomes a list
    (`gloom.wire.plainvalues`).

    Raises:
        BodyError: JSON has no such value: bytes, sets, dates, dataclasses or
            another kind of object, a key that is not a string, NaN or an
            infinity, a lone surrogate, nesting of more than 900 levels (section 1.3).
    """
    try:
        data = value if isinstance(value, Raw) else Raw(with_room(_encode_value, value))
    except (TypeError, ValueError) as error:
        raise BodyError(f"not JSON: {error}") from None
    except RecursionError:
        raise BodyError(_BODY_TOO_DEEP) from None
    if len(data) > _NEVER_DEEP_BYTES and is_deeper(data, BODY_LEVELS):
        raise BodyError(_BODY_TOO_DEEP)
    if data is not value:
        check_plain(value)
    return data


def _encode_value(value: Any) -> bytes:
    data = _encode(value)
    if b"null" in data:
        # msgspec writes NaN and the infinities as null: the receiver would silently get None.
        _refuse_nan(value)
    return data


def _refuse_nan(value: Any) -> None:
    # With to_builtins, because json reads neither sets nor dataclasses.
    json.dumps(msgspec.to_builtins(value), allow_nan=False)


def decode_body(body: bytes | Raw) -> Any:
    """
    Return the Python value of a body.

    Raises:
        BodyError: *body* is nested more than 900 levels deep, or Python cannot read it.
    """
    if len(body) > _NEVER_DEEP_BYTES and is_deeper(body, BODY_LEVELS):
        raise BodyError(f"cannot read the body: it is nested more than {BODY_LEVELS} levels deep")
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        return _decode_again(body)


def _decode_again(body: bytes | Raw) -> Any:
    try:
        return with_room(_decode_value, body)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"cannot read the body: {error}") from None


def _decode_value(body: bytes | Raw) -> Any:
    try:
        return _decode(body)
    except ValueError:
        # Valid JSON that msgspec refuses: floats beyond the range of a double.
        return json.loads(bytes(body))
