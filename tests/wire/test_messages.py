"""Bytes to values and back: every verb, every diagnosis, and whatever else may arrive."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from gloom.errors import (
    BodyError,
    IdExists,
    InvalidAction,
    InvalidJSON,
    InvalidState,
    InvalidType,
    MissingField,
    ProtocolError,
    UnknownAction,
)
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.encoding import (
    encode_answer,
    encode_error,
    encode_extended_failure,
    encode_failure,
    encode_job,
    encode_welcome,
)
from gloom.wire.messages import (
    BASE_REQUESTS,
    EXTENDED_REQUESTS,
    MASTER,
    OK,
    SLAVE,
    BrokerMessage,
    Cancel,
    ExtendedJoin,
    ExtendedRespond,
    ExtendedSubmit,
    Fail,
    Hello,
    Join,
    Leave,
    Ping,
    Progress,
    Request,
    Respond,
    Submit,
    SubmitMany,
    Vocabulary,
    decode_broker_message,
    encode_request,
)
from gloom.wire.refusals import quote, verb_of

BASE_MASTER = Vocabulary(MASTER, extended=False)
BASE_SLAVE = Vocabulary(SLAVE, extended=False)
MASTER_PORT = Vocabulary(MASTER, extended=True)
SLAVE_PORT = Vocabulary(SLAVE, extended=True)
VOCABULARIES = [BASE_MASTER, BASE_SLAVE, MASTER_PORT, SLAVE_PORT]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = TEXTS.filter(bool)
PRINTED = st.text("aé😀 -:", min_size=1, max_size=20)
IDS = st.one_of(NAMES, st.integers(), st.integers(-(10**50), 10**50))
TYPES = st.none() | NAMES
PRIORITIES = st.integers(-(2**63), 2**63 - 1)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXTS, values, max_size=4),
    max_leaves=10,
)
BODIES = VALUES.map(lambda value: Raw(json.dumps(value).encode()))


def short(value: Any) -> str | None:
    """A test's name for a value that may be long."""
    return repr(value)[:40] if isinstance(value, str | bytes) else None


def plain(request: Request | BrokerMessage) -> tuple[Any, ...]:
    """A message's kind and values, comparable: two `Raw` of the same bytes are not equal."""
    values = [getattr(request, name) for name in request.__struct_fields__]
    return (type(request), *map(comparable, values))


def comparable(value: Any) -> Any:
    if isinstance(value, list):
        return [comparable(one) for one in value]
    return bytes(value) if isinstance(value, Raw) else value


# Round trips

HELLOS = st.builds(
    Hello, st.integers(), st.none() | PRINTED, st.floats(0, 1e9), st.lists(TEXTS, max_size=3), st.none() | TEXTS
)
REQUESTS: list[tuple[Vocabulary, st.SearchStrategy[Any]]] = [
    (MASTER_PORT, HELLOS),
    (SLAVE_PORT, HELLOS),
    (BASE_MASTER, st.builds(Hello, st.integers())),
    (MASTER_PORT, st.just(Ping())),
    (SLAVE_PORT, st.just(Ping())),
    (BASE_MASTER, st.builds(Submit, IDS, BODIES, TYPES, PRIORITIES)),
    (
        MASTER_PORT,
        st.builds(
            ExtendedSubmit,
            IDS,
            BODIES,
            TYPES,
            PRIORITIES,
            st.booleans(),
            st.none() | st.floats(0, 1e9, exclude_min=True),
            st.none() | st.floats(0, 1e9),
            st.none() | st.floats(0, 1e9),
            st.none() | st.integers(0, 100),
            st.booleans(),
        ),
    ),
    (MASTER_PORT, st.builds(SubmitMany, st.lists(BODIES))),
    (BASE_SLAVE, st.builds(Join, TYPES)),
    (BASE_SLAVE, st.builds(Respond, BODIES)),
    (SLAVE_PORT, st.builds(ExtendedRespond, BODIES, st.none() | IDS)),
    (
        SLAVE_PORT,
        st.builds(Fail, TEXTS, st.none() | NAMES, st.none() | TEXTS, st.booleans(), st.none() | IDS),
    ),
    (SLAVE_PORT, st.builds(ExtendedJoin, TYPES, st.none(), st.integers(1, 1000))),
    (SLAVE_PORT, st.builds(ExtendedJoin, types=st.none() | st.lists(NAMES, min_size=1), slots=st.integers(1, 1000))),
    (SLAVE_PORT, st.builds(Progress, BODIES, st.none() | IDS)),
    (SLAVE_PORT, st.just(Leave())),
    (MASTER_PORT, st.builds(Cancel, IDS)),
]


