"""
The log of a verb, as short lines on standard error.
"""

from __future__ import annotations

from time import localtime, strftime
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from gloom.cli.output import say, tell


@implementer(ILogObserver)
class LogLines:
    """A log observer that prints warnings and errors as short lines."""

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) < LogLevel.warn:
            return
        text = formatEvent(event)
        # The name of this process on the wire is of no use to its user.
        text = text.removeprefix(f"{event.get('name')}: ")
        failure = event.get("log_failure")
        say(text if failure is None else f"{text}\n{failure.getTraceback()}")


@implementer(ILogObserver)
class TimedLines:
    """
    A log observer that writes lines with the time to standard error, for verbs that run for long.

    Args:
        name: Begins each line, after the time.
        level: The least level of gloom's own events; events of other packages need a warning.
    """

    def __init__(self, name: str, level: Any) -> None:
        self._name = name
        self._level = level

    def __call__(self, event: LogEvent) -> None:
        own = str(event.get("log_namespace", "")).startswith("gloom.")
        if event.get("log_level", LogLevel.info) < (self._level if own else LogLevel.warn):
            return
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            text = f"{text}\n{failure.getTraceback().rstrip()}"
        tell(f"{strftime('%H:%M:%S', localtime(event.get('log_time')))} {self._name}: {text}")
