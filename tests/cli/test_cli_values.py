"""Conversion of the user's text to a body, and of an answer to printed text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gloom.cli.values import error_fields, read_body, to_indented_json, to_json, to_plain
from gloom.errors import BodyError, JobFailed, RequestRefused
from gloom.wire.bodies import encode_body


@pytest.mark.parametrize(
    "text", ["5", " 5 ", "0.10", "1e999", "null", '{"a": [null, "\\u00e4"]}', '"text"', "9" * 5000]
)
def test_what_is_json_is_sent_byte_for_byte(text: str) -> None:
    """Numbers keep their form, and objects their order."""
    assert bytes(encode_body(read_body(text.encode()))) == text.strip().encode()


@pytest.mark.parametrize("text", ["hello", "05", "NaN", "-Infinity", "{a: 1}", "1 2", "", "[1,]", '"open', "käse"])
def test_what_is_not_json_is_a_string(text: str) -> None:
    """Text counts as JSON only if every JSON reader accepts it; otherwise it is a string."""
    assert read_body(text.encode()) == text


def test_a_string_may_be_asked_for() -> None:
    """With --text, a body that looks like JSON is sent as a string."""
    assert read_body(b' {"a": 1}\n', as_text=True) == ' {"a": 1}\n'


@pytest.mark.parametrize("as_text", [False, True])
def test_only_utf_8_is_taken(as_text: bool) -> None:
    """The error for another encoding names the position."""
    with pytest.raises(BodyError, match="not UTF-8: invalid start byte at byte 3"):
        read_body(b'"a \xff"', as_text=as_text)


def test_json_without_an_end_to_its_nesting_is_not_taken_for_text() -> None:
    """JSON with endless nesting is refused as JSON, and not sent as a string."""
    with pytest.raises(BodyError, match="nested too deeply"):
        read_body(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(("answer", "printed"), [("a\nb", "a\nb"), (5, "5"), (None, "null"), ({"a": "ä"}, '{"a":"ä"}')])
def test_a_plain_answer_is_a_string_as_it_is_or_json(answer: Any, printed: str) -> None:
    """A string answer is printed without quotes, any other value as JSON."""
    assert to_plain(answer).decode() == printed


def test_half_a_character_is_printed_as_json_has_it() -> None:
    """Half a surrogate pair, which UTF-8 cannot encode, is printed as an escape."""
    assert json.loads(to_json("\ud800")) == "\ud800"
    assert to_json("\ud800").isascii()


@pytest.mark.parametrize(("before", "after"), [("[", "]"), ('{"a":', "}"), ('[0,{"b":null,"c":', '},"d"]')])
def test_an_answer_is_printed_however_deep_it_is(before: str, after: str) -> None:
    """A deep answer is printed, at any number of levels that the reader accepts, without a traceback."""
    answer: Any = "end"
    for _ in range(2000):
        answer = {"[": [answer], '{"a":': {"a": answer}}.get(before, [0, {"b": None, "c": answer}, "d"])
    expected = f'{before * 2000}"end"{after * 2000}'.encode()
    assert to_json(answer) == expected
    assert to_indented_json(answer) == expected


@pytest.mark.parametrize(
    "text", ["[]", "{}", "[[],{}]", '{"a":[1,2.5,true],"b":{"c":"\\u00e4"},"":null}', '["\\ud800",[3]]', "[1,[2],3]"]
)
def test_an_answer_is_printed_in_pieces_as_at_once(text: str) -> None:
    """Half a character leads to the slower way of printing, with the same JSON."""
    half = json.loads(f'["\\ud800",{text}]')
    assert to_json(half) == f'["\\ud800",{text}]'.encode()


def test_an_answer_for_a_person_is_indented() -> None:
    """On a terminal, the parts of an answer are on lines of their own."""
    assert to_indented_json({"a": ["ä"]}).decode() == '{\n  "a": [\n    "ä"\n  ]\n}'


def test_a_number_beyond_a_double_is_not_printed_as_something_else() -> None:
    """1e999, which becomes an infinity in Python and is not in JSON, is an error."""
    with pytest.raises(BodyError, match="beyond the range of a double"):
        to_json([float("inf")])


def test_the_fields_of_an_error_are_what_the_wire_calls_them() -> None:
    """A program finds error, reason and, after an exception, kind under their names on the wire."""
    assert error_fields(JobFailed("job_failed", "no", 1, "ValueError")) == {
        "error": "job_failed",
        "reason": "no",
        "kind": "ValueError",
    }
    assert error_fields(JobFailed("job_failed", "lost")) == {"error": "job_failed", "reason": "lost"}
    assert error_fields(RequestRefused("size_error", "large")) == {"error": "size_error", "reason": "large"}
    assert error_fields(BodyError("odd")) == {"error": "body_error", "reason": "odd"}