@settings(deadline=None)
@given(st.one_of([st.tuples(st.just(vocabulary), requests) for vocabulary, requests in REQUESTS]))
def test_every_request_survives_the_wire(sent: tuple[Vocabulary, Request]) -> None:
    """The port decodes every field of a client's request unchanged."""
    vocabulary, request = sent
    assert plain(vocabulary.decode(encode_request(request))) == plain(request)


def test_every_verb_has_its_round_trip() -> None:
    """The list above misses no verb of any port."""
    tried = {(vocabulary.role, verb) for vocabulary, _ in REQUESTS for verb in vocabulary.requests}
    for role in (MASTER, SLAVE):
        for requests in (BASE_REQUESTS[role], EXTENDED_REQUESTS[role]):
            assert {(role, verb_of(request)) for request in requests} <= tried


@settings(deadline=None)
@given(IDS, TYPES, VALUES)
def test_a_job_reaches_the_slave_as_it_was_submitted(id: str | int, type: str | None, value: Any) -> None:
    """A slave reads the id, the type and the body that the master sent."""
    body = json.dumps(value).encode()
    assert json.loads(bytes(encode_job(id, type, body))) == {"action": "job", "id": id, "type": type, "body": value}
    message = decode_broker_message(encode_job(id, type, Raw(body)))
    assert (message.action, message.id, message.type, bytes(message.body)) == ("job", id, type, body)


@pytest.mark.parametrize(
    "body",
    [
        b"1.0",
        b"1e400",
        b"-0",
        b"123456789012345678901234567890",
        b"9" * 5000,
        b'{"b": 1,\n "a":  [ ]}',
        b'{"a":1,"a":2}',
        b'"\\u0041\\/"',
        '"é€😀"'.encode(),
        b"null",
    ],
    ids=short,
)
def test_a_body_is_not_touched(body: bytes) -> None:
    """Numbers, spaces, escapes, doubled keys: a body arrives byte for byte."""
    request = BASE_MASTER.decode(b'{"action":"submit","id":1,"body": ' + body + b" }")
    assert isinstance(request, Submit)
    assert bytes(request.body) == body
    assert body in encode_job(1, None, request.body)
    assert encode_answer("j", request.body) == b'{"id":"j","body":' + body + b"}"


def test_an_answer_names_the_job() -> None:
    """The outcome of a job has its id, a text or a number, and the body."""
    assert encode_answer(7, b"[]") == b'{"id":7,"body":[]}'
    assert encode_answer('"', b"[]") == rb'{"id":"\"","body":[]}'


def test_a_base_failure_has_three_keys() -> None:
    """A master of 2009 reads id, error and reason, and nothing else."""
    assert json.loads(encode_failure("j", "job_failed", "no")) == {"id": "j", "error": "job_failed", "reason": "no"}


def test_an_extended_failure_says_all() -> None:
    """Kind and traceback are there when the slave gave them, the attempts always."""
    attempts = [{"slave": "s", "seconds": 0.5, "ended": "failed"}]
    full = encode_extended_failure("j", "job_failed", "no", "ValueError", "Traceback", attempts)
    assert json.loads(full) == {
        "id": "j",
        "error": "job_failed",
        "reason": "no",
        "attempts": attempts,
        "kind": "ValueError",
        "traceback": "Traceback",
    }
    message = decode_broker_message(full)
    assert (message.kind, message.traceback, message.attempts) == ("ValueError", "Traceback", attempts)
    assert json.loads(encode_extended_failure("j", "job_failed", "no", None, None, [])) == {
        "id": "j",
        "error": "job_failed",
        "reason": "no",
        "attempts": [],
    }


def test_a_welcome_says_what_was_agreed() -> None:
    """The reply to hello has the version, the limit, the heartbeat and the features."""
    message = decode_broker_message(encode_welcome("gloom/1", 1024, 30.0, ["attach"]))
    assert (message.ok, message.version, message.server) == (True, 1, "gloom/1")
    assert (message.max_frame, message.heartbeat, message.features) == (1024, 30.0, ["attach"])


