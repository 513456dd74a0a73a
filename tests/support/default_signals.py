"""Default signal dispositions for the test process, whatever program started it."""

from __future__ import annotations

import signal
from typing import Any

# Python itself ignores these two; subprocess restores them in children.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
# In a child both are default again. SIGHUP: after nohup, pytest itself goes on surviving the terminal.
_RESTORED: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: lambda _number, _frame: None}


def restore_default_signals() -> None:
    """
    Give this process, and so all that it starts, the default signals.

    A shell's background job, nohup and some CI runners start programs that ignore SIGINT or SIGHUP, and what a
    program ignores, its children ignore: no Ctrl-C of a test would be heard.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _RESTORED.get(number, signal.SIG_DFL))
