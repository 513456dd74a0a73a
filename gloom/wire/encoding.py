"""
The messages that a broker sends: values -> bytes.

Implements the replies, assignments and outcomes of docs/protocol.md, sections 3
and 4; `gloom.wire.messages` reads them. A ``body`` is written as it came (decision 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gloom.errors import ProtocolError
from gloom.wire.largebytes import MAPPED_OVER_BYTES, Payload, join_large
from gloom.wire.messages import OK, PROTOCOL_VERSION

#: A job id: a string, an integer, or the digits of an integer (`gloom.wire.messages.key_of`).
JobKey = str | int | bytes

QUIET = b'{"action":"quiet"}'
CANCELLED = b'{"ok":true,"state":"cancelled"}'
CANCELLING = b'{"ok":true,"state":"cancelling"}'

_encode = msgspec.json.Encoder().encode


def _id(id: JobKey) -> bytes:
    return id if type(id) is bytes else _encode(id)


def encode_job(id: JobKey, type: str | None, body: bytes | Raw) -> Payload:
    """Return the message that hands a job to a slave (section 3)."""
    # As `_id`, without a call for each job.
    key = id if isinstance(id, bytes) else _encode(id)
    pieces = (b'{"action":"job","id":', key, b',"type":', _encode(type), b',"body":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_answer(id: JobKey, body: bytes | Raw) -> Payload:
    """Return the outcome of a job that was answered; *body* is not touched."""
    key = id if isinstance(id, bytes) else _encode(id)
    pieces = (b'{"id":', key, b',"body":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_receipted_answer(
    id: JobKey, body: bytes | Raw, queued_seconds: float, ran_seconds: float, attempts: int, slave: str
) -> Payload:
    """Return the outcome of a job that was answered, with a receipt (section 4)."""
    receipt = {"queued": queued_seconds, "ran": ran_seconds, "attempts": attempts, "slave": slave}
    pieces = (b'{"id":', _id(id), b',"body":', body, b',"receipt":', _encode(receipt), b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_progress(id: JobKey, body: bytes | Raw) -> Payload:
    """Return the message that tells a master how its job gets on."""
    pieces = (b'{"id":', _id(id), b',"progress":', body, b"}")
    return b"".join(pieces) if len(body) <= MAPPED_OVER_BYTES else join_large(pieces)


def encode_revocation(id: JobKey) -> bytes:
    """Return the message that tells a slave that its attempt at a job has been ended."""
    return b"".join((b'{"action":"cancel","id":', _id(id), b"}"))


def encode_batch(errors: Sequence[ProtocolError | None]) -> bytes:
    """Return the reply to ``submit_many``: of each job ok, or why not."""
    # One by one: when memory runs out, msgspec's encoder crashes the process; `join` raises an exception.
    replies = b",".join([OK if error is None else encode_error(error) for error in errors])
    return b"".join((b'{"ok":true,"jobs":[', replies, b"]}"))


def encode_failure(id: JobKey, error: str, reason: str) -> bytes:
    """Return the outcome of a job that failed, as a base master reads it."""
    return _encode({"id": Raw(_id(id)), "error": error, "reason": reason})


def encode_extended_failure(
    id: JobKey,
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