def test_a_refusal_has_a_code_and_a_reason() -> None:
    """An error on the wire is these two keys."""
    assert json.loads(encode_error(IdExists("j1"))) == {"error": "id_exists", "reason": "j1"}


def test_ok_is_the_boolean() -> None:
    """The wire of 2009 says true, not "true"."""
    assert json.loads(OK) == {"ok": True}


# Diagnoses


def refusal(vocabulary: Vocabulary, frame: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        vocabulary.decode(frame)
    return caught.value


def submit(**changes: str) -> bytes:
    """A submit with some fields replaced by JSON texts; an empty text drops the field."""
    fields = {"action": '"submit"', "id": '"j"', "type": '"t"', "priority": "0", "body": "1"} | changes
    return ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items() if text) + "}").encode()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "the frame is empty; expected a JSON object"),
        (b" \n", "the frame is empty; expected a JSON object"),
        (b"[1]", "the frame must hold a JSON object, got [1]"),
        (b'"submit"', "the frame must hold a JSON object, got a string"),
        (b"null", "the frame must hold a JSON object, got null"),
        (b"{", "Input data was truncated"),
        (b'{"action":"submit",}', "trailing comma in object (byte 19)"),
        (submit() + b" x", "trailing characters"),
        (submit() + submit(), "trailing characters"),
        (b"\xef\xbb\xbf" + submit(), "invalid character (byte 0)"),
        (submit(body="NaN"), "invalid character"),
        (submit(body="Infinity"), "invalid character"),
        (submit(body="01"), "invalid number"),
        (submit(body="'x'"), "invalid character"),
        (submit(body='"\t"'), "invalid character"),
        (submit(body='"\\ud800"'), "JSON"),
        (submit(body='"\\ud800xxxxxxxxxx"'), "JSON is malformed"),
        (submit(id='"\\udc00"'), "invalid utf-16 surrogate pair"),
        (b'{"\\udc00":1}', "invalid utf-16 surrogate pair"),
        (submit(unknown="[01]"), "invalid number"),
        (submit().replace(b'"t"', b'"\xff"'), "the frame is not UTF-8: invalid start byte at byte 36"),
        (submit().replace(b":1}", b':"\xc3"}'), "the frame is not UTF-8: invalid continuation byte"),
        (submit(unknown="0").replace(b"0}", b'"\xed\xa0\x80"}'), "the frame is not UTF-8"),
    ],
    ids=short,
)
def test_what_is_not_one_json_object(frame: bytes, reason: str) -> None:
    """A frame that is not one UTF-8 JSON object closes the connection, and the reason says where it went wrong."""
    error = refusal(BASE_MASTER, frame)
    assert type(error) is InvalidJSON
    if reason != "JSON":
        assert reason in error.reason


@pytest.mark.parametrize(
    ("vocabulary", "frame", "reason"),
    [
        (BASE_MASTER, b"{}", "action is required: one of hello, submit"),
        (SLAVE_PORT, b"{}", "action is required: one of fail, hello, join, leave, ping, progress, respond"),
        (BASE_MASTER, submit(id=""), "id is required by submit: a string of 1 to 255 characters or an integer"),
        (BASE_MASTER, submit(body=""), "body is required by submit: any JSON value"),
        (BASE_SLAVE, b'{"action":"join"}', "type is required by join: a string of 1 to 255 characters or null"),
        (BASE_SLAVE, b'{"action":"respond"}', "body is required by respond: any JSON value"),
        (SLAVE_PORT, b'{"action":"fail"}', "reason is required by fail: a string"),
        (BASE_MASTER, b'{"action":"hello"}', "version is required by hello: an integer"),
    ],
    ids=short,
)
def test_a_missing_field(vocabulary: Vocabulary, frame: bytes, reason: str) -> None:
    """The reason names the missing field, the verb, and the allowed values."""
    error = refusal(vocabulary, frame)
    assert (type(error), error.reason) == (MissingField, reason)


ID_RULE = "id must be a string of 1 to 255 characters or an integer"
NAME_RULE = "name must be a string of 1 to 255 characters, none of them a control character, or null"
TYPE_RULE = "type must be a string of 1 to 255 characters or null"
PRIORITY_RULE = "priority must be an integer of signed 64 bits"


