"""docs/protocol.md agrees with the code: its tables and transcripts against the real broker, in memory."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from inspect import getsource
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from gloom import errors, tap
from gloom.broker.memory import MemoryBroker
from gloom.errors import ProtocolError, SettingsError
from gloom.server.access import Access, read_access
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire import encoding
from gloom.wire.framereader import to_frame
from gloom.wire.messages import BASE_REQUESTS, EXTENDED_REQUESTS, MASTER, SLAVE, BrokerMessage
from gloom.wire.refusals import verb_of
from tests.support.specification import CLOSED, PATH, Act, Row, Transcript, names_in, replay, specification
from tests.support.wire import stop

SPEC = specification()


# Transcripts


LIMITS = {f"--{option}" for option, _ in tap.LIMITS}


def settings_of(options: list[str]) -> Settings:
    """Return the daemon's settings for a transcript's *options*."""
    if options == ["--require-type"]:
        return Settings(require_type=True)
    given = dict(zip(options[::2], options[1::2], strict=True))
    given.pop("--access", None)
    return Settings.from_texts({option.removeprefix("--"): value for option, value in given.items()})


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Access:
    """The access file that the document prints."""
    file = tmp_path_factory.mktemp("access") / "access.toml"
    file.write_text(SPEC.programs["toml"])
    return read_access(file)


class MemoryWire:
    """A broker in memory, for `specification.replay`."""

    def __init__(self, settings: Settings, access: Access | None = None) -> None:
        self.gloom = MemoryGloom(settings, access)
        self.peers: dict[str, RawPeer] = {}
        self.told: set[str] = set()

    def act(self, act: Act) -> None:
        if act.kind == "passes":
            self.gloom.advance(act.seconds)
            return
        if act.kind == "stops":
            stop(self.gloom)
            return
        if act.peer not in self.peers:
            self.peers[act.peer] = self.gloom.master() if act.peer.startswith("M") else self.gloom.slave()
        peer = self.peers[act.peer]
        if act.kind == "closes":
            self.told.add(act.peer)
            peer.drop()
        else:
            peer.send_bytes(to_frame(act.data) if act.kind == "sends" else act.data)

    def hear(self, peer: str, expected: int) -> list[str]:
        heard = [frame.decode() for frame in self.peers[peer].frames]
        self.peers[peer].frames.clear()
        if self.peers[peer].lost and peer not in self.told:
            self.told.add(peer)
            heard.append(CLOSED)
        return heard

    def address(self, peer: str) -> str:
        host: Any = self.peers[peer].transport.getHost()
        return f"{host.host}:{host.port}"


@pytest.mark.parametrize("transcript", SPEC.transcripts, ids=lambda transcript: transcript.name)
def test_every_transcript_goes_message_for_message(transcript: Transcript, access: Access) -> None:
    """A conversation in the document goes exactly as it is printed there."""
    options = transcript.options
    replay(transcript, MemoryWire(settings_of(options), access if "--access" in options else None))


def test_a_transcript_that_is_wrong_is_noticed() -> None:
    """A message that the document leaves out or makes up fails the replay."""
    first = SPEC.transcripts[0]
    for turn in first.turns:
        for peer in list(turn.heard):
            heard = turn.heard.pop(peer)
            with pytest.raises(AssertionError, match=f"{peer} after"):
                replay(first, MemoryWire(Settings()))
            turn.heard[peer] = [*heard, "{}"]
            with pytest.raises(AssertionError, match=f"{peer} after"):
                replay(first, MemoryWire(Settings()))
            turn.heard[peer] = heard


def test_the_frame_of_the_first_page_is_right() -> None:
    """The example of a frame has the length that its payload has."""
    payload = b'{"action":"join","type":"up"}'
    assert f"\n{to_frame(payload)[:4].hex(' ')}  {payload.decode()}\n" in PATH.read_text()


# Errors


def code_of(row: Row) -> str:
    return names_in(row["code"])[0]


def test_the_error_table_is_the_errors_of_the_code() -> None:
    """Each code on the wire is in the table, with whether it closes the connection."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProtocolError)]
    known = {kind.code: "closed" if kind.closes else "open" for kind in kinds if kind is not ProtocolError}
    assert {code_of(row): row["connection"] for row in SPEC.tables["errors"]} == known


