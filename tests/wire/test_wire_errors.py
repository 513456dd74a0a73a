"""Mistakes and frames on both ports, in memory: docs/protocol.md, sections 1 and 2."""

from __future__ import annotations

import gc
import json
from types import TracebackType
from typing import Any

import pytest
from twisted.logger import formatEvent

from gloom.broker.memory import MemoryBroker
from gloom.errors import ProtocolError
from gloom.server.access import Access
from gloom.settings import Settings
from gloom.testing import MemoryGloom
from gloom.wire.framereader import to_frame
from tests.support.logged import logged
from tests.support.specification import names_in, specification
from tests.support.wire import (
    HELLO,
    OK,
    PING,
    busy_slave_of,
    extended,
    fail,
    job,
    join,
    respond,
    served,
    slave_of,
    submit,
)

CLOSING = {names_in(row["code"])[0] for row in specification().tables["errors"] if row["connection"] == "closed"}


# Mistakes of masters

S = '{"action":"submit",'
MISTAKES = [
    ("", "invalid_json", "the frame is empty"),
    ("  ", "invalid_json", "the frame is empty"),
    ("nonsense", "invalid_json", "malformed"),
    ("[1]", "invalid_json", "must hold a JSON object, got [1]"),
    ('"submit"', "invalid_json", "must hold a JSON object"),
    ("null", "invalid_json", "must hold a JSON object"),
    (S, "invalid_json", "truncated"),
    ('{"action":"ping"}{}', "invalid_json", "trailing characters (byte 18)"),
    (S + '"id":1,"body":NaN}', "invalid_json", "byte"),
    (S + '"id":1,"body":[1,]}', "invalid_json", "trailing comma"),
    (S + '"id":1,"body":"\\ud800"}', "invalid_json", "truncated"),
    (S + '"id":1,"body":"\\udc00 and more"}', "invalid_json", "surrogate"),
    (S + '"id":1,"body":1,"unknown":01}', "invalid_json", "invalid number"),
    (b'{"action":"submit","id":1,"body":"\xff"}', "invalid_json", "not UTF-8: invalid start byte at byte 34"),
    (b'\xef\xbb\xbf{"action":"ping"}', "invalid_json", "byte 0"),
    (S + f'"id":1,"body":{"[" * 901 + "]" * 901}}}', "invalid_type", "nested more than 901 levels deep, a body"),
    (S + f'"id":1,"body":{"[" * 100_000 + "]" * 100_000}}}', "invalid_type", "nested more than 901 levels deep"),
    (S + '"id":1,"body":1,"unknown":' + '{"a":' * 901 + "1" + "}" * 902, "invalid_type", "nested more than 901 levels"),
    ("{}", "missing_field", "action is required: one of hello, submit"),
    (S + '"body":1}', "missing_field", "id is required by submit"),
    (S + '"id":1}', "missing_field", "body is required by submit"),
    ('{"action":"hello"}', "missing_field", "version is required by hello"),
    ('{"action":3}', "invalid_type", "action must be a string, got 3"),
    ('{"action":null}', "invalid_type", "action must be a string, got null"),
    (S + '"id":true,"body":1}', "invalid_type", "id must be a string of 1 to 255 characters or an integer, got true"),
    (S + '"id":null,"body":1}', "invalid_type", "got null"),
    (S + '"id":1.0,"body":1}', "invalid_type", "got 1.0"),
    (S + '"id":1e2,"body":1}', "invalid_type", "got 1e2"),
    (S + '"id":"","body":1}', "invalid_type", 'got ""'),
    (S + '"id":[1],"body":1}', "invalid_type", "got [1]"),
    (S + f'"id":"{"é" * 256}","body":1}}', "invalid_type", f'got "{"é" * 99}...'),
    (S + f'"id":{"9" * 4301},"body":1}}', "invalid_type", f"got {'9' * 100}..."),
    (S + '"id":1,"body":1,"type":5}', "invalid_type", "type must be a string of 1 to 255 characters or null, got 5"),
    (S + '"id":1,"body":1,"type":""}', "invalid_type", 'got ""'),
    (S + f'"id":1,"body":1,"type":"{"t" * 256}"}}', "invalid_type", "type must be"),
    (S + '"id":1,"body":1,"priority":"high"}', "invalid_type", 'priority must be an integer of signed 64 bits, got "'),
    (S + '"id":1,"body":1,"priority":null}', "invalid_type", "got null"),
    (S + '"id":1,"body":1,"priority":1.0}', "invalid_type", "got 1.0"),
    (S + '"id":1,"body":1,"priority":true}', "invalid_type", "got true"),
    (S + '"id":1,"body":1,"priority":9223372036854775808}', "invalid_type", "got 9223372036854775808"),
    (S + '"id":1,"body":1,"priority":-9223372036854775809}', "invalid_type", "got -9223372036854775809"),
    ('{"action":"hello","version":1,"name":""}', "invalid_type", "name must be"),
    ('{"action":"hello","version":1,"heartbeat":-1}', "invalid_type", "heartbeat must be a number of seconds"),
    ('{"action":"join","type":"t"}', "invalid_action", "join is for the slave port; this is the master port"),
    ('{"action":"respond","body":1}', "invalid_action", "respond is for the slave port"),
    ('{"action":"fail"}', "invalid_action", "fail is for the slave port"),
    ('{"action":"leave"}', "invalid_action", "leave is for the slave port"),
    ('{"action":"Submit"}', "unknown_action", "action Submit is unknown; this port has hello, submit"),
    (f'{{"action":"{"x" * 101}"}}', "unknown_action", f"action {'x' * 100}... is unknown"),
    ('{"action":"ping"}', "invalid_state", "ping needs a hello before it on this connection"),
    (S + '"id":"mine","body":1}', "id_exists", "mine"),
    (S + '"id":"theirs","body":1}', "id_exists", "theirs"),
    ('{"action":"hello","version":2}', "unsupported_version", "version 2 is not spoken here; this broker has 1"),
]