@pytest.mark.parametrize(
    ("vocabulary", "frame", "reason"),
    [
        (BASE_MASTER, submit(id="true"), f"{ID_RULE}, got true"),
        (BASE_MASTER, submit(id="null"), f"{ID_RULE}, got null"),
        (BASE_MASTER, submit(id="1.0"), f"{ID_RULE}, got 1.0"),
        (BASE_MASTER, submit(id='""'), f'{ID_RULE}, got ""'),
        (BASE_MASTER, submit(id='["j"]'), f'{ID_RULE}, got ["j"]'),
        (BASE_MASTER, submit(id='"' + "x" * 256 + '"'), f'{ID_RULE}, got "{"x" * 99}...'),
        (BASE_MASTER, submit(id="9" * 4301), f"{ID_RULE}, got {'9' * 100}..."),
        (BASE_MASTER, submit(type="5"), f"{TYPE_RULE}, got 5"),
        (BASE_MASTER, submit(type='""'), f'{TYPE_RULE}, got ""'),
        (BASE_MASTER, submit(type='"' + "é" * 256 + '"'), f'{TYPE_RULE}, got "{"é" * 99}...'),
        (BASE_MASTER, submit(priority='"high"'), f'{PRIORITY_RULE}, got "high"'),
        (BASE_MASTER, submit(priority="1.0"), f"{PRIORITY_RULE}, got 1.0"),
        (BASE_MASTER, submit(priority="null"), f"{PRIORITY_RULE}, got null"),
        (BASE_MASTER, submit(priority=str(2**63)), f"{PRIORITY_RULE}, got 9223372036854775808"),
        (BASE_MASTER, submit(priority=str(-(2**63) - 1)), f"{PRIORITY_RULE}, got -9223372036854775809"),
        (MASTER_PORT, submit(attach="1"), "attach must be true or false, got 1"),
        (BASE_SLAVE, b'{"action":"join","type":[]}', f"{TYPE_RULE}, got []"),
        (SLAVE_PORT, b'{"action":"respond","body":1,"id":true}', f"{ID_RULE}, got true"),
        (SLAVE_PORT, b'{"action":"fail","reason":null}', "reason must be a string, got null"),
        (
            SLAVE_PORT,
            b'{"action":"fail","reason":"","kind":""}',
            'kind must be a string of 1 to 255 characters or null, got ""',
        ),
        (
            SLAVE_PORT,
            b'{"action":"fail","reason":"","traceback":1}',
            "traceback must be a string or null, got 1",
        ),
        (SLAVE_PORT, b'{"action":"fail","reason":"","retry":"no"}', 'retry must be true or false, got "no"'),
        (BASE_MASTER, b'{"action":"hello","version":"1"}', "version must be an integer, got a string"),
        (
            BASE_MASTER,
            b'{"action":"hello","version":1,"name":7}',
            f"{NAME_RULE}, got 7",
        ),
        (
            BASE_SLAVE,
            b'{"action":"hello","version":1,"heartbeat":-1}',
            "heartbeat must be a number of seconds, 0 to 1000000000, got -1",
        ),
        (
            BASE_SLAVE,
            b'{"action":"hello","version":1,"heartbeat":1e400}',
            "heartbeat must be a number of seconds, 0 to 1000000000, got 1e400",
        ),
        (BASE_MASTER, b'{"action":5}', "action must be a string, got 5"),
        (BASE_MASTER, b'{"action":null}', "action must be a string, got null"),
        # Of two mistakes the first field's, in the order of the tables.
        (BASE_MASTER, submit(priority="null", id="null"), f"{ID_RULE}, got null"),
    ],
    ids=short,
)
def test_a_field_of_the_wrong_kind(vocabulary: Vocabulary, frame: bytes, reason: str) -> None:
    """The reason names the field, its allowed values, and the given value, cut at 100 characters."""
    error = refusal(vocabulary, frame)
    assert (type(error), error.reason) == (InvalidType, reason)


