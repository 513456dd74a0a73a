"""
What people read, on standard error: one line a message, never a traceback of a user's mistake.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from gloom.errors import GloomError


class StdoutClosed(GloomError):
    """Nobody reads standard output any more, as after ``| head``."""


def say(text: str) -> None:
    """Print *text* on standard error, as gloom's."""
    # An OSError: the terminal is gone, and with it whoever would have read this.
    with suppress(OSError):
        # Looked up at each call: a progress bar puts its own stream there, and stays below the line.
        print(f"gloom: {text}", file=sys.stderr, flush=True)


@implementer(ILogObserver)
class LogLines:
    """A log observer that says warnings, and what is worse, as short lines."""

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) < LogLevel.warn:
            return
        text = formatEvent(event)
        # This process's own name on the wire tells its user nothing.
        text = text.removeprefix(f"{event.get('name')}: ")
        failure = event.get("log_failure")
        say(text if failure is None else f"{text}\n{failure.getTraceback()}")
