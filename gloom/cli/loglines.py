"""
The log of a verb, as short lines on standard error.
"""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from gloom.cli.output import say


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