@pytest.mark.parametrize(
    ("vocabulary", "verb", "kind", "reason"),
    [
        (BASE_MASTER, "join", InvalidAction, "join is for the slave port; this is the master port"),
        (MASTER_PORT, "fail", InvalidAction, "fail is for the slave port; this is the master port"),
        (BASE_SLAVE, "submit", InvalidAction, "submit is for the master port; this is the slave port"),
        (BASE_MASTER, "ping", InvalidState, "ping needs a hello before it on this connection"),
        (BASE_SLAVE, "fail", InvalidState, "fail needs a hello before it on this connection"),
        (BASE_SLAVE, "leave", InvalidState, "leave needs a hello before it on this connection"),
        (BASE_MASTER, "sumbit", UnknownAction, "action sumbit is unknown; this port has hello, submit"),
        (BASE_SLAVE, "", UnknownAction, "action  is unknown; this port has hello, join, respond"),
        (
            MASTER_PORT,
            "é" * 150,
            UnknownAction,
            f"action {'é' * 100}... is unknown; this port has cancel, hello, ping, submit, submit_many",
        ),
    ],
    ids=short,
)
def test_a_verb_that_is_not_for_this_port_now(
    vocabulary: Vocabulary, verb: str, kind: type[ProtocolError], reason: str
) -> None:
    """A verb of the other port, one that needs hello, and one that nobody has are told apart."""
    error = refusal(vocabulary, json.dumps({"action": verb}, ensure_ascii=False).encode())
    assert (type(error), error.reason) == (kind, reason)


def test_unknown_keys_are_ignored() -> None:
    """A client may send keys of a later version; a base submit does not read the extended ones."""
    request = BASE_MASTER.decode(submit(attach="7", colour='"blue"'))
    assert plain(request) == (Submit, "j", b"1", "t", 0)


def test_keys_may_come_in_any_order_and_in_any_spelling() -> None:
    """JSON's freedom is the peer's: order, spaces, escapes in keys."""
    frame = b' { "body" : [1 , 2] , "\\u0069d" : 1, "action"\n: "sub\\u006dit" }\t'
    assert plain(BASE_MASTER.decode(frame)) == (Submit, 1, b"[1 , 2]", None, 0)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (submit().replace(b'"id"', b'"id":true,"id"'), InvalidType),
        (submit().replace(b'"action"', b'"action":"ping","action"'), None),
        (b'{"action":"submit","action":"join","id":1,"body":2}', None),
        (b'{"action":"submit","action":"hello","id":1,"body":2}', None),
        (b'{"action":"hello","action":"submit","id":1,"body":2,"version":1}', None),
    ],
    ids=short,
)
def test_a_key_that_comes_twice_is_refused_or_the_last_counts(frame: bytes, kind: type[ProtocolError] | None) -> None:
    """Doubled keys with different values never get past as something that was not said."""
    error = refusal(BASE_MASTER, frame)
    assert kind is None or type(error) is kind


def test_of_two_valid_values_the_last_counts() -> None:
    """As in most readers of JSON."""
    assert plain(BASE_MASTER.decode(submit().replace(b'"id"', b'"id":"first","id"'))) == plain(
        BASE_MASTER.decode(submit())
    )


@pytest.mark.parametrize("priority", [-(2**63), 2**63 - 1, 0])
def test_priorities_at_the_ends_of_the_range(priority: int) -> None:
    """A priority may have all of signed 64 bits."""
    request = BASE_MASTER.decode(submit(priority=str(priority)))
    assert isinstance(request, Submit)
    assert request.priority == priority


@pytest.mark.parametrize("id", ["x", "x" * 255, "😀" * 255, "\x00", -1, 2**64, 10**4299], ids=short)
def test_ids_at_the_ends_of_the_range(id: str | int) -> None:
    """An id is 1 to 255 characters, whatever they are, or an integer of up to 4300 digits."""
    request = BASE_MASTER.decode(submit(id=json.dumps(id)))
    assert isinstance(request, Submit)
    assert request.id == id
    assert json.loads(bytes(encode_job(id, None, b"1")))["id"] == id


# Whatever else may arrive