SECONDS = "must be a number of seconds, 0 to 1000000000, or null, got "
SOME_SECONDS = "timeout must be a number of seconds over 0, to 1000000000, or null, got "
EXTENDED_MASTER_MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    (submit(1, timeout=0), "invalid_type", SOME_SECONDS + "0"),
    (submit(1, timeout=-1), "invalid_type", SOME_SECONDS + "-1"),
    (submit(1, timeout=1.1e9), "invalid_type", SOME_SECONDS + "1100000000.0"),
    (submit(1, timeout="5"), "invalid_type", SOME_SECONDS + '"5"'),
    (submit(1, timeout=True), "invalid_type", SOME_SECONDS + "true"),
    (submit(1, expires=-0.5), "invalid_type", f"expires {SECONDS}-0.5"),
    (submit(1, expires=[]), "invalid_type", f"expires {SECONDS}[]"),
    (submit(1, delay=-1), "invalid_type", f"delay {SECONDS}-1"),
    (submit(1, delay=1e10), "invalid_type", f"delay {SECONDS}10000000000.0"),
    (submit(1, retries=-1), "invalid_type", "retries must be an integer of 0 to 100, or null, got -1"),
    (submit(1, retries=101), "invalid_type", "got 101"),
    (submit(1, retries=1.5), "invalid_type", "got 1.5"),
    (submit(1, require_slave=None), "invalid_type", "require_slave must be true or false, got null"),
    (submit(1, attach="yes"), "invalid_type", 'attach must be true or false, got "yes"'),
    (submit(1, require_slave=True), "no_slaves", "no slave has joined the type 't'"),
    (submit(1, None, require_slave=True), "no_slaves", "no slave has joined"),
    ({"action": "submit_many"}, "missing_field", "jobs is required by submit_many: a list of at most 10000 objects"),
    ({"action": "submit_many", "jobs": {}}, "invalid_type", "jobs must be a list of at most 10000 objects, each"),
    ({"action": "submit_many", "jobs": None}, "invalid_type", "got null"),
    ({"action": "submit_many", "jobs": [submit(1)] + [0] * 10_000}, "invalid_type", 'got [{"action": "submit", "id"'),
    ({"action": "cancel"}, "missing_field", "id is required by cancel: a string of 1 to 255 characters or an integer"),
    ({"action": "cancel", "id": None}, "invalid_type", "id must be"),
    ({"action": "cancel", "id": "1"}, "unknown_job", "'1' is no job of this master in flight"),
    ({"action": "cancel", "id": "theirs"}, "unknown_job", "'theirs' is no job of this master in flight"),
    ({"action": "cancel", "id": "x" * 255}, "unknown_job", f"'{'x' * 99}... is no job"),
    ({"action": "progress", "body": 1}, "invalid_action", "progress is for the slave port; this is the master port"),
]


