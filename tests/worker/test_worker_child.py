"""A job in a child process: its answer, or the failure that the master receives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from gloom.errors import BodyError
from gloom.wire.bodies import encode_body
from gloom.wire.messages import Fail
from gloom.worker.awaiting import Awaiter
from gloom.worker.child import CannotLoad, FunctionCall, describe, load, outcome_of
from gloom.worker.pipe import ANSWER, FAILURE, Job, decode_failure, encode_job
from tests.support import worker_functions


@pytest.fixture
def awaiter() -> Iterator[Awaiter]:
    one = Awaiter()
    yield one
    one.close()


Run = Callable[..., Any]


@pytest.fixture
def run(awaiter: Awaiter) -> Run:
    """Have a function do one job; return the answer or the failure."""

    def run(function: Callable[[Any], Any], body: Any, max_answer_bytes: int = 1000) -> Any:
        job = Job("one", "type", max_answer_bytes, encode_body(body))
        kind, content = outcome_of(FunctionCall(function, awaiter), encode_job(job))
        return msgspec.json.decode(content) if kind == ANSWER else decode_failure(content)

    return run


def lines_of(failure: Fail) -> list[str]:
    """The lines of code in a traceback."""
    assert failure.traceback is not None
    return [line.strip() for line in failure.traceback.splitlines() if line.startswith("    ") and "^" not in line]


def test_what_the_function_returns_is_the_answer(run: Run) -> None:
    """A plain function's return value, a plain Python value, is the answer."""
    assert run(worker_functions.double, [1, "a"]) == [1, "a", 1, "a"]


def test_an_answer_may_be_of_any_size_the_broker_takes(run: Run) -> None:
    """The largest answer passes; one byte more is a failure that says both sizes."""
    assert run(worker_functions.characters, 998) == "x" * 998
    failure = run(worker_functions.characters, 999)
    assert (failure.kind, failure.reason) == ("SizeError", "the answer has 1001 bytes, the broker takes 1000")
    assert failure.traceback is None


def test_an_exception_is_kind_reason_and_traceback(run: Run) -> None:
    """An exception reaches the master by name, with its text and the function's own traceback."""
    failure = run(worker_functions.fail, "no such shelf")
    assert (failure.kind, failure.reason, failure.retry) == ("LookupError", "no such shelf", False)
    assert lines_of(failure) == ["_fail_deeper(reason)", "raise LookupError(reason)"]
    assert failure.traceback.endswith("\nLookupError: no such shelf\n")


def test_a_function_without_frames_of_its_own_has_no_traceback(run: Run) -> None:
    """Without a Python frame of the user's, the failure has its reason alone."""
    assert run(math.sqrt, -1) == Fail("math domain error", kind="ValueError")
    assert run(math.sqrt, "a").kind == "TypeError"


def test_try_again_asks_for_another_try(run: Run, tmp_path: Path) -> None:
    """gloom.errors.TryAgain fails the attempt, not the job."""
    mark = str(tmp_path / "mark")
    failure = run(worker_functions.try_again, mark)
    assert (failure.kind, failure.reason, failure.retry) == ("TryAgain", "not yet", True)
    assert run(worker_functions.try_again, mark) == "at last"


def test_sys_exit_fails_the_job_only(run: Run) -> None:
    """A function that calls sys.exit() fails its job; the process goes on."""
    failure = run(worker_functions.leave, None)
    assert (failure.kind, failure.reason) == ("SystemExit", "that is all")
    assert run(worker_functions.echo, 1) == 1


@pytest.mark.parametrize("answer", [object(), math.nan, "\ud800"])
def test_an_answer_that_is_not_json_fails_the_job(run: Run, answer: Any) -> None:
    """JSON has no such objects and no NaN; the failure says so."""
    failure = run(lambda _: answer, None)
    assert failure.kind == "BodyError"
    assert failure.reason.startswith("the answer is not JSON: ")
    assert failure.traceback is None


def test_a_body_that_python_cannot_read_fails_the_job(awaiter: Awaiter) -> None:
    """A number with more digits than Python reads fails that job."""
    job = Job(1, None, 100, Raw(b"9" * 10_000))
    kind, content = outcome_of(FunctionCall(worker_functions.echo, awaiter), encode_job(job))
    assert kind == FAILURE
    failure = decode_failure(content)
    assert failure.kind == "BodyError"
    assert failure.reason.startswith("cannot read the body")
    assert failure.traceback is None