FRAMES = st.sampled_from(
    [
        submit(),
        submit(attach="true", type="null"),
        b'{"action":"join","type":"t"}',
        b'{"action":"respond","body":{"a":[1,2.5e3,"x\\u00e9",null]},"id":"j"}',
        b'{"action":"fail","reason":"r","kind":"k","traceback":null,"retry":true,"id":5}',
        b'{"action":"hello","version":1,"name":"n","heartbeat":30}',
        b'{"action":"leave"}',
        '{"action":"submit","id":"é😀","body":"€"}'.encode(),
    ]
)
PIECES = st.sampled_from(
    [
        b"",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"true",
        b"1",
        b"-",
        b".",
        b"e9",
        b"\\u",
        b"\\ud83d",
        b'"action":',
        b'"id":',
        b'"body":',
        b'"submit"',
        b'"ping"',
        b"\x00",
        b"\xff",
        b"\xc3",
        b" ",
        b"NaN",
        b"9" * 400,
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with some pieces cut out, put in or written over."""
    frame = draw(FRAMES)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(frame)))
        stop = draw(st.integers(start, min(len(frame), start + 8)))
        frame = frame[:start] + draw(PIECES | st.binary(max_size=3)) + frame[stop:]
    return frame


def refuse_constant(text: str) -> NoReturn:
    raise AssertionError(f"{text} is not JSON")


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(VOCABULARIES), mutated() | st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_protocol_error(vocabulary: Vocabulary, frame: bytes) -> None:
    """Any frame is a request or a protocol error. A reason can be encoded; an accepted frame is valid JSON."""
    try:
        request = vocabulary.decode(frame)
    except ProtocolError as error:
        assert error.reason
        encode_error(error)
        return
    # Digits are not counted here: a body may have more than Python reads.
    message = json.loads(frame, parse_constant=refuse_constant, parse_int=str, parse_float=str)
    assert message["action"] == verb_of(type(request))
    if isinstance(request, Submit | Respond):
        body = json.loads(bytes(request.body), parse_constant=refuse_constant, parse_int=str, parse_float=str)
        assert body == message["body"]


@settings(deadline=None, max_examples=200)
@given(mutated() | st.binary(max_size=60))
def test_any_bytes_are_a_broker_s_message_or_a_protocol_error(frame: bytes) -> None:
    """A client that is sent nonsense raises nothing but ProtocolError."""
    try:
        decode_broker_message(frame)
    except ProtocolError as error:
        assert "the broker sent what is not a message" in error.reason


def test_a_broker_s_message_may_be_nested_too_deeply() -> None:
    """Depth without an end is a protocol error for a client too."""
    with pytest.raises(ProtocolError, match="is not a message: "):
        decode_broker_message(b'{"body":' + b"[" * 100_000)


def test_a_client_ignores_keys_that_it_does_not_know() -> None:
    """A later broker may say more."""
    message = decode_broker_message(b'{"ok":true,"colour":["blue"]}')
    assert plain(message) == plain(BrokerMessage(ok=True))
    assert bytes(message.body) == b""


# Quoting


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"", ""),
        (b"x" * 100, "x" * 100),
        (b"x" * 101, "x" * 100 + "..."),
        (b"x" * 10_000, "x" * 100 + "..."),
        ("é".encode() * 100, "é" * 100),
        ("😀".encode() * 100, "😀" * 100),
        ("😀".encode() * 101, "😀" * 100 + "..."),
        (("a" + "😀" * 100).encode(), "a" + "😀" * 99 + "..."),
        (b"a\xffb", "a\ufffdb"),
    ],
    ids=short,
)
def test_quotes_are_cut_at_100_characters(raw: bytes, shown: str) -> None:
    """A reason quotes at most 100 characters of the value, no half character, and marks the cut."""
    assert quote(raw) == shown
    assert quote(Raw(raw)) == shown


# Bodies


@settings(deadline=None)
@given(VALUES)
def test_a_value_comes_back_as_itself(value: Any) -> None:
    """A slave's function receives the value that the master submitted."""
    assert decode_body(encode_body(value)) == value


def test_json_is_a_body_as_it_is() -> None:
    """A body that is JSON already, such as a received one, is sent byte for byte."""
    body = Raw(b'{"b": 1.0, "a" : [1e2]}')
    assert encode_body(body) is body


@dataclass
class Point:
    x: float


class Pair(NamedTuple):
    first: int
    second: str


class Level(IntEnum):
    HIGH = 2


class Colour(StrEnum):
    RED = "red"


class Shade(Enum):
    DARK = 1


class Odd:
    """Something that JSON has no form for."""


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        [1, {"a": -math.inf}],
        (math.nan,),
        {math.nan},
        Point(math.nan),
        {"a": [Point(math.inf)]},
        "\ud800",
        {"\ud800": 1},
        Odd(),
        [Odd],
        {(1, 2): 3},
        {None: 1},
        pytest.param(10**5000, id="5001 digits"),
        ENDLESS,
    ],
    ids=short,
)
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    """NaN, infinities, lone surrogates, objects without a JSON form: refused, not changed silently."""
    with pytest.raises(BodyError, match="not JSON"):
        encode_body(value)


