"""How deep JSON is nested, and values that are read whatever the caller's stack: docs/protocol.md, section 1.3."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import Decoder

from gloom.errors import BodyError, InvalidType
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import MASTER, SLAVE, ExtendedSubmit, Vocabulary, decode_broker_message, decode_job
from gloom.wire.nesting import cut, is_deeper, with_room

MIB = 1 << 20
decode_raw = Decoder(Raw).decode
TEXTS = st.text('[]{}",\\é\n', max_size=5)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def cut_value(value: Any, levels: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if levels == 0:
        return 0
    if isinstance(value, dict):
        return {key: cut_value(one, levels - 1) for key, one in value.items()}
    return [cut_value(one, levels - 1) for one in value]


@settings(deadline=None)
@given(VALUES, st.booleans(), st.integers(0, 8))
@example(["[", ["\\"], {'"[': ["]"]}], True, 2)
def test_the_depth_is_that_of_the_value(value: Any, ascii: bool, levels: int) -> None:
    """Lists and objects count, brackets and quotes in strings do not, whatever their escapes."""
    data = json.dumps(value, ensure_ascii=ascii).encode()
    for form in (data, Raw(data), memoryview(data)):
        assert is_deeper(form, levels) == (depth_of(value) > levels)  # type: ignore[arg-type]


@settings(deadline=None)
@given(VALUES, st.integers(0, 5))
def test_a_cut_value_is_as_deep_as_is_allowed(value: Any, levels: int) -> None:
    """Each list and object beyond the depth becomes 0, and the rest stays."""
    assert json.loads(cut(json.dumps(value).encode(), levels)) == cut_value(value, levels)


def counted(data: bytes) -> int:
    """Return the depth of JSON as a plain reading of its characters has it."""
    level = deepest = 0
    inside = escaped = False
    for character in data.decode():
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
        else:
            inside = character == '"'
    return deepest


STRINGS = st.lists(st.sampled_from(["[", "]", "{", "}", "a", ",", "\\\\", '\\"', "\\n", "\\u0041", "é"]), max_size=6)
ITEMS = st.recursive(
    st.sampled_from(["1", "[]", '{"a":1}']) | STRINGS.map(lambda pieces: f'"{"".join(pieces)}"'),
    lambda items: (
        st.lists(items, max_size=4).map(lambda some: f"[{', '.join(some)}]")
        | st.tuples(items, st.integers(0, 30)).map(lambda pair: "[" * pair[1] + pair[0] + "]" * pair[1])
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(ITEMS, st.integers(1, 60_000)), min_size=1, max_size=4), st.integers(0, 20), st.integers(0, 40)
)
def test_long_data_is_as_deep_as_a_plain_count_has_it(runs: list[tuple[str, int]], spaces: int, base: int) -> None:
    """Strings, escapes and levels that reach from block to block, and many levels in one block, are counted exactly."""
    whole = ",".join(",".join([item] * max(1, size // len(item))) for item, size in runs)
    data = (" " * spaces + "[" * (base + 1) + whole + "]" * (base + 1)).encode()
    depth = counted(data)
    assert is_deeper(data, depth - 1)
    assert not is_deeper(data, depth)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), min_size=50, max_size=400))
def test_a_mountain_range_is_as_high_as_its_highest_peak(slopes: list[tuple[int, int]]) -> None:
    """Rises and falls of any length, as near to the limit as they come."""
    level = highest = 0
    pieces = []
    for rise, fall in slopes:
        up = min(rise, 900 - level)
        level += up
        highest = max(highest, level)
        down = min(fall, max(0, level - 1))
        level -= down
        pieces.append(b"[" * up + b"1" + b"]" * down)
    data = b"[" + b",".join(pieces) + b"]" * (level + 1)
    assert not is_deeper(data, highest + 1)
    assert is_deeper(data, highest)


def test_the_depth_of_long_data_is_counted_across_its_blocks() -> None:
    """Strings, escapes and levels that reach from one block of the count into the next are counted once."""
    chance = random.Random(1)
    for _ in range(30):
        filler = ",".join(chance.choice(['"[[[["', '"\\\\"', '"\\""', "[]", "1"]) for _ in range(40_000))
        shift = " " * chance.randrange(8)
        data = f'[{shift}{filler},[[{filler},[["]]"]]]]]'.encode()
        assert is_deeper(data, 4) and not is_deeper(data, 5)


def test_a_long_run_of_backslashes() -> None:
    """A quote behind whole blocks of backslashes is recognised as escaped or not."""
    for count in range(2 * 65_536 - 6, 2 * 65_536 + 6, 2):
        assert not is_deeper(b'["' + b"\\" * count + b'[[["]', 1) if count % 4 == 2 else True
        assert is_deeper(b'["' + b"\\" * count + b'",[[[]]]]', 3)
        assert not is_deeper(b'["' + b"\\" * count + b'\\"[[[["]', 1)


def towers(base: int, height: int) -> bytes:
    tower = b"[" * height + b"]" * height + b","
    return b"[" * base + tower * (16 * MIB // len(tower)) + b"0" + b"]" * base


@pytest.mark.parametrize(
    ("data", "depth"),
    [
        (towers(1, 1), 2),
        (towers(1, 50), 51),
        (towers(1, 899), 900),
        (towers(890, 10), 900),
        (towers(899, 1), 900),
        (b"[" + b'"[",[],' * (2 * MIB) + b"0]", 2),
        (b'["' + b'\\"[' * (5 * MIB) + b'"]', 1),
    ],
    ids=["flat", "teeth", "towers", "base", "deep base", "strings", "escapes"],
)
def test_brackets_of_16_mib_are_counted_fast(data: bytes, depth: int) -> None:
    """Scanning any arrangement of brackets costs at most a few times its parsing (0.2 s at most, here 1 s)."""
    begun = process_time()
    if depth < 900:
        # The limit that counts is 900: a smaller one is the same work for an easier question.
        assert not is_deeper(data, 900)
    else:
        assert not is_deeper(data, 900) and is_deeper(data, 899)
    assert process_time() - begun < 1


@pytest.mark.alone
def test_a_large_ordinary_body_costs_little() -> None:
    """A list of 100,000 objects is counted in less time than it is read."""
    data = json.dumps([{"id": n, "name": f"name {n}", "tags": ["a"], "x": {"y": 1.5}} for n in range(100_000)]).encode()
    begun = process_time()
    assert not is_deeper(data, 900)
    counted = process_time() - begun
    json.loads(data)
    assert counted < process_time() - begun - counted


def least_seconds(call: Callable[[], Any]) -> float:
    """Return the processor time of the quickest of some calls: other processes cost the others."""
    times = []
    for _ in range(7):
        begun = process_time()
        call()
        times.append(process_time() - begun)
    return min(times)


@pytest.mark.alone
def test_a_large_ordinary_submit_is_accepted_in_few_readings() -> None:
    """The depth and the lengths of lists are judged in about the time of one more reading, not of three or four."""
    body = json.dumps([{"id": n, "name": f"name {n}", "tags": ["a"], "x": {"y": 1.5}} for n in range(100_000)]).encode()
    frame = b'{"action":"submit","id":1,"body":' + body + b"}"
    reading = least_seconds(lambda: decode_raw(frame))
    assert least_seconds(lambda: Vocabulary(MASTER, extended=True).decode(frame)) < 3.2 * reading


# The caller's stack


def frames_down(frames: int, call: Callable[[], Any]) -> Any:
    """Return the result of *call*, made *frames* Python frames down the stack."""
    return call() if frames <= 0 else frames_down(frames - 1, call)


BODY = b"[" * 900 + b"]" * 900
OBJECTS = b'{"a":' * 900 + b"1" + b"}" * 900
CALLS: dict[str, Callable[[bytes], Any]] = {
    "decode_body": decode_body,
    "decode_body of a Raw": lambda body: decode_body(Raw(body)),
    "decode_body leniently": lambda body: decode_body(body.replace(b"[]", b"[1e400]").replace(b"1}", b"1e400}")),
    "encode_body": lambda body: encode_body(decode_body(body)),
    "encode_body of null": lambda body: encode_body(
        decode_body(body.replace(b"[]", b"[null]").replace(b"1}", b"null}"))
    ),
    "decode_broker_message": lambda body: decode_broker_message(b'{"id":1,"body":' + body + b"}"),
    "submit": lambda body: Vocabulary(MASTER, extended=False).decode(
        b'{"action":"submit","id":1,"body":' + body + b"}"
    ),
    "respond": lambda body: Vocabulary(SLAVE, extended=True).decode(b'{"action":"respond","body":' + body + b"}"),
    "submit_many": lambda body: Vocabulary(MASTER, extended=True).decode(
        b'{"action":"submit_many","jobs":[{"id":1,"body":' + body + b"}]}"
    ),
    "decode_job": lambda body: decode_job(Raw(b'{"id":1,"body":' + body + b"}")),
}


@pytest.mark.parametrize("frames", [0, 100, 500, 900])
@pytest.mark.parametrize("body", [BODY, OBJECTS], ids=["lists", "objects"])
@pytest.mark.parametrize("call", CALLS)
def test_a_value_is_read_however_deep_its_reader_is_called(call: str, body: bytes, frames: int) -> None:
    """A body of 900 levels is read and written from any stack on which Python can still call anything."""
    frames_down(frames, lambda: CALLS[call](body))


@pytest.mark.parametrize("call", [call for call in CALLS if call not in ("decode_broker_message", "submit_many")])
def test_a_value_is_refused_however_shallow_its_reader_is_called(call: str) -> None:
    """A body of 901 levels is refused on every stack and every Python."""
    with pytest.raises((BodyError, InvalidType), match=r"nested more than 90[01] levels deep"):
        CALLS[call](b"[" + BODY + b"]")


def list_of(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("frames", [0, 500])
def test_encode_body_has_the_broker_s_depth(frames: int) -> None:
    """encode_body accepts the broker's depth, 900 levels, from any stack, and refuses more before sending."""
    body = frames_down(frames, lambda: encode_body(list_of(900)))
    assert bytes(body) == b"[" * 900 + b"1" + b"]" * 900
    for levels in (901, 980, 5000):
        with pytest.raises(BodyError, match="nested more than 900 levels deep"):
            frames_down(frames, lambda levels=levels: encode_body(list_of(levels)))  # type: ignore[misc]
    with pytest.raises(BodyError, match="nested more than 900 levels deep"):
        encode_body(Raw(b"[" + BODY + b"]"))