@pytest.mark.parametrize("row", SPEC.tables["errors"], ids=code_of)
def test_the_example_of_each_error_is_what_the_broker_says(row: Row, logged_errors: Any) -> None:
    """The example of each error, and its effect on the connection, match the messages to a peer."""
    heard = [message for transcript in SPEC.transcripts for message in transcript.heard] + heard_of_a_bug()
    assert len(logged_errors(ZeroDivisionError)) == 1
    reply = {"error": code_of(row), "reason": row["reason, for example"].strip("`")}
    at = heard.index(json.dumps(reply, separators=(",", ":")))
    assert (heard[at + 1 : at + 2] == [CLOSED]) == (row["connection"] == "closed")


class FaultyBroker(MemoryBroker):
    """A broker with a bug."""

    def submit(self, *arguments: Any) -> None:
        raise ZeroDivisionError


def heard_of_a_bug() -> list[str]:
    wire = MemoryWire(Settings())
    wire.gloom.masters.around.broker = FaultyBroker(Settings(), lambda when: None)
    wire.act(Act("M", "sends", b'{"action":"submit","id":1,"body":1}'))
    return wire.hear("M", 2)


# Fields

TYPE_WORDS: dict[type, str] = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.RawType: "any JSON value",
    inspect.ListType: "list of {}s",
    inspect.NoneType: "null",
}


def words_of(kind: inspect.Type) -> str:
    """Return a type as the field tables write it."""
    order = list(TYPE_WORDS)
    kinds = sorted(kinds_of(kind), key=lambda one: order.index(type(one)))
    return " or ".join(
        TYPE_WORDS[type(one)].format(words_of(one.item_type) if isinstance(one, inspect.ListType) else "")
        for one in kinds
    )


