"""
Messages for people, one a line on standard error; data for programs, on standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from gloom.errors import GloomError

FAILED = 1
STDOUT_CLOSED = 128 + signal.SIGPIPE


class StdoutClosed(GloomError):
    """The reader of standard output is gone, as after ``| head``."""


def say(text: str) -> None:
    """Print *text* on standard error, after ``gloom:``."""
    tell(f"gloom: {text}")


def tell(text: str) -> None:
    """Print *text* on standard error."""
    # Looked up at each call: a progress bar replaces the stream, so that the bar stays below the line.
    if sys.stderr is not None:
        # An OSError: the terminal is gone, and nobody would read this.
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def on_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream exists and is a terminal."""
    return stream is not None and stream.isatty()


@contextmanager
def writing_stdout() -> Iterator[None]:
    """
    Turn errors of writing to standard output into gloom's own.

    Raises:
        StdoutClosed: Its reader is gone.
        GloomError: It cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise StdoutClosed from None
    except OSError as error:
        if error.filename is not None:
            raise  # of another file
        raise GloomError(f"cannot write to standard output: {error.strerror}") from None


def print_out(data: bytes) -> None:
    """
    Write all of *data* to standard output.

    Raises:
        StdoutClosed: Its reader is gone.
        GloomError: It cannot be written.
    """
    descriptor(sys.stdout, "standard output")
    with writing_stdout():
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def leave_stdout(status: int) -> int:
    """
    Flush standard output here, where a failure can be handled: at its exit the interpreter would print it.

    Args:
        status: The exit status so far.

    Returns:
        The exit status: *status*, or another than 0 if the flush has failed.
    """
    try:
        with writing_stdout():
            if sys.stdout is not None:
                sys.stdout.flush()
    except GloomError as error:
        # The interpreter flushes once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or _status_of(error)
    return status


def _status_of(error: GloomError) -> int:
    if isinstance(error, StdoutClosed):
        return STDOUT_CLOSED
    say(str(error))
    return FAILED


def descriptor(stream: TextIO | None, name: str) -> int:
    """
    Return the file descriptor of a standard stream.

    Raises:
        GloomError: This process was started without it (``<&-``).
    """
    if stream is None:
        raise GloomError(f"{name} is closed")
    return stream.fileno()
