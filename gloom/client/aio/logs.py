"""
The log lines of asyncio clients: Python's `logging`, with the text of peers in escapes.
"""

from __future__ import annotations

import logging
from typing import Any

from gloom.wire.escapes import printable


class PeerLogger:
    """
    The logger of one client: each line begins with the client's name, and no peer can forge a line.

    Args:
        name: How the broker names the client.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger("gloom.client.aio")
        self._name = name

    def info(self, text: str, *args: Any) -> None:
        """Log the ordinary course of things."""
        self._log(logging.INFO, text, args)

    def warning(self, text: str, *args: Any) -> None:
        """Log a condition that the client itself may get over."""
        self._log(logging.WARNING, text, args)

    def error(self, text: str, *args: Any) -> None:
        """Log a condition that somebody must look at."""
        self._log(logging.ERROR, text, args)

    def exception(self, text: str, *args: Any, error: BaseException | None = None) -> None:
        """Log *error*, or the exception that is being handled, with its traceback."""
        self._log(logging.ERROR, text, args, exc_info=True if error is None else error)

    def _log(self, level: int, text: str, args: tuple[Any, ...], exc_info: Any = None) -> None:
        if self._logger.isEnabledFor(level):
            shown = [printable(str(arg)) if isinstance(arg, str | BaseException) else arg for arg in args]
            self._logger.log(level, f"%s: {text}", self._name, *shown, exc_info=exc_info)
