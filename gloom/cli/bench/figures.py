"""
The figures of ``gloom bench``, and their output: percentiles, a table, JSON.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from math import ceil, frexp, ldexp
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime

from gloom.cli.bench.plan import BenchOptions
from gloom.cli.output import on_terminal
from gloom.cli.progress import Bar, Tally

# Buckets per doubling of the time.
_BUCKETS = 128
_LEAST_SECONDS = 1e-9

# Above this share of a CPU the load, and not the broker, may be the bottleneck.
_BUSY_PERCENT = 90.0
# A rate counts as offered if 99 of 100 jobs left at most this late.
_PUNCTUAL_SECONDS = 0.010


class Histogram:
    """
    Counts times in buckets: its memory does not grow with their number.

    A bucket is at most 1/128 of its times wide, and a percentile is the middle
    of its bucket, within 0.4 % of the exact value. The shortest and the longest
    time are exact. Times from a nanosecond to years take some thousand buckets.

    Attributes:
        count: Number of times.
        most: The longest, in seconds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.most = 0.0
        self._least = float("inf")
        self._counts: dict[int, int] = {}

    def record(self, seconds: float) -> None:
        """Count one time."""
        mantissa, exponent = frexp(seconds if seconds > _LEAST_SECONDS else _LEAST_SECONDS)
        # The mantissa is in [1/2, 1): the exponent counts the doublings, the mantissa selects the bucket within one.
        bucket = (exponent - 1) * _BUCKETS + int(mantissa * 2 * _BUCKETS)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        if seconds > self.most:
            self.most = seconds
        if seconds < self._least:
            self._least = seconds

    def percentile(self, percent: float) -> float | None:
        """
        Return the seconds that *percent* of the times do not exceed (the nearest rank), or None without any.

        Args:
            percent: Over 0, up to 100.
        """
        rank = ceil(self.count * percent / 100)
        for bucket in sorted(self._counts):
            rank -= self._counts[bucket]
            if rank <= 0:
                return min(max(_middle(bucket), self._least), self.most)
        return None


def _middle(bucket: int) -> float:
    doublings, rest = divmod(bucket, _BUCKETS)
    return ldexp((_BUCKETS + rest + 0.5) / (2 * _BUCKETS), doublings)


@dataclass
class Figures:
    """
    The measurements of one part of a bench.

    Attributes:
        latency: Seconds from a job's submit, or from the moment it was due, to its answer; answered jobs only.
        failures: Number of jobs without an answer, by the error of docs/protocol.md, or by
            ``no_answer`` and ``connection_lost``.
        submitted: Number of jobs submitted.
        seconds: From the first submit to the last answer.
        submitting_seconds: From the first submit until the end of submitting.
        cpu_seconds: CPU time of this process in that time.
        rate: Jobs a second to offer, or None in a closed loop.
        late: Seconds by which jobs were submitted after they were due.
    """

    latency: Histogram = field(default_factory=Histogram)
    failures: Counter[str] = field(default_factory=Counter)
    submitted: int = 0
    seconds: float = 0.0
    submitting_seconds: float = 0.0
    cpu_seconds: float = 0.0
    rate: int | None = None
    late: Histogram = field(default_factory=Histogram)

    @property
    def load_cpu_percent(self) -> float:
        """The share of one CPU that this process has used."""
        return 100 * _ratio(self.cpu_seconds, self.submitting_seconds)

    def as_json(self) -> dict[str, Any]:
        """Return the figures with units in their names; a percentile without jobs is None."""
        fields = {
            "jobs": self.latency.count,
            "failed": self.failures.total(),
            "failures": dict(sorted(self.failures.items())),
            "seconds": round(self.seconds, 6),
            "jobs_per_second": round(_ratio(self.latency.count, self.seconds), 1),
            "latency_p50_ms": _milliseconds(self.latency.percentile(50)),
            "latency_p99_ms": _milliseconds(self.latency.percentile(99)),
            "latency_p99_9_ms": _milliseconds(self.latency.percentile(99.9)),
            "latency_max_ms": _milliseconds(self.latency.most if self.latency.count else None),
            "load_cpu_percent": round(self.load_cpu_percent, 1),
        }
        return fields if self.rate is None else fields | self._of_rate(self.rate)

    def _of_rate(self, rate: int) -> dict[str, Any]:
        return {
            "rate_jobs_per_second": rate,
            "submitted_jobs_per_second": round(_ratio(self.submitted, self.submitting_seconds), 1),
            "late_p50_ms": _milliseconds(self.late.percentile(50)),
            "late_p99_ms": _milliseconds(self.late.percentile(99)),
            "rate_was_offered": self._was_offered(),
        }

    def _was_offered(self) -> bool:
        late = self.late.percentile(99)
        return late is not None and late <= _PUNCTUAL_SECONDS

    def remarks(self) -> Iterator[str]:
        """Yield warnings about the figures, each as the end of a line."""
        if self.rate is not None and not self._was_offered():
            left = _ratio(self.submitted, self.submitting_seconds)
            late = (self.late.percentile(99) or 0) * 1000
            yield (
                f"{self.rate:,} jobs/s could not be offered in time: "
                f"{left:,.0f} jobs/s were submitted, 1 % of them more than {late:,.0f} ms late"
            )
        if self.load_cpu_percent >= _BUSY_PERCENT:
            yield (
                f"this process had {self.load_cpu_percent:.0f} % of a CPU: it was the limit, perhaps not the broker; "
                "several gloom bench at once make more load"
            )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


