"""
What a worker's processes do so that they end with their parent, and not before. Imports no Twisted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Looked up here: what a fork calls before it executes a program should not have to load anything.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

#: What ends a worker when it comes from a terminal or a service manager, which send it to the children too.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def die_with_parent(parent: int) -> None:
    """
    Have the kernel kill this process when its parent ends, however that ends.

    Only Linux can do this; elsewhere a busy child ends after its job.

    Args:
        parent: The parent's process id; if it has ended already, this process ends now.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
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


def _nothing(number: int, frame: object) -> None:
    pass
