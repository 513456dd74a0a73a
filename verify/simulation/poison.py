"""
Bodies that break a reader: at or beyond the depth limit, endless numbers, frames of unusual size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from gloom.wire.nesting import BODY_LEVELS, with_room

# Python reads no longer integer; msgspec reads none of this length.
_UNREADABLE = b"9" * 4301
_INFINITE = b"1e999"
# The largest readable frame that leaves room for any id in front of the body.
_ENVELOPE_BYTES = 200


def read(frame: bytes) -> Any:
    """Return the message in *frame*, which may be poisoned: an endless integer is returned as its text."""
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
    """Return a body that names its owner and contains *poison*."""
    return b'{"u":%d,"x":%b}' % (unique, poison)


def too_deep(unique: int) -> bytes:
    """Return a body that the broker refuses only because of its depth."""
    return body(unique, nested(BODY_LEVELS))


def harmless(random: Random, unique: int, max_frame_bytes: int) -> bytes:
    """Return an unusual body that every reader must accept."""
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: nested(BODY_LEVELS - 1),
        lambda: nested(BODY_LEVELS // 2 + 1),
        lambda: _INFINITE,
        lambda: b'"%b"' % (b"\\u0000[" * 20),
        lambda: b'"%b"' % (b"x" * (max_frame_bytes - _ENVELOPE_BYTES)),
    )
    return body(unique, random.choice(kinds)())


def unreadable(unique: int) -> bytes:
    """Return a body that the broker accepts and that no Python client can read; the id beside it is readable."""
    return body(unique, _UNREADABLE)
