"""
A log observer for journald: ``twistd --logger=gloom.logs.journal``.

Each line begins with its priority in the form of sd-daemon(3), and carries no
time of its own, since the journal adds one.
"""

from __future__ import annotations

import sys
from typing import TextIO

from twisted.logger import FileLogObserver, LogEvent, LogLevel, eventAsText

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


def journal(file: TextIO | None = None) -> FileLogObserver:
    """Return an observer that writes to *file*, by default standard output."""
    return FileLogObserver(sys.stdout if file is None else file, _with_priority)


def _with_priority(event: LogEvent) -> str | None:
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    prefix = f"<{_PRIORITIES.get(event.get('log_level', LogLevel.info), 6)}>"
    return "".join(f"{prefix}{line}\n" for line in text.splitlines()) or None
