"""
Processes that a job's function forks: none of the worker's code runs in them. Imports no Twisted.

Such a process inherits the worker's pipes, its signal handlers and, when the
function returns, its loop. It keeps none of them, and ends by its own code
(docs/decisions/0023-forks-in-jobs.md).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from gloom.worker.lifetime import STOP_SIGNALS, heed_stop_signals


def prepare_for_forks(let_go: Callable[[], None]) -> None:
    """
    Have each process that is forked from this one drop the worker's state at its start.

    This cannot prepare a fork outside Python (a C library that calls ``fork``):
    so the worker's code compares the process id before it reads or writes.

    Args:
        let_go: Called in the new process: closes the worker's pipes.
    """

    blocked = _Blocked()

    def before() -> None:
        # Both processes would write buffered text.
        _flush()
        blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def after_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked.before)

    def after_in_child() -> None:
        # Only the parent calls functions that were registered with atexit before the fork.
        atexit._clear()
        heed_stop_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked.before)
        let_go()

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


class _Blocked(threading.local):
    """The signals that a thread had blocked before its fork: a signal during the fork must not be lost."""

    before: Iterable[int] = ()


def end(error: BaseException | None, frames: TracebackType | None) -> NoReturn:
    """
    End this process, forked in a job, as a process of `multiprocessing` ends.

    It waits for its threads, and calls the functions that it has registered with `atexit`.

    Args:
        error: The exception of the function: `SystemExit` has the exit status, any
            other is printed and the status is 1. None, and the status 0, if the
            function has returned.
        frames: The part of the traceback to print.
    """
    status = 1
    try:
        status = _status(error, frames)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        _flush()
        os._exit(status)


def _status(error: BaseException | None, frames: TracebackType | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or replaced by another object
            stream.flush()
