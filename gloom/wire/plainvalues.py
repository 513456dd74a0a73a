"""
The Python values that JSON carries unchanged (docs/decisions/0024-values-arrive-as-given.md).

msgspec would write bytes as base64, sets as lists, dates as text and the key 1
as "1": the receiver would get another value without an error.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

from msgspec import Raw

from gloom.errors import BodyError

# Types that JSON carries, and that contain no other values. A Raw is JSON already.
_SCALARS = frozenset({type(None), bool, int, float, str, Raw})

_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bytes, bytearray, memoryview), "send text, in base64 for example"),
    ((set, frozenset), "send a list"),
    ((datetime.date, datetime.time), "send its isoformat()"),
    (datetime.timedelta, "send its total_seconds()"),
    ((uuid.UUID, decimal.Decimal), "send its str()"),
)


def check_plain(value: Any) -> None:
    """
    Check that *value* arrives unchanged, except that tuples arrive as lists.

    Args:
        value: A value that was encoded, and so does not contain itself.

    Raises:
        BodyError: JSON would carry another value instead; the text says what to send.
    """
    if type(value) in _SCALARS:
        return
    left = [value]
    while left:
        container = left.pop()
        kind = type(container)
        for one in container if kind is list or kind is tuple else _inside(container):
            if type(one) not in _SCALARS:
                left.append(one)


def _inside(value: Any) -> Iterable[Any]:
    """Return the values in *value*; none for a member of an enumeration of strings or numbers."""
    # The methods of the base classes, as the encoder does: a subclass may override its own.
    if isinstance(value, dict):
        for key in dict.__iter__(value):
            if type(key) is not str:
                _check_key(key)
        return dict.values(value)
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    if isinstance(value, str | int | float):
        return ()
    raise BodyError(f"not JSON: {_refusal_of(value)}")


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise BodyError(f"not JSON: the keys of a dict must be strings, got {type(key).__name__}")


def _refusal_of(value: Any) -> str:
    otherwise = "send its dataclasses.asdict()" if is_dataclass(value) else "send values that JSON has"
    instead = next((instead for kinds, instead in _INSTEAD if isinstance(value, kinds)), otherwise)
    return f"got {type(value).__name__}; {instead}"