@pytest.mark.parametrize("value", [None, "null", ["null", None, 1.5], {"null": {"a": None}}, (None,)])
def test_null_is_a_value_like_another(value: Any) -> None:
    """None and the text "null" are carried."""
    assert decode_body(encode_body(value)) == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        ((1, 2), [1, 2]),
        ({"a": (1, (2,))}, {"a": [1, [2]]}),
        (Pair(1, "b"), [1, "b"]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ([Level.HIGH, Colour.RED, {Colour.RED: Level.HIGH}], [2, "red", {"red": 2}]),
        ([Raw(b'{"a":1}')], [{"a": 1}]),
        (2**70, 2**70),
    ],
    ids=short,
)
def test_what_comes_back_as_something_else(value: Any, comes_back: Any) -> None:
    """Tuples return as lists, subclasses as their base type, and a `Raw` as its content."""
    assert decode_body(encode_body(value)) == comes_back


class Masked(dict[str, Any]):
    """A dict that shows other contents than it has."""

    def values(self) -> Any:
        return ()

    def keys(self) -> Any:
        return ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"ab", "got bytes; send text, in base64 for example"),
        (bytearray(), "got bytearray"),
        (memoryview(b""), "got memoryview"),
        ({1}, "got set; send a list"),
        (frozenset([1]), "got frozenset; send a list"),
        (datetime(2026, 1, 2), r"got datetime; send its isoformat\(\)"),
        (date(2026, 1, 2), "got date"),
        (timedelta(1), "got timedelta"),
        (UUID(int=1), r"got UUID; send its str\(\)"),
        (Decimal("1.10"), "got Decimal"),
        (Point(1.5), r"got Point; send its dataclasses.asdict\(\)"),
        (Ping(), "got Ping"),
        (Shade.DARK, "got Shade"),
        ({1: "a"}, "the keys of a dict must be strings, got int"),
        ({"a": {None: 1}}, "keys are supported"),
        ({b"k": 1}, "got bytes"),
        ({1.5: 1}, "got float"),
        ({(1, 2): 1}, "keys are supported"),
        (Masked(a=b"x"), "got bytes"),
        ((x for x in [1]), "generator"),
        (Ellipsis, "ellipsis"),
    ],
    ids=short,
)
@pytest.mark.parametrize("around", [lambda value: value, lambda value: [1, {"a": (value,)}]], ids=["alone", "inside"])
def test_a_value_that_would_be_changed_is_refused(value: Any, told: str, around: Callable[[Any], Any]) -> None:
    """Nothing arrives as another value without a word: the error names the kind, and the way out."""
    with pytest.raises(BodyError, match=f"^not JSON: .*{told}"):
        encode_body(around(value))


@given(VALUES, st.sampled_from([b"", set(), date(2026, 1, 1), Odd()]))
def test_a_value_that_would_be_changed_is_found_wherever_it_is(value: Any, bad: Any) -> None:
    """At any depth, beside anything."""
    assert decode_body(encode_body([value, {"a": value}])) == [value, {"a": value}]
    with pytest.raises(BodyError):
        encode_body([value, {"a": [value, bad]}])


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"1e400", math.inf),
        (b"[-1e400]", [-math.inf]),
        (b'"\\ud800"', "\ud800"),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"1180591620717411303424", 2**70),
    ],
    ids=short,
)
def test_bodies_of_other_languages_are_read_as_far_as_python_goes(body: bytes, value: Any) -> None:
    """Valid JSON beyond a double, or with half a surrogate pair, is read as Python's json reads it."""
    assert decode_body(body) == value
    assert decode_body(Raw(body)) == value


@pytest.mark.parametrize("body", [b"[" * 100_000 + b"]" * 100_000, b"9" * 5000, b"", b"{", b'"\xff"'], ids=short)
def test_a_body_that_python_cannot_read(body: bytes) -> None:
    """A body without an end of nesting, a number of 5000 digits: an error that says so, not a crash."""
    with pytest.raises(BodyError, match="cannot read the body"):
        decode_body(body)
