"""Frames for the fuzzer: valid messages, messages with one thing wrong, and bytes that are no message."""

from __future__ import annotations

import json
from typing import Any

from verify.reliability.draw import Draw

# Few ids and types, so that they collide.
IDS: tuple[Any, ...] = ("a", "a", "a", "b", "b", "c", 1, 1, 2, -1, "1", 2**63, "x" * 255)
TYPES: tuple[Any, ...] = ("t", "t", "t", "t", "u", "u", None, "v" * 255)
BODIES: tuple[Any, ...] = (1, None, "é", {"a": [1, 2.5, {}]}, [], "x" * 300, 1e308, "\u0000", {"id": "a"})
SECONDS: tuple[Any, ...] = (0.5, 0, 3, None, 1e9)
TOKEN = "a token of the fuzzer"

#: Values for a field that is to be wrong, or merely unusual.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e999, -(2**63), 2**64, "", "x" * 256, "\ud800", "\u0000", [], [1], [[]], {},
    {"a": {}}, "NaN", ["t"] * 1001, 10**400, -(10**4299), 10**4299, -0.0, "a\n\x1b[2J", "\u202e", "submit", "t",
)  # fmt: skip

# Depths around the limit of a message, and strings that hide a bracket or a quote from a depth counter.
DEPTHS = (1, 899, 900, 901, 902, 903, 904, 980, 1100, 5000)
FILLERS = ("", '"[[",', '"\\\\",', '"\\"[",', '{"]":"}"},', "[],", '"\\u005b",')

DEEP = [
    b"[" * 50,
    b"[" * 2000,
    b'{"a":' * 2000,
    b'{"action":"submit","id":1,"body":' + b"[" * 1500 + b"]" * 1500 + b"}",
]

NOT_MESSAGES = [
    b"", b" ", b"null", b"1", b'"submit"', b"[]", b"{", b"{}", b"{}{}", b"\xff\xfe", b"\x00" * 40, b'{"action":}',
    b'{"action":"submit","id":"\xff","body":1}', b'{"action":"respond","body":"\xc3\x28"}',
    b'{"action":"join","type":"\xed\xa0\x80"}',
    b'{"action":"submit","id":1,"id":2,"body":1,"body":2}', b'{"action":"join","action":"submit"}',
    b'\xef\xbb\xbf{"action":"ping"}',
    b'{"action":"submit","id":1,"body":NaN}', b'{"action":"submit","id":1,"body":1e400}', b'{"action":"ping"}\x00',
    b'{"\\u0061ction":"p\\u0069ng"}', *DEEP,
]  # fmt: skip


def message(draw: Draw, is_slave: bool) -> dict[str, Any]:
    """Return a message valid on one of the ports, mostly on the port given."""
    if draw.once_in(32):
        is_slave = not is_slave
    verbs = _SLAVE_VERBS if is_slave else _MASTER_VERBS
    return draw.of(verbs)(draw)


def payload(draw: Draw, is_slave: bool, tameness: int = 16) -> bytes:
    """Return a frame's payload; about eight in *tameness* are malformed."""
    kind = draw.number(tameness)
    if kind == 0:
        return draw.of(NOT_MESSAGES) if draw.once_in(2) else draw.bytes(draw.number(60))
    fields = message(draw, is_slave)
    if kind == 1:
        return _damaged(draw, json.dumps(fields).encode())
    if kind < 8:
        fields = _with_something_odd(draw, fields)
    text = json.dumps(fields).encode()
    if draw.once_in(24):
        text = _with_something_deep(draw, text)
    return _with_escapes(draw, text) if draw.once_in(16) else text


def greeting(draw: Draw) -> bytes:
    """Return a valid hello."""
    return json.dumps(_hello(draw) | {"heartbeat": 0, "token": TOKEN}).encode()


def about(draw: Draw, id: Any, is_slave: bool) -> bytes:
    """Return a valid message about a job of the peer: one that ends it, or reports its progress."""
    verb = draw.of((_respond, _respond, _respond, _fail, _progress)) if is_slave else _cancel
    return json.dumps(verb(draw) | {"id": id}).encode()


def beginning(draw: Draw) -> bytes:
    """Return a valid join of the most common job type."""
    return json.dumps({"action": "join", "type": "t", "slots": 1 + draw.number(3)}).encode()


def _with_something_odd(draw: Draw, fields: dict[str, Any]) -> dict[str, Any]:
    name = draw.of([*fields, "type", "id", "slots", "jobs", "accept"])
    if draw.once_in(4):
        fields.pop(name, None)
    else:
        fields[name] = draw.of(ODD)
    return fields


