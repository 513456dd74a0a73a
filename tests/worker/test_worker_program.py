"""Jobs answered by a program."""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from gloom.errors import BodyError, SizeError
from gloom.wire.bodies import encode_body
from gloom.worker.pipe import Job
from gloom.worker.program import ExitStatus, Program

MIB = 1 << 20


def job(body: Any, max_answer_bytes: int = 100, id: str | int = "job 1", type: str | None = "count") -> Job:
    return Job(id, type, max_answer_bytes, body if isinstance(body, Raw) else encode_body(body))


def run(script: str, one: Job, *, as_json: bool = False) -> bytes:
    """Return the answer's JSON of a shell script."""
    return bytes(Program(["/bin/sh", "-c", script], as_json=as_json)(one))


def text(script: str, body: Any, max_answer_bytes: int = 100) -> Any:
    return msgspec.json.decode(run(script, job(body, max_answer_bytes)))


# Text


@pytest.mark.parametrize(
    ("body", "stdin"),
    [
        ("plain", "plain"),
        ("two\nlines é\n", "two\nlines é\n"),
        ("", ""),
        (5, "5"),
        (None, "null"),
        ({"a": ["b", 1.0]}, '{"a":["b",1.0]}'),
    ],
)
def test_a_string_is_given_as_its_text_anything_else_as_json(body: Any, stdin: str) -> None:
    """Without --json a program reads the string itself, or JSON."""
    assert text("cat; printf .", body) == stdin + "."


@pytest.mark.parametrize(
    ("printed", "answer"), [("5\\n", "5"), ("5", "5"), ("a\\n\\n", "a\n"), ("", ""), ('{"a":1}\\n', '{"a":1}')]
)
def test_the_output_is_a_string_without_its_last_newline(printed: str, answer: str) -> None:
    """Without --json the answer is always a string, even if it could be read as JSON."""
    assert text(f"printf '{printed}'", None) == answer


def test_output_that_is_not_utf8_fails_the_job() -> None:
    """Text is UTF-8; nothing is replaced silently."""
    with pytest.raises(BodyError, match="output is not UTF-8: invalid start byte at byte 1"):
        text("printf 'a\\377'", None)


def test_a_body_that_is_no_text_fails_the_job() -> None:
    """A JSON string with half a surrogate pair has no UTF-8."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        run("cat", job(Raw(b'"\\ud800"')))


# JSON


def test_json_goes_through_as_it_is_written() -> None:
    """With --json numbers and the order of keys are neither read nor written anew, only space around them goes."""
    body = Raw(b'{"b": 12345678901234567890123, "a": 1.0}')
    assert run("cat; echo", job(body), as_json=True) == bytes(body)


@pytest.mark.parametrize("printed", ["", "plain", "1 2", "[1,]", '"\\377"'])
def test_output_that_is_not_one_json_value_fails_the_job(printed: str) -> None:
    """With --json anything but one JSON value is a failure that shows the output."""
    with pytest.raises(BodyError, match="output is not one JSON value: "):
        run(f"printf '{printed}'", job(None), as_json=True)


# How it ends


def test_an_exit_status_is_a_failure_with_the_last_lines() -> None:
    """The reason has the status, and at most the last ten lines of standard error."""
    with pytest.raises(ExitStatus) as raised:
        text("seq 20 >&2; exit 3", None)
    assert str(raised.value) == "exit status 3: " + "\n".join(str(n) for n in range(11, 21))


def test_standard_error_alone_is_no_failure() -> None:
    """A program with output on standard error and status 0 succeeds."""
    assert text("echo beware >&2; echo 5", None) == "5"


def test_an_exit_status_without_words() -> None:
    """A program that fails without output is reported by its status."""
    with pytest.raises(ExitStatus, match=r"^exit status 1$"):
        text("exit 1", None)


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGKILL, "killed by SIGKILL"), (40, "killed by signal 40")],
)
def test_a_signal_is_named(number: int, name: str) -> None:
    """A program that a signal kills is reported by the signal's name."""
    with pytest.raises(ExitStatus, match=f"^{name}: bye$"):
        text(f"echo bye >&2; kill -{int(number)} $$", None)


def test_a_program_need_not_read_its_input() -> None:
    """A program that ignores a large body answers all the same."""
    assert text("echo 5", "x" * MIB) == "5"


def test_input_and_output_may_be_large() -> None:
    """A program that reads and prints more than pipes hold does not get stuck."""
    body = "x" * (4 * MIB)
    assert text("cat", body, 5 * MIB) == body


def test_a_program_that_prints_too_much_is_killed() -> None:
    """Output over the broker's limit fails the job; a program without an end is ended."""
    with pytest.raises(SizeError, match="printed more than the broker takes, 1000 bytes"):
        text("yes", None, 1000)


def test_the_environment_says_which_job_it_is() -> None:
    """GLOOM_JOB_ID and GLOOM_JOB_TYPE are set; an untyped job's type is empty."""
    script = 'printf "%s|%s" "$GLOOM_JOB_ID" "$GLOOM_JOB_TYPE"'
    assert run(script, job(None, id=7)) == b'"7|count"'
    assert run(script, job(None, type=None)) == b'"job 1|"'


def test_a_program_that_is_gone_fails_its_job() -> None:
    """If the program was removed meanwhile, its jobs fail with the system's reason."""
    with pytest.raises(FileNotFoundError, match="no_such_program"):
        Program(["/no_such_program"], as_json=False)(job(None))


# Processes that a program leaves behind


def test_a_process_that_a_program_leaves_does_not_hold_its_job() -> None:
    """The job ends with the program, even if another process keeps its output open."""
    left = int(text("sleep 1000 & echo $!", None))
    os.kill(left, signal.SIGKILL)


def test_a_process_that_goes_on_printing_does_not_hold_its_job() -> None:
    """The answer is the output up to the program's end; later output is not awaited."""
    answer = text("yes & exit 0", None, 1 << 30)
    assert set(answer) <= {"y", "\n"}


def test_a_program_may_close_its_output_and_work_on() -> None:
    """A program that closes its output is awaited, and its exit status counts."""
    assert text("echo 5; exec >&- 2>&-; sleep 0.01", None) == "5"
    with pytest.raises(ExitStatus, match=r"^exit status 3$"):
        text("exec >&- 2>&-; sleep 0.01; exit 3", None)


def test_without_a_descriptor_for_its_end_a_program_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems other than Linux, without a descriptor for its end, a program is polled."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert text("cat", "banana") == "banana"
    os.kill(int(text("sleep 1000 & echo $!", None)), signal.SIGKILL)