@pytest.mark.parametrize(
    ("message", "code", "reason"), EXTENDED_MASTER_MISTAKES, ids=range(len(EXTENDED_MASTER_MISTAKES))
)
def test_an_extended_masters_mistake_changes_nothing(message: dict[str, Any], code: str, reason: str) -> None:
    """An extended master that makes a mistake is told which; all jobs are as before, and it goes on."""
    gloom = MemoryGloom()
    beside, master = gloom.master(), extended(gloom.master())
    assert beside.ask(submit("theirs")) == master.ask(submit("mine")) == [OK]
    (reply,) = master.ask(message)
    assert reply["error"] == code and reason in reply["reason"] and set(reply) == {"error", "reason"}
    assert master.ask(submit("mine too")) == [OK]
    assert served(slave_of(gloom)) == ["theirs", "mine", "mine too"]


@pytest.mark.parametrize(
    "message",
    [
        {"action": "hello", "version": 1, "accept": ["x"] * 200_000},
        {"action": "hello", "version": 1, "name": ""},
        {"action": "submit", "id": 1, "body": [[]] * 200_000, "priority": "high"},
        {"action": "explode"},
        submit("theirs"),
    ],
    ids=["long list", "name", "large", "verb", "state"],
)
def test_a_refused_frame_is_not_kept(message: dict[str, Any]) -> None:
    """The memory of a refused frame, perhaps 16 MiB, is freed at once, without the garbage collector."""
    gloom = MemoryGloom()
    assert gloom.master().ask(submit("theirs")) == [OK]
    master = gloom.master()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert "error" in master.ask(message)[0]
        gc.collect()
        kept = [thing for thing in gc.garbage if isinstance(thing, ProtocolError | TracebackType)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert kept == []


HELLO_MISTAKES = [
    ({"accept": "quiet"}, "accept must be a list of at most 100 strings, got a string"),
    ({"accept": [1]}, "accept must be a list of at most 100 strings, got [1]"),
    ({"accept": None}, "accept must be a list of at most 100 strings, got null"),
    ({"accept": ["quiet"] * 101}, "accept must be a list of at most 100 strings, got a list"),
    ({"token": ["secret"]}, "token must be a string or null, got something else"),
    ({"heartbeat": 1.1e9}, "heartbeat must be a number of seconds, 0 to 1000000000, got 1100000000.0"),
]


@pytest.mark.parametrize(("mistake", "reason"), HELLO_MISTAKES, ids=str)
def test_a_wrong_hello_leaves_the_base_level(mistake: dict[str, Any], reason: str) -> None:
    """A field of hello that is wrong is named, and the connection may say hello again."""
    master = MemoryGloom().master()
    assert master.ask(HELLO | mistake) == [{"error": "invalid_type", "reason": reason}]
    assert master.ask(PING)[0]["error"] == "invalid_state"
    assert extended(master).ask(PING) == [OK]


BROKEN_HELLOS = [
    b'{"action":"hello","version":1,"token":"s3cret",}',
    b'[{"action":"hello","version":1,"token":"s3cret"}]',
    b'"token s3cret"',
    b'{"action":"hello","version":1,"token":s3cret}',
    b'{"action":"hello","version":1,"token":{"s3cret":1}}',
    b'{"action":"hello","version":1,"token":["s3cret"]}',
    rb'{"action":"hello","version":1,"t\u006fken":"s3cret",}',
    rb'{"action":"hello","version":1,"t\u006fken":["s3cret"]}',
    rb'{"\u0061ction":"hello","version":1,"t\u006fken":"s3cret"',
    rb'{"\u0061ction":"h\u0065llo","version":"s3cret"}',
    b"{action:hello,version:1,token:s3cret}",
    b"[hello,1,s3cret]",
    b'ken":"s3cret"}',
    b"s3cret",
    b'{"action":{"action":"hello","version":1,"token":"s3cret"}}',
    b'{"action":["hello","s3cret"]}',
    b'{"action":"hello","version":1,"name":["s3cret"]}',
    b'{"action":"hello","version":1,"name":"s3cret\\u001b"}',
    b'{"action":"hello","version":1,"accept":"s3cret"}',
    b'{"action":"hello","version":1,"heartbeat":"s3cret"}',
    b'{"action":"hello","version":1,"accept":{"token":"s3cret"}}',
    b'{"action":"hello","version":1,"token":"s3cret\xff"}',
]


@pytest.mark.parametrize("access", [None, Access([])], ids=["open", "access"])
@pytest.mark.parametrize("frame", BROKEN_HELLOS, ids=range(len(BROKEN_HELLOS)))
def test_a_token_is_in_no_error(frame: bytes, access: Access | None) -> None:
    """However broken the hello is, and however it spells its keys, nothing that could be a token is repeated."""
    gloom = MemoryGloom(Settings(verbose=True), access)
    with logged() as events:
        (reply,) = gloom.master().ask(frame)
    assert reply["error"] in ("invalid_json", "invalid_type", "unauthorized")
    assert "s3cret" not in reply["reason"]
    assert events and not any("s3cret" in formatEvent(event) for event in events)


@pytest.mark.parametrize(("payload", "code", "reason"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_answered_and_changes_nothing(payload: str | bytes, code: str, reason: str) -> None:
    """A master that makes a mistake is told which; its own jobs and everybody else's are as before."""
    gloom = MemoryGloom()
    beside, master = gloom.master(), gloom.master()
    assert beside.ask(submit("theirs")) == master.ask(submit("mine", priority=1)) == [OK]
    (reply,) = master.ask(payload if isinstance(payload, bytes) else payload.encode())
    assert reply["error"] == code and reason in reply["reason"] and set(reply) == {"error", "reason"}
    assert master.lost == (code in CLOSING)
    assert beside.ask(submit("theirs too")) == [OK]
    mine = [] if master.lost else ["mine"]
    assert served(slave_of(gloom)) == [*mine, "theirs", "theirs too"]
    assert beside.take() == [{"id": "theirs", "body": 2}, {"id": "theirs too", "body": 2}]
    assert master.take() == [{"id": id, "body": 2} for id in mine]


def test_every_code_is_among_the_mistakes() -> None:
    """No row of the error table is left out, but those that need more than one message."""
    table = {names_in(row["code"])[0] for row in specification().tables["errors"]}
    elsewhere = {"size_error", "internal_error", "busy", "draining", "unauthorized", "forbidden"}
    assert table - {code for _, code, _ in [*MISTAKES, *EXTENDED_MASTER_MISTAKES]} == elsewhere


def test_a_master_may_make_many_mistakes() -> None:
    """After a thousand refused requests the next good one is accepted, and replies have kept their order."""
    gloom = MemoryGloom()
    master = gloom.master()
    for n in range(1000):
        master.sendString(b'{"action":"submit"}' if n % 2 else b'{"action":"join"}')
    master.send(submit(1))
    codes = [reply.get("error", "ok") for reply in master.take()]
    assert codes == ["invalid_action", "missing_field"] * 500 + ["ok"]


class FaultyBroker(MemoryBroker):
    """A broker with a bug that one job id uncovers."""

    def submit(self, master: Any, id: Any, *more: Any) -> None:
        if id == "bug":
            raise ZeroDivisionError
        super().submit(master, id, *more)


def test_a_bug_ends_one_connection_only(logged_errors: Any) -> None:
    """A bug in the broker is logged with its traceback and told to one master; the others go on."""
    gloom = MemoryGloom()
    gloom.masters.around.broker = FaultyBroker(gloom.settings, lambda when: None)
    beside, master = gloom.master(), gloom.master()
    beside.ask(submit(1))
    (reply,) = master.ask(submit("bug"))
    assert reply["error"] == "internal_error" and "log" in reply["reason"]
    assert master.lost and not beside.lost
    assert [failure.type for failure in logged_errors()] == [ZeroDivisionError]
    assert served(slave_of(gloom)) == [1]
    assert beside.take() == [{"id": 1, "body": 2}]


def test_without_a_type_where_types_are_required() -> None:
    """With --require-type a job without a type, or with null, is refused, and the connection goes on."""
    master = MemoryGloom(Settings(require_type=True)).master()
    for untyped in ({"action": "submit", "id": 1, "body": 1}, submit(1, None)):
        (reply,) = master.ask(untyped)
        assert reply["error"] == "missing_field" and "type is required" in reply["reason"]
    assert master.ask(submit(1)) == [OK]


# Mistakes of slaves

R = '{"action":"respond",'
SLAVE_MISTAKES = [
    ("nonsense", "invalid_json", "malformed"),
    (b'{"action":"respond","body":"\xff"}', "invalid_json", "not UTF-8"),
    ("{}", "missing_field", "action is required: one of hello, join, respond"),
    ('{"action":"join"}', "missing_field", "type is required by join: a string of 1 to 255 characters or null"),
    ('{"action":"respond"}', "missing_field", "body is required by respond: any JSON value"),
    ('{"action":"join","type":5}', "invalid_type", "type must be a string of 1 to 255 characters or null, got 5"),
    ('{"action":"join","type":""}', "invalid_type", 'got ""'),
    ('{"action":"hello","version":"1"}', "invalid_type", "version must be an integer, got a string"),
    (S + '"id":1,"body":1}', "invalid_action", "submit is for the master port; this is the slave port"),
    ('{"action":"explode"}', "unknown_action", "action explode is unknown; this port has hello, join, respond"),
    ('{"action":"ping"}', "invalid_state", "ping needs a hello"),
    ('{"action":"fail","reason":"no"}', "invalid_state", "fail needs a hello"),
    ('{"action":"leave"}', "invalid_state", "leave needs a hello"),
    ('{"action":"hello","version":0}', "unsupported_version", "version 0 is not spoken here"),
]


@pytest.mark.parametrize(("payload", "code", "reason"), SLAVE_MISTAKES, ids=range(len(SLAVE_MISTAKES)))
def test_a_slaves_mistake_leaves_the_job_in_hand(payload: str | bytes, code: str, reason: str) -> None:
    """A slave that makes a mistake keeps its job, or loses it to another where its connection ends."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave, beside = busy_slave_of(gloom, 1), slave_of(gloom, "other")
    (reply,) = slave.ask(payload if isinstance(payload, bytes) else payload.encode())
    assert reply["error"] == code and reason in reply["reason"] and set(reply) == {"error", "reason"}
    assert slave.lost == (code in CLOSING)
    assert not beside.lost and beside.take() == []
    if slave.lost:
        assert beside.ask(join()) == [OK, job(1)]
    assert (beside if slave.lost else slave).ask(respond()) == [OK]
    assert master.take() == [{"id": 1, "body": 2}]


EXTENDED_MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"action": "join"}, "missing_field", "type is required by join, or types: a string, null, or a list of strings"),
    ({"action": "join", "types": None}, "missing_field", "type is required by join, or types"),
    (join() | {"types": ["u"]}, "invalid_type", "types must not come with type: join takes one of the two"),
    (join(None) | {"types": ["u"]}, "invalid_type", "types must not come with type"),
    ({"action": "join", "types": []}, "invalid_type", "types must be a list of 1 to 1000 strings of 1 to 255"),
    ({"action": "join", "types": ["t"] * 1001}, "invalid_type", "types must be a list of 1 to 1000 strings"),
    ({"action": "join", "types": ["t", None]}, "invalid_type", 'got ["t", null]'),
    ({"action": "join", "types": ["t", ""]}, "invalid_type", 'got ["t", ""]'),
    ({"action": "join", "types": "t"}, "invalid_type", 'got "t"'),
    (join() | {"slots": 0}, "invalid_type", "slots must be an integer of 1 to 1000, got 0"),
    (join() | {"slots": 1001}, "invalid_type", "got 1001"),
    (join() | {"slots": None}, "invalid_type", "got null"),
    ({"action": "progress"}, "missing_field", "body is required by progress: any JSON value"),
    ({"action": "progress", "body": 1, "id": 1.5}, "invalid_type", "id must be"),
    ({"action": "cancel", "id": 1}, "invalid_action", "cancel is for the master port; this is the slave port"),
    ({"action": "submit_many", "jobs": []}, "invalid_action", "submit_many is for the master port"),
    (fail() | {"reason": 1}, "invalid_type", "reason must be a string, got 1"),
    ({"action": "fail"}, "missing_field", "reason is required by fail: a string"),
    (fail(kind=""), "invalid_type", "kind must be a string of 1 to 255 characters or null"),
    (fail(traceback=[]), "invalid_type", "traceback must be a string or null, got []"),
    (fail(retry=None), "invalid_type", "retry must be true or false, got null"),
    (fail(retry=1), "invalid_type", "retry must be true or false, got 1"),
    (fail(id=True), "invalid_type", "id must be"),
    (fail(id=2), "invalid_state", "the job 2 is not in hand"),
    (fail(id="1"), "invalid_state", "the job '1' is not in hand"),
    (respond(id=2), "invalid_state", "the job 2 is not in hand"),
    (respond(id=[]), "invalid_type", "id must be"),
    ({"action": "hello", "version": 1}, "invalid_state", "hello was said already"),
]


@pytest.mark.parametrize(("message", "code", "reason"), EXTENDED_MISTAKES, ids=range(len(EXTENDED_MISTAKES)))
def test_an_extended_slaves_mistake_leaves_the_job_in_hand(message: dict[str, Any], code: str, reason: str) -> None:
    """A refused fail or respond spends nothing: the job is still in hand and can be answered."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = busy_slave_of(gloom, 1, name="s")
    (reply,) = slave.ask(message)
    assert reply["error"] == code and reason in reply["reason"]
    assert slave.ask(respond(id=1)) == [OK]
    assert master.take() == [{"id": 1, "body": 2}]


@pytest.mark.parametrize("message", [respond(), respond(id=1), fail(), fail(id=1)], ids=str)
@pytest.mark.parametrize("joined", [True, False])
def test_there_is_nothing_to_answer_without_a_job(message: dict[str, Any], joined: bool) -> None:
    """respond and fail without a job in hand are refused, joined or not."""
    gloom = MemoryGloom()
    slave = extended(gloom.slave())
    if joined:
        slave.ask(join())
    reason = "the job 1 is not in hand" if "id" in message else "no job is in hand"
    assert slave.ask(message) == [{"error": "invalid_state", "reason": reason}]


# Frames


def bytes_of(message: dict[str, Any], length: int = 0) -> bytes:
    """Return *message* as a payload of at least *length* bytes: white space may stand around it."""
    return json.dumps(message, separators=(",", ":")).encode().ljust(length)


def test_a_frame_of_exactly_the_limit_is_accepted() -> None:
    """The limit is the largest payload that is accepted; the job that it makes may be a little larger."""
    gloom = MemoryGloom(Settings(max_frame_bytes=1024))
    slave, master = slave_of(gloom, None), gloom.master()
    submission = {"action": "submit", "id": 1, "body": ""}
    submission["body"] = "x" * (1024 - len(bytes_of(submission)))
    assert master.ask(bytes_of(submission)) == [OK]
    assert [len(frame) for frame in slave.frames] == [1024 + len(',"type":null') - len("submit") + len("job")]


@pytest.mark.parametrize("header", [b"\x00\x00\x04\x01", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_a_longer_frame_is_refused_by_its_header(header: bytes) -> None:
    """A frame over the limit is refused before any of its payload has come."""
    gloom = MemoryGloom(Settings(max_frame_bytes=1024))
    beside, master = gloom.master(), gloom.master()
    master.send_bytes(to_frame(bytes_of(submit(1))) + header)
    length = int.from_bytes(header, "big")
    error = {"error": "size_error", "reason": f"a frame of {length} bytes is over the limit of 1024"}
    assert master.take() == [OK, error]
    assert master.lost
    assert beside.ask(bytes_of(submit(2), 1024)) == [OK]


def test_what_follows_a_closing_mistake_is_thrown_away() -> None:
    """Requests behind the one that ended the connection are not carried out, on either port."""
    gloom = MemoryGloom()
    master, idle = gloom.master(), slave_of(gloom)
    master.send_bytes(to_frame(b"nonsense") + to_frame(bytes_of(submit(1))))
    assert [reply["error"] for reply in master.take()] == ["invalid_json"]
    assert idle.take() == []
    idle.drop()
    other = gloom.master()
    other.ask(submit(2))
    busy_slave_of(gloom, 2).send_bytes(to_frame(b"") + to_frame(bytes_of(respond())))
    assert other.take() == []
    assert served(slave_of(gloom)) == [2]


def test_ten_thousand_frames_in_one_piece() -> None:
    """All requests of one chunk are carried out and answered in order."""
    gloom = MemoryGloom()
    master = gloom.master()
    frames = [to_frame(b'{"action":"submit","id":%d,"type":"t","body":1}' % (n // 2)) for n in range(10_000)]
    master.send_bytes(b"".join(frames))
    expected = [OK if n % 2 == 0 else {"error": "id_exists", "reason": str(n // 2)} for n in range(10_000)]
    assert master.take() == expected
    assert served(slave_of(gloom)) == list(range(5000))


def test_frames_byte_by_byte() -> None:
    """A frame may come in any number of pieces, the header too."""
    gloom = MemoryGloom()
    master = gloom.master()
    for byte in to_frame(bytes_of(submit("é"))) + to_frame(b'{"action":"ping"}'):
        master.send_bytes(bytes([byte]))
    assert [reply.get("error", "ok") for reply in master.take()] == ["ok", "invalid_state"]


def test_half_a_frame_is_no_request() -> None:
    """A master that goes in the middle of a frame has asked nothing."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.send_bytes(to_frame(bytes_of(submit(1)))[:-1])
    master.drop()
    assert served(slave_of(gloom)) == []


# Depth

TOO_DEEP = {
    "error": "invalid_type",
    "reason": "the message is nested more than 901 levels deep, a body in it may have 900",
}
JOB_TOO_DEEP = TOO_DEEP | {"reason": "the job is nested more than 901 levels deep, a body in it may have 900"}


def nested(levels: int) -> bytes:
    """Return a body of *levels*."""
    return b"[" * levels + b"]" * levels


def test_a_body_of_900_levels_passes_and_one_of_901_does_not() -> None:
    """The depth that a body may have is one number; beyond it the request is refused, and the connection goes on."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    for levels in (901, 902, 980, 5000, 200_000):
        assert master.ask(b'{"action":"submit","id":1,"type":"t","body":%b}' % nested(levels)) == [TOO_DEEP]
    assert slave.take() == []
    assert master.ask(b'{"action":"submit","id":1,"type":"t","body":%b}' % nested(900)) == [OK]
    assert slave.frames[-1].endswith(b'"body":' + nested(900) + b"}")
    slave.frames.clear()
    for levels in (901, 980, 200_000):
        assert slave.ask(b'{"action":"respond","body":%b}' % nested(levels)) == [TOO_DEEP]
    assert slave.ask(b'{"action":"respond","body":%b}' % nested(900)) == [OK]
    assert master.frames[-1] == b'{"id":1,"body":%b}' % nested(900)


def test_after_a_refused_answer_the_slave_can_fail_the_job() -> None:
    """An answer that is too deep leaves the job in hand: its slave says that it failed, and is free again."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(submit(1))
    slave = slave_of(gloom, accept=["cancel"])
    assert slave.take() == [job(1)]
    assert slave.ask(b'{"action":"respond","id":1,"body":%b}' % nested(901)) == [TOO_DEEP]
    master.ask(submit(2))
    assert slave.ask(fail("my answer was refused")) == [OK, job(2)]
    assert [outcome["error"] for outcome in master.take()] == ["job_failed"]


@pytest.mark.parametrize("levels", [901, 902, 903, 980, 3000, 40_000])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_deep_job_in_a_submit_many_fails_alone(levels: int, at: int) -> None:
    """One body that is too deep is refused by itself: the other four jobs are accepted, the connection goes on."""
    gloom = MemoryGloom()
    master = extended(gloom.master())
    jobs = [b'{"id":%d,"type":"t","body":%b}' % (n, nested(levels if n == at else 900)) for n in range(5)]
    (reply,) = master.ask(b'{"action":"submit_many","jobs":[' + b",".join(jobs) + b"]}")
    assert reply["jobs"] == [JOB_TOO_DEEP if n == at else OK for n in range(5)]
    assert served(slave_of(gloom)) == [n for n in range(5) if n != at]


def test_a_deep_message_is_told_its_other_mistakes_first() -> None:
    """Depth comes after the verb and the fields; of very many brackets nothing but the depth is told."""
    master = extended(MemoryGloom().master())
    for frame, code in (
        (b'{"action":"explode","body":%b}', "unknown_action"),
        (b'{"action":"submit","id":true,"body":%b}', "invalid_type"),
        (b'{"action":"submit","body":%b}', "missing_field"),
    ):
        (reply,) = master.ask(frame % nested(2000))
        assert reply["error"] == code and reply != TOO_DEEP
        assert master.ask(frame % nested(100_001)) == [TOO_DEEP]
    (reply,) = master.ask(b'{"action":"submit","id":1,"body":%b' % nested(2000))
    assert reply["error"] == "invalid_json" and master.lost