def test_an_exception_without_a_text_says_so(run: Run) -> None:
    """An exception whose text cannot be made fails its job under its own name."""
    failure = run(worker_functions.fail_without_text, None)
    assert failure.kind == "WithoutText"
    assert failure.reason.endswith("whose text cannot be made: RuntimeError")


def test_an_exception_may_be_empty_long_or_no_unicode() -> None:
    """The reason is never empty, never endless, and always something that JSON carries."""
    assert describe(KeyError()).reason == "KeyError()"
    assert len(describe(ValueError("x" * 100_000)).reason) == 8192
    assert describe(ValueError("file \udcff")).reason == "file \\udcff"


def test_a_deep_traceback_keeps_its_end(run: Run) -> None:
    """A traceback too long to send loses its beginning."""

    def dig(depth: int) -> Any:
        return dig(depth - 1) if depth else eval(f"1 / 0 #{'x' * 100_000}")

    failure = run(dig, 3)
    assert len(failure.traceback) <= 64 * 1024
    assert failure.traceback.endswith("\nZeroDivisionError: division by zero\n")


# Coroutines and Deferreds


def test_a_coroutine_is_awaited(run: Run) -> None:
    """An asyncio coroutine function answers like a plain one, and fails like one."""
    assert run(worker_functions.on_asyncio, 1) == 2
    failure = run(worker_functions.fail_on_asyncio, "no such shelf")
    assert lines_of(failure) == ["_fail_deeper(reason)", "raise LookupError(reason)"]


def test_a_cancelled_coroutine_fails_its_job(run: Run) -> None:
    """asyncio.CancelledError is no Exception; it fails the job all the same."""
    assert run(worker_functions.cancelled, None).kind == "CancelledError"
    assert run(worker_functions.on_asyncio, 1) == 2


def test_a_failed_deferred_fails_its_job(run: Run) -> None:
    """A Deferred that fails is a failure with the traceback of where it went wrong."""
    failure = run(worker_functions.deferred_that_fails, "no such shelf")
    assert (failure.kind, failure.reason) == ("LookupError", "no such shelf")
    assert lines_of(failure)[-1] == "raise LookupError(reason)"


# Loading


def test_dots_lead_into_objects() -> None:
    """MODULE:CLASS.METHOD is found."""
    assert load("tests.support.worker_functions:Shop.price") is worker_functions.Shop.price


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no_such.module:f", f"there is no module 'no_such', neither installed nor in {Path.cwd()}"),
        ("json.no_such:f", f"there is no module 'json.no_such', neither installed nor in {Path.cwd()}"),
        ("json:no_such", "module 'json' has no 'no_such'"),
        ("tests.support.worker_functions:Shop.cost", "type 'Shop' has no 'cost'"),
        ("tests.support.worker_functions:NOT_A_FUNCTION", "it is not a function, it is dict: {'a': 1}"),
    ],
)
def test_a_target_that_is_not_there_is_said_in_one_line(target: str, complaint: str) -> None:
    """For a wrong MODULE:FUNCTION the error names the fault in one line, without a traceback."""
    with pytest.raises(CannotLoad) as raised:
        load(target)
    failure = describe(raised.value)
    assert (failure.reason, failure.traceback) == (complaint, None)


@pytest.mark.parametrize(
    ("source", "kind", "code"),
    [
        ("import no_such_thing", "ModuleNotFoundError", "import no_such_thing"),
        ("\n1 / 0", "ZeroDivisionError", "1 / 0"),
        ("import sys\nsys.exit(3)", "SystemExit", "sys.exit(3)"),
    ],
)
def test_a_module_that_fails_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, kind: str, code: str
) -> None:
    """An error in the user's module is shown with the user's own lines, beginning with the module's."""
    name = f"broken_{kind.lower()}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BaseException) as raised:
        load(f"{name}:f")
    failure = describe(raised.value)
    assert failure.kind == kind
    assert lines_of(failure) == [code]
    assert name not in sys.modules


def test_a_body_error_is_not_mistaken_for_the_users() -> None:
    """An error that the user's code raises on purpose keeps its traceback, whatever its kind."""

    def serve(_body: Any) -> None:
        raise BodyError("mine")

    try:
        serve(None)
    except BodyError as error:
        assert lines_of(describe(error))[-1] == 'raise BodyError("mine")'
