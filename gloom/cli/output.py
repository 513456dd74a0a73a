"""
What people read, on standard error, one line a message; and what programs read, on standard output.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO

from gloom.errors import GloomError


class StdoutClosed(GloomError):
    """Nobody reads standard output any more, as after ``| head``."""


def say(text: str) -> None:
    """Print *text* on standard error, as gloom's among the messages of other programs."""
    tell(f"gloom: {text}")


def tell(text: str) -> None:
    """Print *text* on standard error."""
    # Looked up at each call: a progress bar puts its own stream there, and stays below the line.
    if sys.stderr is not None:
        # An OSError: the terminal is gone, and with it whoever would have read this.
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def on_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream is there and is a terminal."""
    return stream is not None and stream.isatty()


def print_out(data: bytes) -> None:
    """
    Write *data* to standard output, all of it.

    Raises:
        StdoutClosed: Nobody reads it.
        GloomError: It cannot be written.
    """
    descriptor(sys.stdout, "standard output")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise StdoutClosed from None
    except OSError as error:
        raise GloomError(f"cannot write to standard output: {error.strerror}") from None


def descriptor(stream: TextIO | None, name: str) -> int:
    """
    Return the file descriptor of a standard stream.

    Raises:
        GloomError: This process was started without it (``<&-``).
    """
    if stream is None:
        raise GloomError(f"{name} is closed")
    return stream.fileno()
