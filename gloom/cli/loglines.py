"""
The log of a verb, for the person who runs it.
"""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from gloom.cli.output import say


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
