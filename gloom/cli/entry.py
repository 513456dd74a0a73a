"""
Where a process of the command ``gloom`` begins.

The import of click and Twisted takes some tenths of a second. Ctrl-C ends the
process in that time too, so this module imports neither before it has said so.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


def main() -> NoReturn:
    """
    Run the command line of this process, and exit.

    Raises:
        SystemExit: Always; the statuses are in ``gloom --help``.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, _interrupted)
    from gloom.cli import main as command_line

    command_line.main()


def _interrupted(_number: int, _frame: object) -> NoReturn:
    """End at once: until a verb's coroutine runs (`gloom.cli.runner`), nothing has begun that must be ended."""
    # Not an exception, which an import or a callback of the interpreter would print or swallow.
    os._exit(INTERRUPTED)