def deep_value(draw: Draw) -> bytes:
    """Return a value nested close to the depth limit of a body, on either side of it."""
    levels, filler = draw.of(DEPTHS), draw.of(FILLERS)
    if draw.once_in(2):
        return f"{'[' * levels}{filler}1{']' * levels}".encode()
    return f"""{'{"a":' * levels}[{filler}1]{"}" * levels}""".encode()


def _with_something_deep(draw: Draw, data: bytes) -> bytes:
    name = draw.of((b"body", b"body", b"unknown", b"id", b"jobs"))
    value = deep_value(draw)
    if name == b"jobs":
        value = b'[{"id":"a","type":"t","body":' + value + b'},{"id":"b","type":"t","body":1}]'
    # Of two equal keys, the last counts.
    return data[:-1] + b',"' + name + b'":' + value + b"}"


def _with_escapes(draw: Draw, data: bytes) -> bytes:
    """Spell one letter of a key, or of another string, as an escape."""
    word = draw.of((b"action", b"token", b"hello", b"submit", b"body", b"type"))
    at = draw.number(len(word))
    return data.replace(b'"' + word + b'"', b'"%b\\u%04x%b"' % (word[:at], word[at], word[at + 1 :]))


def _damaged(draw: Draw, data: bytes) -> bytes:
    at, how = draw.number(len(data)), draw.number(4)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + draw.bytes(1 + draw.number(4)) + data[at + 1 :]
    if how == 2:
        return data[:at] + draw.of(NOT_MESSAGES) + data[at:]
    return data + draw.of([b" ", b"\n\t", b"\x00", b"{}", b","])


# Messages of each port


def _hello(draw: Draw) -> dict[str, Any]:
    accept = [one for one in ("progress", "cancel", "receipt", "quiet", "soon") if draw.once_in(2)]
    hello = {"action": "hello", "version": 1, "accept": accept, "heartbeat": draw.of((0, 0, 30, 0.1))}
    if draw.once_in(2):
        hello["token"] = TOKEN
    if draw.once_in(4):
        hello["name"] = draw.of(("n", "x" * 255, "é", "a\nb", "\x9b"))
    return hello


def _ping(draw: Draw) -> dict[str, Any]:
    return {"action": "ping", "unknown": draw.number(4)}


def _submit(draw: Draw) -> dict[str, Any]:
    return {"action": "submit", **_job(draw)}


def _job(draw: Draw) -> dict[str, Any]:
    job = {"id": draw.of(IDS), "type": draw.of(TYPES), "body": draw.of(BODIES), "priority": draw.number(3)}
    for name, values in (
        ("timeout", SECONDS),
        ("expires", SECONDS),
        ("delay", SECONDS),
        ("retries", (0, 1, 100, None)),
    ):
        if draw.once_in(4):
            job[name] = draw.of(values)
    for name in ("attach", "require_slave"):
        if draw.once_in(4):
            job[name] = True
    return job


def _submit_many(draw: Draw) -> dict[str, Any]:
    jobs: list[Any] = [_job(draw) for _ in range(draw.number(5))]
    if draw.once_in(4):
        jobs.append(draw.of(ODD))
    return {"action": "submit_many", "jobs": jobs}


def _cancel(draw: Draw) -> dict[str, Any]:
    return {"action": "cancel", "id": draw.of(IDS)}


def _join(draw: Draw) -> dict[str, Any]:
    join: dict[str, Any] = {"action": "join", "type": draw.of(TYPES)}
    if draw.once_in(3):
        del join["type"]
        join["types"] = [draw.of(("t", "u", "w")) for _ in range(1 + draw.number(3))]
    if draw.once_in(3):
        join["slots"] = 1 + draw.number(4)
    return join


def _of_job(action: str, draw: Draw) -> dict[str, Any]:
    said: dict[str, Any] = {"action": action, "body": draw.of(BODIES)}
    if not draw.once_in(3):
        said["id"] = draw.of(IDS)
    return said


def _respond(draw: Draw) -> dict[str, Any]:
    return _of_job("respond", draw)


def _progress(draw: Draw) -> dict[str, Any]:
    return _of_job("progress", draw)


def _fail(draw: Draw) -> dict[str, Any]:
    fail = {**_of_job("fail", draw), "reason": draw.of(("", "no", "x" * 400)), "retry": draw.once_in(2)}
    if draw.once_in(2):
        fail |= {"kind": "ValueError", "traceback": "é\n"}
    return fail


def _leave(draw: Draw) -> dict[str, Any]:
    return {"action": "leave"}


_MASTER_VERBS = (_submit, _submit, _submit, _submit_many, _cancel, _hello, _hello, _ping)
_SLAVE_VERBS = (_respond, _respond, _respond, _join, _join, _fail, _progress, _leave, _hello, _hello, _ping)
