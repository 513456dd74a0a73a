"""
Bodies that break a reader: nested too deeply, or as deeply as they may be, numbers without end, frames of odd size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from gloom.wire.nesting import BODY_LEVELS, with_room

# Python reads no integer of more digits; msgspec reads none.
_UNREADABLE = b"9" * 4301
_INFINITE = b"1e999"
# Of what may be read, a frame of this size is the largest that leaves room for any id in front of it.
_ENVELOPE_BYTES = 200


def read(frame: bytes) -> Any:
    """Return the message in *frame*, which may be poisoned: an integer without end comes as its text."""
    try:
        return with_room(json.loads, frame)
    except ValueError:
        return with_room(_read_numbers, frame)


def _read_numbers(frame: bytes) -> Any:
    return json.loads(frame, parse_int=_integer)


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 1000 else text


def nested(levels: int) -> bytes:
    """Return a value of so many levels."""
    return b"[" * levels + b"]" * levels


def body(unique: int, poison: bytes) -> bytes:
    """Return a body that says whose it is, and has *poison* in it."""
    return b'{"u":%d,"x":%b}' % (unique, poison)


def too_deep(unique: int) -> bytes:
    """Return a body that the broker refuses, and nothing else is wrong with."""
    return body(unique, nested(BODY_LEVELS))


def harmless(random: Random, unique: int, max_frame_bytes: int) -> bytes:
    """Return an odd body that everybody must be able to read."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: nested(BODY_LEVELS - 1),
        lambda: nested(BODY_LEVELS // 2 + 1),
        lambda: _INFINITE,
        lambda: b'"%b"' % (b"\\u0000[" * 20),
        lambda: b'"%b"' % (b"x" * (max_frame_bytes - _ENVELOPE_BYTES)),
    )
    return body(unique, random.choice(kinds)())


def unreadable(unique: int) -> bytes:
    """Return a body that the broker takes, and no client of Python can read: only the id beside it."""
    return body(unique, _UNREADABLE)
