"""
The daemon's allocator and garbage collector: freed memory goes back to the system.

glibc keeps some freed memory: 8 MiB of the 523 of a million queued jobs.
Python's free lists keep more: 49 MiB of the 64 of 99,000 joined types. The
garbage collector has little else to do: it does not track jobs
(`gloom.broker.records.Job`), and ended objects form no reference cycles
(docs/decisions/0014-memory-comes-back.md).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

#: Interval between two looks at the used bytes.
INTERVAL_SECONDS = 2.0
#: If the jobs in flight never took this much, there is nothing to give back.
MUCH_BYTES = 16 << 20
# Memory is given back once three quarters of it are free.
_LEFT_PART = 4
# Larger blocks get memory of their own from the system, which takes it back when they are freed.
_RECYCLED_BYTES = 16 << 20
# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class MemoryService(Service):
    """
    Returns free memory to the system, once after each peak of the jobs' memory.

    Args:
        clock: Times the looks.
        used_bytes: Returns an estimate of the memory of the jobs in flight and the joined types.
        trim: Returns the allocator's free memory to the system.
        settle: Called when the service starts: see `keep_freed_blocks` and `let_be`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        used_bytes: Callable[[], int],
        trim: Callable[[], Any] | None = None,
        settle: Callable[[], Any] = lambda: None,
    ) -> None:
        self._settle = settle
        self._used_bytes = used_bytes
        self._trim = find_trim() if trim is None else trim
        # Since the last trim.
        self._most_bytes = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def startService(self) -> None:
        super().startService()
        # The process is the daemon's own, and its modules live as long as it does.
        self._settle()
        self._looking.start(INTERVAL_SECONDS, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        used = self._used_bytes()
        self._most_bytes = max(self._most_bytes, used)
        if self._most_bytes >= MUCH_BYTES and used <= self._most_bytes // _LEFT_PART:
            self._most_bytes = used
            self._trim()


def let_be() -> None:
    """
    Exclude the present objects, all imported modules, from garbage collections: they cost 25 ms each time.

    Only for a process that is the daemon's own.
    """
    gc.collect()
    gc.freeze()


def keep_freed_blocks() -> None:
    """
    Have glibc's malloc keep up to 32 MiB of freed memory for reuse, instead of 128 KiB.

    By default malloc returns a block of 1 MB to the system and gets it again,
    page by page, for each frame. Only for a process that is the daemon's own.
    """
    with suppress(OSError, AttributeError):  # another library than glibc
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_MMAP_THRESHOLD, _RECYCLED_BYTES)
        set_option(_M_TRIM_THRESHOLD, 2 * _RECYCLED_BYTES)


def find_trim() -> Callable[[], Any]:
    """Return a function that calls glibc's ``malloc_trim``; with another library it does nothing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None

    def give_back() -> None:
        _clear_free_lists()
        trim(0)

    return give_back


def _clear_free_lists() -> None:
    # Python's free lists keep some freed tuples, lists and dicts, and each of them keeps the
    # whole MiB around it. A full collection clears the lists; frozen, it scans nothing else.
    gc.freeze()
    gc.collect()
    gc.unfreeze()
