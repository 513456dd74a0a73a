"""Refusals cost little, and hold nothing: docs/protocol.md, section 2."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from time import process_time

import pytest
from msgspec import Raw

from gloom.errors import InvalidType, ProtocolError
from gloom.settings import Settings
from gloom.testing import MemoryGloom
from gloom.wire.framereader import to_frame
from gloom.wire.messages import MASTER, SLAVE, Vocabulary, decode_job
from tests.support.wire import HELLO, OK, extended, submit

# A refusal by parsing costs about as much as an acceptance in all: some ten times the parsing of a submit.
MOST_TIMES = 30
GOOD = b'{"action":"submit","id":"job-1","type":"up","priority":0,"body":"hello"}'
MASTER_PORT, SLAVE_PORT = Vocabulary(MASTER, extended=True), Vocabulary(SLAVE, extended=True)
REFUSED: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "no verb": (MASTER_PORT.decode, b"{}"),
    "unknown verb": (MASTER_PORT.decode, b'{"action":"x"}'),
    "other port": (MASTER_PORT.decode, b'{"action":"join","type":"t"}'),
    "no hello": (Vocabulary(MASTER, extended=False).decode, b'{"action":"ping"}'),
    "not JSON": (MASTER_PORT.decode, b"nonsense"),
    "no object": (MASTER_PORT.decode, b"[1]"),
    "not UTF-8": (MASTER_PORT.decode, b'{"action":"\xff"}'),
    "wrong type": (MASTER_PORT.decode, GOOD.replace(b'"up"', b"5")),
    "wrong last field": (MASTER_PORT.decode, GOOD.replace(b"}", b',"require_slave":5}')),
    "missing field": (MASTER_PORT.decode, b'{"action":"submit","id":1}'),
    "long id": (MASTER_PORT.decode, GOOD.replace(b"job-1", b"x" * 256)),
    "wrong hello": (MASTER_PORT.decode, b'{"action":"hello","version":1,"name":"\\u0000"}'),
    "junk respond": (SLAVE_PORT.decode, b'{"action":"respond"}'),
    "junk join": (SLAVE_PORT.decode, b'{"action":"join","types":[]}'),
    "empty job": (lambda job: decode_job(Raw(job)), b"{}"),
    "job that is none": (lambda job: decode_job(Raw(job)), b"4"),
    "wrong job": (lambda job: decode_job(Raw(job)), b'{"id":1,"type":5,"body":1}'),
    "job of another verb": (lambda job: decode_job(Raw(job)), b'{"action":"cancel","id":1,"body":1}'),
}


def seconds_of(call: Callable[[], object]) -> float:
    """Return the CPU time of one *call*: the best of several rounds."""

    def round_seconds() -> float:
        begun = process_time()
        for _ in range(300):
            call()
        return (process_time() - begun) / 300

    return min(round_seconds() for _ in range(7))


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_refusal_costs_a_few_times_an_acceptance(mistake: str) -> None:
    """Whatever is wrong with a frame, finding the words for it takes microseconds (it was 0.25 ms)."""
    decode, frame = REFUSED[mistake]

    def refused() -> None:
        with pytest.raises(ProtocolError):
            decode(frame)

    def refused_bare() -> None:
        try:
            decode(frame)
        except ProtocolError:
            return

    refused()
    assert seconds_of(refused_bare) < MOST_TIMES * seconds_of(lambda: MASTER_PORT.decode(GOOD))


@pytest.mark.alone
def test_a_batch_of_refusals_costs_a_few_times_a_batch_of_acceptances() -> None:
    """A submit_many of nothing but empty objects holds the broker up no longer than some that are good."""

    def seconds_for(jobs: str) -> float:
        master = extended(MemoryGloom().master())
        frame = to_frame(f'{{"action":"submit_many","jobs":[{jobs}]}}'.encode())
        begun = process_time()
        master.send_bytes(frame)
        return process_time() - begun

    good = min(seconds_for(",".join(f'{{"id":{n},"body":1,"type":"t"}}' for n in range(5000))) for _ in range(3))
    bad = min(seconds_for(",".join(["{}"] * 5000)) for _ in range(3))
    assert bad < 15 * good


def keys(count: int) -> bytes:
    return b",".join(b'"k%d":1' % number for number in range(count))


BOMBS = {
    "keys of an unknown verb": b'{"action":"x",' + keys(500_000) + b"}",
    "keys of a wrong submit": b'{"action":"submit","id":true,"body":1,' + keys(500_000) + b"}",
    "jobs": b'{"action":"submit_many","jobs":[' + b"0," * 2_000_000 + b"0]}",
    "accept": b'{"action":"hello","version":1,"accept":[' + b'"a",' * 1_500_000 + b'"a"]}',
    "types": b'{"action":"join","types":[' + b'"a",' * 1_500_000 + b'"a"]}',
    "escaped": b'{"\\u0061ction":"join","t\\u0079pes":[' + b'"a",' * 1_500_000 + b'"a"]}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_json_bomb_is_refused_without_making_its_values(bomb: str) -> None:
    """Millions of keys or values in a frame that is refused become no objects: no stall, and no memory."""
    port = SLAVE_PORT if b"join" in BOMBS[bomb] else MASTER_PORT
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            port.decode(BOMBS[bomb])
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300
    assert held < 16 << 20  # two million values would take over 100 MiB


def test_a_long_list_beside_the_fields_is_ignored_like_any_key() -> None:
    """Only lists of the verb's own fields are counted: an unknown key may hold any value."""
    ones = "1," * 150_000 + "1"
    frame = f'{{"action":"submit","id":1,"type":"t","body":[{ones}],"jobs":[{ones}]}}'
    assert MemoryGloom().master().ask(frame.encode()) == [OK]


