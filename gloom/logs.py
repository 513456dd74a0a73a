"""
Log lines: text from peers is escaped, and lines for journald have its priorities.

Modules that log text from peers use `PeerLogger`. `journal` is a log observer:
``twistd --logger=gloom.logs.journal``. Each of its lines begins with a priority
in the form of sd-daemon(3) and has no time, since the journal adds one.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from twisted.logger import FileLogObserver, LogEvent, Logger, LogLevel, eventAsText

from gloom.wire.escapes import printable

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


class PeerLogger(Logger):
    """A logger that escapes the texts of its events, so that no peer can forge a line of the log."""

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        super().emit(level, format, **{key: _shown(value) for key, value in kwargs.items()})


def _shown(value: object) -> object:
    return printable(str(value)) if isinstance(value, str | Exception) else value


def journal(file: TextIO | None = None) -> FileLogObserver:
    """Return an observer that writes to *file*, by default standard output."""
    return FileLogObserver(sys.stdout if file is None else file, _with_priority)


def _with_priority(event: LogEvent) -> str | None:
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    prefix = f"<{_PRIORITIES.get(event.get('log_level', LogLevel.info), 6)}>"
    first, *more = text.splitlines() or [""]
    # Indented, so that no line of a traceback looks like another event.
    lines = [printable(first), *(f"\t{printable(line.expandtabs())}" for line in more)]
    return "".join(f"{prefix}{line}\n" for line in lines) if text else None