@pytest.mark.parametrize("frames", [0, 500, 900])
@pytest.mark.parametrize("change", [{"id": "true"}, {"id": ""}, {"type": "5"}], ids=str)
def test_a_deep_frame_that_is_wrong_is_told_why(frames: int, change: dict[str, str]) -> None:
    """The words for a mistake beside a deep body are found on any stack."""
    fields = {"action": '"submit"', "body": BODY.decode(), "id": "1", "type": '"t"'} | change
    frame = ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items() if text) + "}").encode()
    (name,) = change
    with pytest.raises(Exception, match=f"^{name} (must be|is required)"):
        frames_down(frames, lambda: Vocabulary(MASTER, extended=True).decode(frame))


def test_room_is_made_only_where_there_is_none() -> None:
    """A call that fits on the stack is made directly; otherwise a thread makes it, and raises the same exception."""
    stacks: list[int] = []

    def fails_twice() -> None:
        stacks.append(1)
        raise RecursionError if len(stacks) == 1 else ValueError("twice")

    assert with_room(lambda one: one + 1, 1) == 2
    with pytest.raises(ValueError, match="twice"):
        with_room(fails_twice)


def test_terms_of_a_deep_job_are_read() -> None:
    """A job at the limit of the depth is a job like another."""
    job = decode_job(Raw(b'{"id":1,"retries":2,"body":' + BODY + b"}"))
    assert isinstance(job, ExtendedSubmit) and job.retries == 2