def test_lists_may_have_all_that_they_may_have() -> None:
    """10,000 jobs of many fields are accepted, one more is refused, whatever is in them."""
    master = extended(MemoryGloom(Settings(max_jobs=20_000, master_share=1)).master())
    jobs = [{"id": n, "type": "t", "body": [0] * 20} for n in range(10_000)]
    (reply,) = master.ask({"action": "submit_many", "jobs": jobs})
    assert reply["jobs"] == [OK] * 10_000
    (reply,) = master.ask({"action": "submit_many", "jobs": [*jobs, {}]})
    assert reply["error"] == "invalid_type" and reply["reason"].startswith("jobs must be a list of at most 10000 ")


def test_only_known_kinds_are_kept_of_accept() -> None:
    """A hello may list kinds of a later version; unknown kinds are not stored."""
    gloom = MemoryGloom()
    master = extended(gloom.master(), accept=["soon" * 10_000, "quiet", "receipt", "quiet"] + ["later"] * 96)
    (peer,) = gloom.masters.peers
    assert peer.accepts == {"quiet", "receipt"}
    assert master.ask(submit(1)) == [OK]


# Values at the ends of their ranges


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[2J", "\x00", "a\x7f", "a\x85b", "a\u2028", "\u202eabc", "a\u2066", "a\n"], ids=ascii
)
def test_a_name_has_no_control_characters(name: str) -> None:
    """A name that could forge a line, or turn one around, is refused; it is not quoted."""
    (reply,) = MemoryGloom().master().ask(HELLO | {"name": name})
    assert reply["error"] == "invalid_type"
    assert reply["reason"].startswith("name must be a string of 1 to 255 characters, none of them a control character")
    assert reply["reason"].endswith("got a string")


@pytest.mark.parametrize("name", ["host:1", "é 😀 \u200d", "名", "x" * 255], ids=ascii)
def test_a_name_may_be_in_any_language(name: str) -> None:
    """A name may be in any language."""
    extended(MemoryGloom().slave(), name=name)


@pytest.mark.parametrize(("id", "good"), [("9" * 4300, True), ("9" * 4301, False)])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_has_4300_characters(id: str, good: bool, sign: str) -> None:
    """The sign counts."""
    frame = f'{{"action":"submit","id":{sign}{id[len(sign) :]},"body":1}}'.encode()
    if good:
        MASTER_PORT.decode(frame)
    else:
        with pytest.raises(InvalidType, match=r"^id must be"):
            MASTER_PORT.decode(frame)


@pytest.mark.parametrize("heartbeat", ["-0.0", "0", "-0", "0e5"])
def test_no_heartbeat_is_zero(heartbeat: str) -> None:
    """A zero of whatever sign is no heartbeat, and is answered as 0.0."""
    master = MemoryGloom().master()
    master.send(f'{{"action":"hello","version":1,"heartbeat":{heartbeat}}}'.encode())
    assert b'"heartbeat":0.0,' in master.frames[0]


def test_the_order_of_mistakes_with_require_type() -> None:
    """Fields come first, then the type that this broker requires, then the state and the limits."""
    master = MemoryGloom(Settings(require_type=True, max_jobs=1, master_share=1)).master()
    assert master.ask(submit(1)) == [OK]
    for message, error, word in (
        ({"action": "submit"}, "missing_field", "id"),
        ({"action": "submit", "id": 1}, "missing_field", "body"),
        ({"action": "submit", "id": 1, "body": 1, "priority": "x"}, "invalid_type", "priority"),
        ({"action": "submit", "id": 1, "body": 1}, "missing_field", "type is required by this broker"),
        (submit(1), "id_exists", "1"),
        (submit(2), "busy", "the broker has"),
    ):
        (reply,) = master.ask(json.dumps(message).encode())
        assert reply["error"] == error and reply["reason"].startswith(word)


@pytest.mark.parametrize("action", ['"cancel"', '"hello"', '"sumbit"', "5", "null", "{}"])
def test_a_job_of_another_action_is_told_so(action: str) -> None:
    """A job in a submit_many that names another verb is refused by itself, and the reason names the field."""
    master = extended(MemoryGloom().master())
    (reply,) = master.ask(f'{{"action":"submit_many","jobs":[{{"action":{action},"id":1,"body":1}}]}}'.encode())
    reason = f'action of a job must be "submit", or left out, got {action}'
    assert reply["jobs"] == [{"error": "invalid_type", "reason": reason}]
