"""The tracebacks in a worker's log: at most one a minute for each error."""

from __future__ import annotations

from twisted.internet.task import Clock

from gloom.wire.messages import Fail
from gloom.worker.tracebacks import RecentTracebacks


def failed(line: int = 3, reason: str = "no such shelf", kind: str = "LookupError", *, retry: bool = False) -> Fail:
    """Return the failure of a function that raised in a line of its file."""
    text = (
        f'Traceback (most recent call last):\n  File "shelf.py", line {line}, in find\n    look()\n{kind}: {reason}\n'
    )
    return Fail(reason, kind=kind, traceback=text, retry=retry)


def test_the_same_error_is_logged_once_a_minute() -> None:
    """A function that fails for every job logs one traceback a minute, and not one for each job."""
    clock = Clock()
    recent = RecentTracebacks(clock.seconds)
    assert [recent.admit(failed()) for _ in range(3)] == [True, False, False]
    clock.advance(59)
    assert not recent.admit(failed())
    clock.advance(1)
    assert [recent.admit(failed()) for _ in range(2)] == [True, False]


def test_an_error_is_its_kind_and_its_lines_of_code() -> None:
    """Errors are the same if their kind and lines of code are; the text may name the job."""
    recent = RecentTracebacks(Clock().seconds)
    assert recent.admit(failed())
    assert not recent.admit(failed(reason="no such book"))
    assert recent.admit(failed(line=4))
    assert recent.admit(failed(kind="KeyError"))


def test_what_has_no_error_is_not_logged() -> None:
    """A program's exit status has no traceback, and TryAgain is no error: neither is logged."""
    recent = RecentTracebacks(Clock().seconds)
    assert not recent.admit(Fail("exit status 3", kind="ExitStatus"))
    assert not recent.admit(failed(retry=True))


def test_many_different_errors_take_bounded_memory() -> None:
    """Beyond a hundred different errors, the oldest is forgotten."""
    recent = RecentTracebacks(Clock().seconds)
    assert all(recent.admit(failed(line)) for line in range(101))
    assert not recent.admit(failed(100))
    assert not recent.admit(failed(1))
    assert recent.admit(failed(0))