def kinds_of(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """Return the alternatives of a type, one by one."""
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


NUMBERS = {10**9: "10^9", -(2**63): "-2^63", 2**63 - 1: "2^63 - 1"}


def range_of(kind: inspect.Type) -> str:
    """Return a type's range as the field tables write it."""
    for one in kinds_of(kind):
        if isinstance(one, inspect.StrType) and one.max_length is not None:
            return f"{one.min_length} to {one.max_length} characters"
        if isinstance(one, inspect.IntType | inspect.FloatType) and one.le is not None:
            low = f"over {number(one.gt)}," if one.ge is None else number(one.ge)
            return f"{low} to {number(one.le)}"
        if isinstance(one, inspect.ListType) and one.max_length is not None:
            if one.min_length is None:
                return f"up to {one.max_length}"
            return f"{one.min_length} to {one.max_length} {words_of(one.item_type)}s of {range_of(one.item_type)}"
    return ""


def number(value: float | None) -> str:
    assert value is not None
    return NUMBERS.get(int(value), str(int(value)))


def described(request: type[msgspec.Struct]) -> list[tuple[str, ...]]:
    """Return a request's fields as the field tables write them."""
    info = inspect.type_info(request)
    assert isinstance(info, inspect.StructType)
    return [
        (
            f"`{one.encode_name}`",
            words_of(one.type),
            range_of(one.type),
            "yes" if one.required else "no",
            default_of(one),
        )
        for one in info.fields
    ]


def default_of(field: inspect.Field) -> str:
    """Return a default as the field tables write it."""
    if field.default is not msgspec.NODEFAULT:
        return f"`{json.dumps(field.default)}`"
    return "" if field.default_factory is msgspec.NODEFAULT else f"`{json.dumps(field.default_factory())}`"


def requests() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for level, by_role in (("base", BASE_REQUESTS), ("extended", EXTENDED_REQUESTS)):
        for role in (MASTER, SLAVE):
            for request in by_role[role]:
                verb = verb_of(request)
                yield f"{verb}, {'base' if verb == 'hello' else level}", request


@pytest.mark.parametrize(("caption", "request_type"), list(requests()))
def test_the_fields_of_each_request_are_those_of_its_table(caption: str, request_type: type[msgspec.Struct]) -> None:
    """The table of a request gives its fields' names, order, types, ranges, defaults and whether they are required."""
    columns = ("field", "type", "range", "required", "default")
    table = [tuple(row[column] for column in columns) for row in SPEC.tables.get(caption, [])]
    assert described(request_type) == table


SENT = {
    "answer": encoding.encode_answer("a", b"1"),
    "job": encoding.encode_job("a", None, b"1"),
    "failure, base": encoding.encode_failure("a", "job_failed", "r"),
    "answer, extended": encoding.encode_receipted_answer("a", b"1", 0.0, 0.0, 1, "s"),
    "progress, to the master": encoding.encode_progress("a", b"1"),
    "cancel, to the slave": encoding.encode_revocation("a"),
    "reply to cancel": encoding.CANCELLED,
    "reply to submit_many": encoding.encode_batch([None]),
    "failure, extended": encoding.encode_extended_failure("a", "job_failed", "r", "k", "t", []),
    "welcome": encoding.encode_welcome("gloom/0", 1, 0.0, ()),
}


@pytest.mark.parametrize("caption", SENT)
def test_what_the_broker_sends_has_the_keys_of_its_table(caption: str) -> None:
    """A message of the broker has the keys of its table and no other, and a client knows them all."""
    keys = {names_in(row["field"])[0] for row in SPEC.tables[caption]}
    assert set(json.loads(bytes(SENT[caption]))) == keys
    assert keys <= {one.encode_name for one in msgspec.structs.fields(BrokerMessage)}


def test_an_attempt_has_the_keys_of_its_table() -> None:
    """Each attempt in a failure has the keys of its table, as a transcript shows."""
    keys = {names_in(row["field"])[0] for row in SPEC.tables["attempt"]}
    heard = [json.loads(message) for one in SPEC.transcripts for message in one.heard if "attempts" in message]
    attempts = [attempt for message in heard for attempt in message.get("attempts", [])]
    assert attempts and all(set(attempt) == keys for attempt in attempts)


def test_a_receipt_has_the_keys_of_its_table() -> None:
    """A receipt in an answer has the keys of its table."""
    keys = {names_in(row["field"])[0] for row in SPEC.tables["receipt"]}
    assert set(json.loads(bytes(SENT["answer, extended"]))["receipt"]) == keys


def test_every_way_to_end_is_shown() -> None:
    """The outcomes of the table of endings are those of section 4.11, and each of them is in a transcript."""
    endings = {name for row in SPEC.tables["endings"] for name in names_in(row["the outcome that each master gets"])}
    errors = next(row for row in SPEC.tables["failure, extended"] if names_in(row["field"]) == ["error"])
    heard = [message for one in SPEC.transcripts for message in one.heard if message.startswith('{"id"')]
    shown = {outcome["error"] for outcome in map(json.loads, heard) if "error" in outcome}
    assert endings == set(names_in(errors["meaning"])) == shown


def test_every_way_in_which_an_attempt_ends_is_named() -> None:
    """The table of `ended` lists exactly the values that the broker writes."""
    ended = next(row for row in SPEC.tables["attempt"] if names_in(row["field"]) == ["ended"])
    source = getsource(MemoryBroker)
    written = set(re.findall(r'note_end\(\w+, [\w.]+, "(\w+)"', source))
    assert set(names_in(ended["meaning"])) - {"fail"} == written


# Verbs and states

VERB_ROWS = [row for port in ("slave", "master") for row in SPEC.tables[f"validity, {port}"] if names_in(row["verb"])]
MESSAGES: dict[str, dict[str, Any]] = {
    "hello": {"action": "hello", "version": 1},
    "ping": {"action": "ping"},
    "submit": {"action": "submit", "id": "taken", "type": "other", "body": 1},
    "submit_many": {"action": "submit_many", "jobs": []},
    "cancel": {"action": "cancel", "id": "taken"},
    "attach": {"action": "submit", "id": "taken", "type": "t", "body": 1, "attach": True},
    "join": {"action": "join", "type": "t"},
    "respond": {"action": "respond", "body": 1},
    "fail": {"action": "fail", "reason": "r"},
    "progress": {"action": "progress", "body": 1},
    "leave": {"action": "leave"},
    "any other": {"action": "explode"},
}


def cases(caption: str) -> Iterator[Any]:
    """Return level, verb, state and cell of each cell of a validity table, verbs one by one."""
    for row in SPEC.tables[caption]:
        for verb in ["attach"] if "attach" in row["verb"] else names_in(row["verb"]) or [row["verb"]]:
            for state, cell in row.items():
                if state not in ("level", "verb") and cell != "-":
                    yield pytest.param(row["level"], verb, state, cell, id=f"{row['level']}-{verb}-{state}")


def reply_to(peer: RawPeer, message: dict[str, Any]) -> str:
    """Return the reply in a cell of a validity table, without the rest of the cell."""
    replies = peer.ask(message)
    if not replies:
        return "nothing"
    if "server" in replies[0]:
        return "welcome"
    return "ok" if replies[0].get("ok") else f"`{replies[0]['error']}`"


def at_level(peer: RawPeer, level: str) -> RawPeer:
    if level == "extended":
        peer.ask(MESSAGES["hello"])
    return peer


def slave_in(gloom: MemoryGloom, level: str, state: str) -> RawPeer:
    """Return a slave's connection in *state*."""
    slave = at_level(gloom.slave(), level)
    if state != "new":
        slave.ask(MESSAGES["join"])
    if state in ("working", "leaving"):
        gloom.master().ask({"action": "submit", "id": "in hand", "type": "t", "body": 1})
    if state in ("leaving", "left"):
        slave.ask(MESSAGES["leave"])
    slave.take()
    return slave


def state_of(gloom: MemoryGloom, slave: RawPeer) -> str:
    """Find out, as only its behaviour tells, which state a slave's connection is in; "left" is the same as "new"."""
    had_job = slave.ask(MESSAGES["respond"]) == [{"ok": True}]
    gloom.master().ask({"action": "submit", "id": "probe", "type": "t", "body": 1})
    has_joined = bool(slave.take())
    return {(False, False): "new", (False, True): "idle", (True, True): "working", (True, False): "leaving"}[
        had_job, has_joined
    ]


@pytest.mark.parametrize(("level", "verb", "state", "cell"), list(cases("validity, slave")))
def test_each_verb_in_each_state_of_a_slave(level: str, verb: str, state: str, cell: str) -> None:
    """Each verb of a slave has the reply of the table, and leads to the table's state."""
    gloom = MemoryGloom()
    slave = slave_in(gloom, level, state)
    expected_reply, _, becomes = cell.partition(" → ")
    assert reply_to(slave, MESSAGES[verb]) == expected_reply
    expected_state = becomes or state
    assert state_of(gloom, slave) == ("new" if expected_state == "left" else expected_state)


@pytest.mark.parametrize(("level", "verb", "state", "cell"), list(cases("validity, master")))
def test_each_verb_of_a_master(level: str, verb: str, state: str, cell: str) -> None:
    """Each verb of a master has the reply of the table, and leaves the job in flight unchanged."""
    gloom = MemoryGloom()
    asking = at_level(gloom.master(), level)
    if state != "id free":
        owner = asking if state == "this master's job" else gloom.master()
        owner.ask({"action": "submit", "id": "taken", "type": "t", "body": "first"})
    assert reply_to(asking, MESSAGES[verb]) == cell
    served = slave_in(gloom, "base", "new").ask(MESSAGES["join"])[1:]
    if verb == "cancel" and cell == "ok":
        assert served == []
    elif state != "id free":
        assert served == [{"action": "job", "id": "taken", "type": "t", "body": "first"}]


def test_the_validity_tables_leave_nothing_out() -> None:
    """Every verb of the protocol is in both tables at both levels."""
    verbs = {verb_of(request) for by_role in EXTENDED_REQUESTS.values() for request in by_role}
    for caption in ("validity, slave", "validity, master"):
        for level in ("base", "extended"):
            rows = [row for row in SPEC.tables[caption] if row["level"] == level]
            named = {name for row in rows for name in names_in(row["verb"])}
            assert named == verbs | ({"attach"} if caption.endswith("master") else set())


# Names and numbers


def test_the_limits_are_those_of_the_settings() -> None:
    """The defaults and ranges of the limits are as the table says."""
    for row in SPEC.tables["limits"]:
        name = setting_of(row)
        default = getattr(Settings(), name)
        assert row["default"] == ("off" if default is False else f"{default:.12g}")
        if row["range"]:
            low, high = (float(number) for number in row["range"].removeprefix("over ").split(" to "))
            step = 1 if isinstance(default, int) else 0.001
            lowest = low + step if row["range"].startswith("over") else low
            for value in (lowest, high):
                Settings(**{name: type(default)(value)})
            for value in (lowest - step, high + step):
                with pytest.raises(SettingsError, match=name.replace("_", "-")):
                    Settings(**{name: type(default)(value)})


def setting_of(row: Row) -> str:
    """Return the name of the setting that a row of a table of limits is about."""
    return names_in(row.get("option") or row["name"])[0].removeprefix("--").replace("-", "_")


def test_every_option_that_limits_is_in_the_table() -> None:
    """The table of limits has all of the daemon's options that a peer can feel, and no other."""
    options = {names_in(row["option"])[0] for row in SPEC.tables["limits"]}
    assert options == {*LIMITS, "--require-type"}


def test_the_fixed_limits_are_those_of_the_settings() -> None:
    """Each limit without an option has the table's value, and the two tables cover all settings."""
    for row in SPEC.tables["fixed limits"]:
        assert row["value"] == f"{getattr(Settings(), setting_of(row)):g}".replace("1.04858e+06", "1048576")
    named = {setting_of(row) for caption in ("limits", "fixed limits") for row in SPEC.tables[caption]}
    assert named == {one.name for one in dataclasses.fields(Settings)} - {"verbose"}


def test_the_ports_and_the_features_are_those_of_the_code() -> None:
    """The ports on the first page and the table of features are the code's."""
    text = PATH.read_text()
    assert f"port {MASTER_PORT} and submits" in text and f"port {SLAVE_PORT} and takes" in text
    features = {row["port"]: tuple(names_in(row["features"])) for row in SPEC.tables["features"]}
    assert features == {protocol.role: protocol.features for protocol in (MasterProtocol, SlaveProtocol)}


def test_every_feature_is_a_verb_a_field_or_something_to_accept() -> None:
    """Each feature that a broker announces is a name in a table of section 4."""
    accepted = next(row for row in SPEC.tables["hello, base"] if names_in(row["field"]) == ["accept"])
    described = {*names_in(accepted["meaning"]), *(names_in(row["verb"])[0] for row in VERB_ROWS)}
    for caption in ("submit, extended", "join, extended"):
        described |= {names_in(row["field"])[0] for row in SPEC.tables[caption]}
    assert {*MasterProtocol.features, *SlaveProtocol.features} <= described
