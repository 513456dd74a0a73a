"""gloom's exceptions: their texts for people, and their guarantees for programs."""

from __future__ import annotations

import pickle

import pytest

from gloom import errors
from gloom.errors import (
    GloomError,
    JobFailed,
    ProtocolError,
    RequestRefused,
    ServerError,
    SizeError,
    TimedOut,
    TransportError,
)

WIRE_ERRORS = sorted(ProtocolError.__subclasses__(), key=lambda error: error.code)


def test_every_exception_is_a_gloom_error() -> None:
    """One except clause catches every exception that gloom raises on purpose."""
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(kinds) > 15
    assert all(issubclass(kind, GloomError) for kind in kinds)


def test_every_code_is_one_error_s() -> None:
    """A code on the wire means one thing."""
    codes = [error.code for error in WIRE_ERRORS]
    assert len(codes) == len(set(codes)) == 16


@pytest.mark.parametrize("kind", WIRE_ERRORS, ids=lambda kind: kind.code)
def test_an_error_says_why(kind: type[ProtocolError]) -> None:
    """The text of the exception is the reason that goes on the wire."""
    error = kind("the body is upside down")
    assert error.reason == str(error) == "the body is upside down"


def test_only_a_broken_stream_a_stranger_or_a_bug_ends_the_connection() -> None:
    """After an error in one request the peer may go on; only these errors close the connection."""
    closing = {"size_error", "invalid_json", "unauthorized", "internal_error"}
    assert {error.code for error in WIRE_ERRORS if error.closes} == closing


def test_a_refusal_shows_code_and_reason() -> None:
    """The text shows the broker's code and its reason."""
    error = RequestRefused("id_exists", "j1", "j1")
    assert str(error) == "id_exists -> j1"
    assert (error.error, error.reason, error.id) == ("id_exists", "j1", "j1")


def test_a_failed_job_shows_what_the_function_raised() -> None:
    """A failure reads like the exception on the slave, or like its reason where there was no exception."""
    assert str(JobFailed("job_failed", "bad input", "j", "ValueError")) == "ValueError: bad input"
    assert str(JobFailed("job_failed", "the slave s disappeared")) == "the slave s disappeared"


def test_a_failed_job_owns_its_attempts() -> None:
    """The list of attempts is the exception's own."""
    attempts = [{"slave": "s", "seconds": 1.0, "ended": "lost"}]
    error = JobFailed("job_failed", "no", attempts=attempts)
    attempts.clear()
    assert error.attempts == [{"slave": "s", "seconds": 1.0, "ended": "lost"}]


def test_a_time_out_is_python_s_too() -> None:
    """Code that catches TimeoutError catches gloom's timeouts."""
    assert issubclass(TimedOut, TimeoutError)
    assert issubclass(TimedOut, TransportError)


@pytest.mark.parametrize(
    "error",
    [
        SizeError("too long"),
        ServerError("busy", "later", 3),
        JobFailed("job_failed", "no", "j", "ValueError", "Traceback", [{"slave": "s"}]),
    ],
)
def test_errors_cross_a_process_boundary(error: Exception) -> None:
    """An error that returns from a pool of processes has all its fields."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
