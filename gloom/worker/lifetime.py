"""
The lifetime of a worker's processes: they end with their parent, and not before. Imports no Twisted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

#: Signals that end a worker; terminals and service managers send them to the children too.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def die_with_parent(parent: int) -> None:
    """
    Have the kernel kill this process when its parent ends, for any reason and at any time.

    Args:
        parent: The parent's process id; if it has ended already, this process ends now.
    """
    _signal_at_the_end_of(parent, signal.SIGKILL)


def take_the_group_along(parent: int) -> None:
    """
    Kill this process and its group, with the program of a job, when its parent ends.

    Only for a process that waits for programs: a Python signal handler does it,
    and a function that does not return to Python would delay the handler. The
    kernel could kill each program only if programs were started in a slower way.

    Args:
        parent: As for `die_with_parent`.
    """
    signal.signal(signal.SIGUSR1, lambda _number, _frame: os.killpg(0, signal.SIGKILL))
    _signal_at_the_end_of(parent, signal.SIGUSR1)


def _signal_at_the_end_of(parent: int, number: signal.Signals) -> None:
    # Linux only; on other systems a busy child ends after its job.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def detach() -> None:
    """
    Leave the terminal's session and ignore `STOP_SIGNALS`: the parent ends this process.

    The parent blocks these signals while it starts a child, so none arrives earlier.
    """
    os.setsid()
    disregard_stop_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def disregard_stop_signals() -> None:
    """Have `STOP_SIGNALS` do nothing."""
    for number in STOP_SIGNALS:
        # Programs that a job starts would inherit SIG_IGN; they do not inherit a handler.
        signal.signal(number, _nothing)


def heed_stop_signals() -> None:
    """Undo `disregard_stop_signals`, unless other code has replaced the handlers."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _nothing(number: int, frame: object) -> None:
    pass
