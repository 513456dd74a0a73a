"""
Processes that a job's function forks: nothing of the worker runs in them. Imports no Twisted.

Such a process inherits the worker's pipes, its signal handlers and, when the
function returns, its loop. It keeps none of them, and ends as its own code says
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
    Have each process that is forked from this one, from now on, begin without the worker.

    A fork that Python does not make (a library's own call of ``fork``) begins
    unprepared: the worker's own code asks for the process id before it reads or
    writes.

    Args:
        let_go: Called in the new process: closes the worker's pipes.
    """

    blocked = _Blocked()

    def before() -> None:
        # A text that waits in a buffer would be written by both.
        _flush()
        blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def after_in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked.before)

    def after_in_child() -> None:
        # Functions that were registered with atexit before the fork are called by the parent only.
        atexit._clear()
        heed_stop_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked.before)
        let_go()

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


class _Blocked(threading.local):
    """The signals that a thread had blocked before it began to fork: one that comes meanwhile must not be lost."""

    before: Iterable[int] = ()


def end(error: BaseException | None, frames: TracebackType | None) -> NoReturn:
    """
    End this process, forked in a job, as a process of `multiprocessing` ends.

    It waits for its threads, and calls the functions that it has registered with `atexit`.

    Args:
        error: The exception that left the function: `SystemExit` says the exit
            status, any other is shown and makes it 1. None for a function that
            has returned: 0.
        frames: The part of the traceback that is shown.
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
        with suppress(Exception):  # closed, or replaced by anything
            stream.flush()
