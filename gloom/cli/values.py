"""
Texts of the command line become job bodies; answers become output for people and programs.
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
    Return *data* as a job's body.

    Args:
        data: The user's input.
        as_text: Whether the body is a string, even if *data* is valid JSON.

    Returns:
        JSON, byte for byte, if *data* is JSON; else a string.

    Raises:
        BodyError: *data* is not UTF-8, or is JSON that is nested too deeply.
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
        BodyError: It holds a number beyond the range of a double.
    """
    try:
        return bytes(encode_body(answer))
    except BodyError:
        pass
    try:
        # Half a surrogate pair, which JSON has and UTF-8 has not; or too many levels for msgspec's stack.
        return "".join(_pieces(answer)).encode()
    except ValueError:
        raise BodyError("the answer holds a number beyond the range of a double") from None


def to_indented_json(answer: Any) -> bytes:
    """
    Return *answer* as indented JSON, for a person; on one line if it is nested too deeply for that.

    Raises:
        BodyError: As `to_json`.
    """
    try:
        return json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        return to_json(answer)


def _pieces(answer: Any) -> Iterator[str]:
    """Yield the JSON of *answer* in pieces, at any depth: `json` would recurse into each level."""
    # Rest of the output, in reverse: a text, or a value wrapped in a tuple.
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
    """Return a string as it is, any other answer as JSON."""
    return answer.encode(errors="surrogatepass") if isinstance(answer, str) else to_json(answer)


def error_fields(error: Exception) -> dict[str, Any]:
    """Return the fields of a failed job's JSON: ``error``, ``reason``, perhaps ``kind``."""
    if not isinstance(error, ServerError):
        return {"error": "body_error", "reason": without_id(error)}
    fields = {"error": error.error, "reason": error.reason}
    if isinstance(error, JobFailed) and error.kind is not None:
        fields["kind"] = error.kind
    return fields


def one_line(error: Exception) -> str:
    """Return the text of *error* on one line: the reason of a failed job may have several."""
    return " ".join(without_id(error).split("\n"))


def without_id(error: Exception) -> str:
    """Return the text of *error* without the job's id: the user knows the job, or its line number."""
    text = str(error)
    return text.removeprefix(f"job {error.id!r}: ") if isinstance(error, BodyError) else text
