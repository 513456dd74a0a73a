"""
Memory of the daemon: giving it back when much has become free.

glibc keeps some of what Python frees, 8 MiB of the 523 that a million queued jobs
take, and Python's free lists keep more: 49 MiB of the 64 of 99,000 joined types.
The garbage collector has little else to do: it does not follow jobs
(`gloom.broker.records.Job`), and what has ended refers to itself nowhere
(docs/decisions/0014-memory-comes-back.md).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

#: How often it is looked at.
INTERVAL_SECONDS = 2.0
#: Where the jobs in flight never took so much, there is nothing to give back.
MUCH_BYTES = 16 << 20
# When three quarters of it are free.
_LEFT_PART = 4


class MemoryService(Service):
    """
    Has glibc give back what it keeps, once after each time that jobs took much.

    Args:
        clock: When to look.
        used_bytes: Returns about what the jobs in flight and the joined types take.
        trim: Gives back what the allocator does not use.
        settle: Is called once it starts: see `let_be`.
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
        # Since it was given back.
        self._most_bytes = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def startService(self) -> None:
        super().startService()
        # The process is the daemon's own, and lives as long as what it has imported.
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
    Have the garbage collector not look at what is there now, all that was imported: that takes 25 ms each time.

    For a process that is the daemon's own.
    """
    gc.collect()
    gc.freeze()


def find_trim() -> Callable[[], Any]:
    """Return glibc's ``malloc_trim``, or what does nothing where the system's library has none."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None

    def give_back() -> None:
        _clear_free_lists()
        trim(0)

    return give_back


def _clear_free_lists() -> None:
    # Python keeps some freed tuples, lists and dicts for later, and with each of them the
    # whole MiB that it lies in. A full collection lets go of them; here it looks at nothing else.
    gc.freeze()
    gc.collect()
    gc.unfreeze()
