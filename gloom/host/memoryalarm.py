"""
The memory alarm: the broker refuses jobs before the system kills the process, and all jobs with it.

The memory of the process is measured at intervals, not for each job: between two
measurements `gloom.broker.limits` lets jobs take half of the free memory, and
then asks for the next measurement (decision 20).
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

#: Interval between two measurements.
INTERVAL_SECONDS = 0.25
#: The share of a system limit that jobs may take, in quarters; the rest is for buffers,
#: and for memory that the system counts differently.
SHARE = 3
# Columns of /proc/self/statm.
SIZE, RESIDENT, DATA = 0, 1, 5
# Parts of the limit: jobs are refused when less than the first part is free, until the second part is free again.
_LOW_PART, _ENOUGH_PART = 64, 16


@dataclass(frozen=True, slots=True)
class Bound:
    """
    How much memory the process may take before jobs are refused.

    Attributes:
        name: The origin of the limit, for the log.
        most_bytes: The limit.
        column: The measure: a column of /proc/self/statm.
    """

    name: str
    most_bytes: int
    column: int


def find_bounds(max_memory_bytes: int, root: Path = Path("/")) -> list[Bound]:
    """
    Return the memory bounds of this process; none if the system has none.

    Args:
        max_memory_bytes: The option; 0 for three quarters of the system's limit.
        root: Where the system's files are.
    """
    if max_memory_bytes:
        return [Bound("--max-memory-bytes", max_memory_bytes, RESIDENT)]
    found = [
        *(("its cgroup", size, RESIDENT) for size in _cgroup_limits(root)),
        *(("the machine", size, RESIDENT) for size in _machine_memory(root)),
        *(("ulimit -v", size, SIZE) for size in _soft_limit(resource.RLIMIT_AS)),
        *(("ulimit -d", size, DATA) for size in _soft_limit(resource.RLIMIT_DATA)),
    ]
    return [Bound(name, size * SHARE // 4, column) for name, size, column in found]


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's cgroups, of version 2 and of version 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top):
                yield from _number(_read(folder / name))


def _machine_memory(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            yield from (kib << 10 for kib in _number(line.split()[1]))


def _soft_limit(kind: int) -> Iterator[int]:
    soft = resource.getrlimit(kind)[0]
    if soft != resource.RLIM_INFINITY:
        yield soft


def _number(text: str) -> Iterator[int]:
    if text.strip().isdecimal():
        yield int(text)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def find_usage() -> Callable[[], Sequence[int]] | None:
    """Return a reader of /proc/self/statm, in bytes, or None if the system has no such file."""
    try:
        descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return None
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return lambda: [int(pages) * page_bytes for pages in os.pread(descriptor, 200, 0).split()]


class _MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def find_kept() -> Callable[[], int]:
    """Return a reader of glibc's free bytes: the process holds them, and jobs may use them."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return lambda: 0
    mallinfo2.restype = _MallInfo
    return lambda: int(mallinfo2().fordblks)


class MemoryUser(Protocol):
    """The part of `gloom.broker.interfaces.IBroker` that the alarm needs, which describes it."""

    @property
    def used_bytes(self) -> int: ...

    def measure_memory_with(self, measure: Callable[[], None]) -> None: ...

    def allow_memory(self, free_bytes: int) -> None: ...

    def refuse_for_memory(self) -> None: ...


class MemoryAlarm(Service):
    """
    Has the broker refuse jobs while the memory of the process is nearly full.

    Args:
        clock: Times the measurements.
        broker: The broker whose jobs take the memory.
        bounds: The limits; without any, nothing is measured.
        trim: Returns the allocator's free memory to the system.
        usage: Returns the memory of the process by the columns of `Bound`; None if it cannot be measured.
        kept: Returns the allocator's free bytes, which jobs may use.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        broker: MemoryUser,
        bounds: Sequence[Bound],
        trim: Callable[[], Any],
        usage: Callable[[], Sequence[int]] | None,
        kept: Callable[[], int],
    ) -> None:
        self._broker = broker
        # Without a measurement there is no limit.
        self._bounds = bounds if usage is not None else ()
        self._trim = trim
        self._usage: Callable[[], Sequence[int]] = usage or tuple
        self._kept = kept
        self._is_on = False
        self._measuring = LoopingCall(self._measure)
        self._measuring.clock = clock

    def startService(self) -> None:
        super().startService()
        if self._bounds:
            self._broker.measure_memory_with(self._measure)
            self._measuring.start(INTERVAL_SECONDS)

    def stopService(self) -> None:
        super().stopService()
        if self._measuring.running:
            self._measuring.stop()

    def _measure(self) -> None:
        bound, free = self._tightest(0)
        if free < bound.most_bytes // _ENOUGH_PART:
            # Memory of ended jobs must not count as used.
            if self._is_on:
                self._trim()
            bound, free = self._tightest(self._kept())
        part = _ENOUGH_PART if self._is_on else _LOW_PART
        low = bound.most_bytes // _LOW_PART
        # If jobs hold next to nothing, refusing jobs would free nothing.
        is_on = free < bound.most_bytes // part and self._broker.used_bytes > low
        if is_on != self._is_on:
            self._tell(is_on, bound, free)
        if is_on:
            self._broker.refuse_for_memory()
        else:
            self._broker.allow_memory(max(free, low))

    def _tightest(self, kept: int) -> tuple[Bound, int]:
        """Return the nearest bound, and the free bytes below it."""
        used = self._usage()

        def free(bound: Bound) -> int:
            return bound.most_bytes - used[bound.column] + (0 if bound.column == RESIDENT else kept)

        tightest = min(self._bounds, key=lambda bound: free(bound) / bound.most_bytes)
        return tightest, free(tightest)

    def _tell(self, is_on: bool, bound: Bound, free: int) -> None:
        self._is_on = is_on
        taken = {"taken": bound.most_bytes - free, "most": bound.most_bytes, "bound": bound.name}
        if is_on:
            self.log.warn("memory is nearly full, {taken} of {most} bytes ({bound}): jobs are refused as busy", **taken)
        else:
            self.log.info("memory is free again, {taken} of {most} bytes ({bound}): jobs are accepted", **taken)
