"""
The job that every system does, and what it is given.
"""

BODY = "x" * 98
"""100 bytes, as JSON."""

WAIT_SECONDS = 30
"""How long a client waits for one answer before it gives up."""


class WrongAnswer(Exception):
    """A system answered something else than it was given."""


def echo(body: str) -> str:
    """Return *body*."""
    return body


def check(answer: object) -> None:
    """
    Make sure that *answer* is what the job was given.

    Raises:
        WrongAnswer: It is not.
    """
    if answer != BODY:
        raise WrongAnswer(f"expected {BODY!r}, got {answer!r}")
