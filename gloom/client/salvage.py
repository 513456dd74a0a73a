"""
The job's id in an unreadable frame (docs/protocol.md, section 1.4), so that one job fails and not the connection.

Reads the members of one JSON object without recursion, and stops as soon as the
id and the kind of message are known. Imports no Twisted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from gloom.wire.messages import JobId

# A string, a bracket, a comma or colon, or a number or name. Possessive quantifiers, so
# that a string of megabytes costs no memory for backtracking.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]|[^\s"\[\]{},:]++', re.DOTALL)
_OPENING, _CLOSING = (b"{", b"["), (b"}", b"]")
# One of these members shows the kind of a message about a job; its value may be the unreadable part.
_CONTENTS = frozenset({"body", "error", "progress"})

_decode_id = msgspec.json.Decoder(JobId).decode
_decode_text = msgspec.json.Decoder(str).decode


class Salvaged(Struct, frozen=True):
    """
    The readable part of a message about one job.

    Attributes:
        id: The job's id.
        action: Its ``action``; None for an outcome and for progress.
        is_progress: Whether the message is about progress.
    """

    id: str | int
    action: str | None
    is_progress: bool


def salvaged(frame: bytes) -> Salvaged | None:
    """Return the readable part of *frame*; None if its id cannot be read."""
    id: str | int | None = None
    action: str | None = None
    content = ""
    try:
        for key, value in _members(bytes(frame)):
            if key in _CONTENTS:
                content = content or key
            elif value is not None and key == "id":
                id = _decode_id(value)
            elif value is not None and key == "action":
                action = _decode_text(value)
            if content and id is not None:
                break
    except ValueError:
        return None
    return None if id is None else Salvaged(id, action, content == "progress")


def _members(frame: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield each key of the object in *frame*, with its value if that is a string, a number or a name."""
    depth, key, is_key = 0, "", True
    for match in _TOKEN.finditer(frame):
        token = match.group()
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
        elif depth == 1 and token == b",":
            is_key = True
        elif depth == 1 and token == b":":
            is_key = False
            if key in _CONTENTS:
                yield key, None
        elif depth == 1 and is_key:
            key = _decode_text(token)
        elif depth == 1:
            yield key, token