_ABSENT = object()
# The figures of the table: key, name, format.
_ROWS = (
    ("jobs", "jobs answered", ",d"),
    ("failed", "jobs failed", ",d"),
    ("seconds", "seconds", ",.1f"),
    ("submitted_jobs_per_second", "jobs/s submitted", ",.0f"),
    ("jobs_per_second", "jobs/s answered", ",.0f"),
    ("latency_p50_ms", "latency p50, ms", ",.2f"),
    ("latency_p99_ms", "latency p99, ms", ",.2f"),
    ("latency_p99_9_ms", "latency p99.9, ms", ",.2f"),
    ("latency_max_ms", "latency max, ms", ",.2f"),
    ("late_p99_ms", "submitted late p99, ms", ",.2f"),
    ("load_cpu_percent", "CPU of the load, %", ",.0f"),
)

Rows = list[tuple[str, ...]]


class Report:
    """
    The output of a bench: an introduction, a line as each part begins, the figures at the end.

    Args:
        type: The type of the jobs.
        master: Where masters connect.
        slave: Where slaves connect.
        options: The plan.

    Attributes:
        lost: The reason why the broker is gone, or None.
    """

    def __init__(self, type: str, master: str, slave: str, options: BenchOptions) -> None:
        self.type = type
        self.options = options
        self.lost: str | None = None
        self._master = master
        self._slave = slave
        self._parts: dict[str, Figures] = {}

    @property
    def failed(self) -> bool:
        """Whether a job has failed, or the broker was lost."""
        return self.lost is not None or any(figures.failures for figures in self._parts.values())

    def introduction(self) -> str:
        """Return the text to print before the load begins."""
        return (
            f"broker  masters on {self._master}, slaves on {self._slave}\n"
            f"load    {self.options}, all in this process\n"
            f"jobs    of type {self.type}: others are left alone, but the broker is under load meanwhile"
        )

    def begin(self, part: str, figures: Figures) -> str:
        """Take *figures* as those of the next *part*, and return the line that announces it."""
        self._parts[part] = figures
        return f"part {len(self._parts)}  {self._name(part)}, {self.options.limits()}"

    def remarks(self) -> Iterator[str]:
        """Yield warnings about the figures."""
        for number, figures in enumerate(self._parts.values(), 1):
            yield from (f"part {number}: {text}" for text in figures.remarks())
        if self.lost is not None:
            yield f"the broker is lost, and that ended the bench: {self.lost}"

    def printed(self, *, drawn: bool) -> bytes:
        """Return the output: JSON, or a table, which is *drawn* for a terminal."""
        if self.options.as_json:
            return msgspec.json.encode(self._as_json()) + b"\n"
        table = _drawn_table(self._rows()) if drawn else _plain_table(self._rows())
        return f"{self.options}\n{table}".encode()

    def _as_json(self) -> dict[str, Any]:
        options = asdict(self.options)
        del options["as_json"]
        if self.options.rate is not None:
            options["window"] = None
        parts = {part: figures.as_json() for part, figures in self._parts.items()}
        return {"master": self._master, "slave": self._slave, "type": self.type, **options, "lost": self.lost, **parts}

    def _name(self, part: str) -> str:
        if part == "closed_loop":
            return f"{self.options.window:,} in flight a master"
        return f"{self.options.rate:,} jobs/s" if part == "offered_rate" else part.replace("_", " ")

    def _rows(self) -> Rows:
        """Return the rows of the table: the names of the parts, then each figure that any part has."""
        parts = list(self._parts.values())
        found: Rows = [("", *map(self._name, self._parts))]
        for key, name, form in _ROWS:
            values = [figures.as_json().get(key, _ABSENT) for figures in parts]
            if any(value is not _ABSENT for value in values):
                found.append((name, *(_cell(value, form) for value in values)))
            if key == "failed":
                codes = sorted({code for figures in parts for code in figures.failures})
                found += [(f"  {code}", *(f"{figures.failures[code]:,}" for figures in parts)) for code in codes]
        return found


def _cell(value: Any, form: str) -> str:
    if value is _ABSENT:
        return ""
    return "-" if value is None else format(value, form)


def _plain_table(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        name.ljust(widths[0]) + "".join(cell.rjust(width + 2) for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _drawn_table(rows: Rows) -> str:
    from rich.console import Console
    from rich.table import Table

    (corner, *names), *figures = rows
    table = Table()
    table.add_column(corner)
    for name in names:
        table.add_column(name, justify="right", style="bold")
    for row in figures:
        table.add_row(*row)
    console = Console()
    with console.capture() as drawn:
        console.print(table)
    return drawn.get()


class _CalmBar(Bar):
    """A bar that is drawn once a second: each drawing delays the measured jobs by a millisecond."""

    def __enter__(self) -> Bar:
        self._bar.start()
        self._drawing.start(1.0)
        return self


def progress(clock: IReactorTime, tally: Tally, options: BenchOptions) -> AbstractContextManager[Any]:
    """Return a context manager that shows the progress of a part on a terminal."""
    if not on_terminal(sys.stderr):
        return nullcontext()
    if options.jobs is not None:
        return _CalmBar(clock, tally, lambda: tally.done, options.jobs)
    return _CalmBar(clock, tally, lambda: tally.seconds, options.seconds)
