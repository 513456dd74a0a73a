"""
What a person writes -> a job's body; an answer -> what a person or a program reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from gloom.errors import BodyError, JobFailed, ServerError
from gloom.wire.bodies import encode_body
from gloom.wire.nesting import BODY_LEVELS, is_deeper, with_room

_decode_raw = msgspec.json.Decoder(Raw).decode
_BEGINS_LIKE_JSON = re.compile(r"[ \t\r\n]*[{\[]")


def read_body(data: bytes, *, as_text: bool = False) -> Raw | str:
    """
    Return the body that *data* stands for.

    Args:
        data: What was written.
        as_text: Whether it is a string also where it is JSON.

    Returns:
        JSON, byte for byte, where *data* is JSON; else its text.

    Raises:
        BodyError: It is not UTF-8, or is JSON that is nested too deeply.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BodyError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    if as_text:
        return text
    if is_deeper(data, BODY_LEVELS):
        raise BodyError(f"JSON that is nested too deeply: {BODY_LEVELS} levels are allowed")
    try:
        return with_room(_decode_raw, data)
    except (ValueError, RecursionError):
        return text


def json_slip(body: Raw | str) -> str | None:
    """
    Return the mistake in a body that was meant to be JSON, or None where nothing suggests that.

    Args:
        body: As `read_body` returns it. A string that begins like an object or an array
            was hardly meant to be one.
    """
    if not isinstance(body, str) or _BEGINS_LIKE_JSON.match(body) is None:
        return None
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        return str(error)
    return "gloom cannot read it"


def to_json(answer: Any) -> bytes:
    """
    Return *answer* as JSON on one line.

    Raises:
        BodyError: It holds a number that no double can hold.
    """
    try:
        return bytes(encode_body(answer))
    except BodyError:
        pass
    try:
        # Half a surrogate pair, which JSON can say and UTF-8 cannot; or so many levels that msgspec's stack ends.
        return "".join(_pieces(answer)).encode()
    except ValueError:
        raise BodyError("the answer holds a number beyond the range of a double") from None


def to_indented_json(answer: Any) -> bytes:
    """
    Return *answer* as JSON for a person: on lines of their own, indented, unless it is too deep for that.

    Raises:
        BodyError: As `to_json`.
    """
    try:
        return json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        return to_json(answer)


def _pieces(answer: Any) -> Iterator[str]:
    """Yield the JSON of *answer* in pieces, however deep it is: `json` would need a level of the stack for each."""
    # What is still to be written, last first: text, or a value in a tuple of its own.
    rest: list[str | tuple[Any]] = [(answer,)]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            yield one
            continue
        (value,) = one
        if isinstance(value, dict) and value:
            rest.append("}")
            for key, item in reversed(value.items()):
                rest += [(item,), f",{json.dumps(key)}:"]
            rest[-1] = "{" + str(rest[-1])[1:]
        elif isinstance(value, list) and value:
            rest.append("]")
            for item in reversed(value):
                rest += [(item,), ","]
            rest[-1] = "["
        else:
            yield json.dumps(value, allow_nan=False)


def to_plain(answer: Any) -> bytes:
    """Return a string as it is, and anything else as JSON."""
    return answer.encode(errors="surrogatepass") if isinstance(answer, str) else to_json(answer)


def error_fields(error: Exception) -> dict[str, Any]:
    """Return what a program is told of a job without an answer: ``error``, ``reason``, perhaps ``kind``."""
    if not isinstance(error, ServerError):
        return {"error": "body_error", "reason": without_id(error)}
    fields = {"error": error.error, "reason": error.reason}
    if isinstance(error, JobFailed) and error.kind is not None:
        fields["kind"] = error.kind
    return fields


def one_line(error: Exception) -> str:
    """Return what *error* says, on one line: the reason of a failed job may have many."""
    return " ".join(without_id(error).split("\n"))


def without_id(error: Exception) -> str:
    """Return what *error* says, without the job's id: a person asked for one job, or has the number of its line."""
    text = str(error)
    return text.removeprefix(f"job {error.id!r}: ") if isinstance(error, BodyError) else text
