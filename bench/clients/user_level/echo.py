"""
The job that every system runs, and its body.
"""

BODY = "x" * 98
"""100 bytes, as JSON."""

WAIT_SECONDS = 30
"""Seconds that a client waits for one answer before it gives up."""


class WrongAnswer(Exception):
    """The answer differs from the body."""


def echo(body: str) -> str:
    """Return *body*."""
    return body


def check(answer: object) -> None:
    """
    Check that *answer* equals the job's body.

    Raises:
        WrongAnswer: It does not.
    """
    if answer != BODY:
        raise WrongAnswer(f"expected {BODY!r}, got {answer!r}")
