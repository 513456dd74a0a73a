"""
What a worker's processes do so that they end with their parent, and not before. Imports no Twisted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

#: What ends a worker when it comes from a terminal or a service manager, which send it to the children too.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def die_with_parent(parent: int) -> None:
    """
    Have the kernel kill this process when its parent ends, however that ends and whatever this one does.

    Args:
        parent: The parent's process id; if it has ended already, this process ends now.
    """
    _signal_at_the_end_of(parent, signal.SIGKILL)


def take_the_group_along(parent: int) -> None:
    """
    Kill this process and its group when its parent ends: the program that runs for a job too.

    For a process that only waits for its programs: a signal handler does it,
    which a function that does not return to Python would hold up. To have the
    kernel kill each program takes a slower way to start it.

    Args:
        parent: As for `die_with_parent`.
    """
    signal.signal(signal.SIGUSR1, lambda _number, _frame: os.killpg(0, signal.SIGKILL))
    _signal_at_the_end_of(parent, signal.SIGUSR1)


def _signal_at_the_end_of(parent: int, number: signal.Signals) -> None:
    # Only Linux can do this; elsewhere a busy child ends after its job.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def detach() -> None:
    """
    Leave the terminal's session, and let the parent decide when this process stops.

    The parent blocks `STOP_SIGNALS` while it starts a child, so none comes earlier.
    """
    os.setsid()
    disregard_stop_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def disregard_stop_signals() -> None:
    """Do nothing on `STOP_SIGNALS`."""
    for number in STOP_SIGNALS:
        # SIG_IGN would be inherited by the programs that a job starts; a handler is not.
        signal.signal(number, _nothing)


def heed_stop_signals() -> None:
    """Undo `disregard_stop_signals`, where the handlers are still those."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _nothing(number: int, frame: object) -> None:
    pass
