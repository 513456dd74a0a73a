"""Shared by the commands: resource use of a process, and printing of figures and the verdict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20


def show(text: str) -> None:
    """Print a line and flush, also into a pipe."""
    print(text, flush=True)


def resident_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process; of this process without *pid*."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def run_seconds(pid: int) -> float:
    """Return the processor time of a process, to the nanosecond (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def waited_seconds(pid: int) -> float:
    """Return the seconds for which a runnable process waited for a processor (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], part: float) -> float:
    """Return the quantile *part* of *values*; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def verdict(failures: Sequence[str]) -> int:
    """Print the failures, and return the exit status."""
    for failure in failures:
        show(f"FAILED: {failure}")
    show("failed" if failures else "passed: all held")
    return 1 if failures else 0
