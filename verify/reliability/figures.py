"""What the commands share: what a process uses, and how a figure and a verdict are shown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20


def show(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def resident_bytes(pid: int | None = None) -> int:
    """Return the memory of a process that is in RAM; of this one without *pid*."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def run_seconds(pid: int) -> float:
    """Return the processor time that a process has had, to the nanosecond (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def waited_seconds(pid: int) -> float:
    """Return how long a process that could run has waited for a processor (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that *part* of *values* are at most; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def verdict(failures: Sequence[str]) -> int:
    """Show what did not hold, and return the exit status."""
    for failure in failures:
        show(f"FAILED: {failure}")
    show("failed" if failures else "passed: all held")
    return 1 if failures else 0
