"""The results of a run, as one table and as a JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.wire.measure import Measurement
from bench.wire.run import Case, Results

# A rate is sustained when nearly as many jobs are answered as are offered.
SUSTAINED = 0.95
# A latency belongs to the system, not to the load generator, if the generator sent in time.
LATE = 0.5
HEADINGS = ("CPU us/job", "of gearmand", "of relay", "jobs/s", "p50 us", "p99 us", "p99.9 us", "peak MiB")

Measured = Mapping[str, Sequence[Measurement]]


@dataclass(frozen=True)
class Spread:
    """The median of some figures, the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Return the spread of *figures*, at least one."""
        return cls(statistics.median(figures), min(figures), max(figures))

    def text(self, digits: int = 1) -> str:
        """Return the median, and the range if there is one."""
        median = f"{self.median:,.{digits}f}"
        if self.least == self.most:
            return median
        return f"{median} ({self.least:,.{digits}f}-{self.most:,.{digits}f})"


def ratio(measured: Measured, name: str, base: str) -> float | None:
    """
    Return the CPU for a job of *name* as a part of that of *base*: the median of the rounds' ratios.

    None if one of the two was not measured.
    """
    pairs = zip(measured.get(name, ()), measured.get(base, ()), strict=False)
    ratios = [mine.cpu_us / base_measurement.cpu_us for mine, base_measurement in pairs]
    return statistics.median(ratios) if ratios else None


def notes(case: Case, measurements: Sequence[Measurement]) -> str:
    """Return the caveats of these figures."""

    def most(is_so: Callable[[Measurement], bool]) -> bool:
        return sum(map(is_so, measurements)) * 2 > len(measurements)

    said = []
    if case.rate and most(lambda measurement: measurement.jobs_per_second < SUSTAINED * case.rate):
        said.append("rate not kept")
    elif case.rate and most(lambda measurement: measurement.late_p99_us > LATE * measurement.p99_us):
        said.append("load late")
    if most(lambda measurement: measurement.load_is_busy):
        said.append("load busy")
    return ", ".join(said)


def row(case: Case, measured: Measured, name: str) -> list[str]:
    """Return the cells of *name* in the table."""
    measurements = measured[name]
    if not measurements:
        return [name, "failed", *[""] * len(HEADINGS)]

    def median(figure: Callable[[Measurement], float]) -> str:
        return f"{statistics.median(map(figure, measurements)):,.0f}"

    ratios = (ratio(measured, name, base) for base in ("gearmand", "relay"))
    return [
        name,
        Spread.of([measurement.cpu_us for measurement in measurements]).text(),
        *("-" if part is None else f"{part:.2f}" for part in ratios),
        median(lambda measurement: measurement.jobs_per_second),
        median(lambda measurement: measurement.p50_us),
        median(lambda measurement: measurement.p99_us),
        median(lambda measurement: measurement.p99_9_us),
        f"{max(measurement.peak_bytes for measurement in measurements) / 2**20:,.0f}",
        notes(case, measurements),
    ]


def table(results: Results) -> Table:
    """Return all of *results*, a section for each load."""
    shown = Table(title="Medians; ranges of the rounds in brackets", title_justify="left")
    shown.add_column("load, system")
    for heading in HEADINGS:
        shown.add_column(heading, justify="right")
    shown.add_column("note")
    for case, measured in results.measured.items():
        shown.add_section()
        shown.add_row(f"[bold]{case.title}[/bold]")
        for name in measured:
            shown.add_row(*row(case, measured, name))
    return shown


def show(results: Results, about: Mapping[str, Any], console: Console) -> None:
    """Print *results*, with the machine and versions."""
    console.print(table(results))
    console.print(", ".join(f"{name} {value}" for name, value in about["machine"].items()), highlight=False)
    console.print("; ".join(f"{name}: {value}" for name, value in about["versions"].items()), highlight=False)
    console.print(
        "CPU and memory are the system's process, all threads. load busy: the load generator used over 90 % of\n"
        "a core, and may be what limited the throughput. nats pushes: a slave may be sent many jobs at once.",
        highlight=False,
    )
    for line in (*about["left_out"], *results.failures):
        console.print(line, highlight=False, markup=False)


def write_json(results: Results, about: Mapping[str, Any], path: Path) -> None:
    """Write every measurement, with the machine and versions."""
    content = {**about, "failures": results.failures, "measurements": results.as_json()}
    path.write_text(json.dumps(content, indent=1) + "\n")
