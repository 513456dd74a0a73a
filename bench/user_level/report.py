"""
What the rounds come to: medians and ranges, what gloom shall reach, a table and lines about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from bench.user_level.systems import SYSTEMS, System

Round = Mapping[str, Mapping[str, Any]]
"""What a driver has printed: the figures of ``one`` and ``many``."""

WANTED_JOBS_PER_SECOND = 8_000
WANTED_TIMES = 10
WANTED_P50_MS = 0.5

_FIGURES = (
    ("many", "jobs_per_second"),
    ("many", "cpu_ms_per_job"),
    ("one", "p50_ms"),
    ("one", "p99_ms"),
    ("one", "cpu_ms_per_job"),
)


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return, of each figure, the median and the range over *rounds*, by a name such as ``many.jobs_per_second``."""
    figures = {}
    for load, figure in _FIGURES:
        values = [one_round[load][figure] for one_round in rounds]
        figures[f"{load}.{figure}"] = {"median": median(values), "least": min(values), "most": max(values)}
    return figures


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float]]], window: int) -> Table:
    """Return the table of *summaries*, by the name of the system."""
    drawn = Table(title="An echo job and its answer: medians (least-most)")
    drawn.add_column("", no_wrap=True)
    for heading in (
        f"answered jobs/s,\n{window} in flight",
        "gloom is\ntimes as fast",
        "CPU ms a job,\nall processes",
        "one at a time:\np50 ms",
        "\np99 ms",
        "\nCPU ms a job",
    ):
        drawn.add_column(heading, justify="right")
    for name, figures in summaries.items():
        drawn.add_row(SYSTEMS[name].title, *row(figures, summaries.get("gloom")))
    return drawn


def row(figures: Mapping[str, Mapping[str, float]], gloom: Mapping[str, Mapping[str, float]] | None) -> list[str]:
    """Return the cells of one system's *figures*; *gloom* has those of gloom, if it was measured."""
    rate, *others = figures.values()
    times = "" if gloom is None else f"{gloom['many.jobs_per_second']['median'] / rate['median']:.1f}"
    return [_cell(rate, ",.0f"), times, *(_cell(values, ".3g") for values in others)]


def bars(summaries: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return what gloom shall reach beside what it reached: ``what``, ``wanted``, ``measured`` and ``met``."""
    if "gloom" not in summaries:
        return []
    gloom = {figure: values["median"] for figure, values in summaries["gloom"].items()}
    rate, p50 = gloom["many.jobs_per_second"], gloom["one.p50_ms"]
    found = [
        _bar("answered jobs/s", f"at least {WANTED_JOBS_PER_SECOND:,}", rate, rate >= WANTED_JOBS_PER_SECOND),
        _bar("one at a time, p50 ms", f"under {WANTED_P50_MS}", p50, p50 < WANTED_P50_MS),
    ]
    for name, figures in summaries.items():
        if SYSTEMS[name].wanted:
            times = rate / figures["many.jobs_per_second"]["median"]
            found.append(_bar(f"times {SYSTEMS[name].title}", f"at least {WANTED_TIMES}", times, times >= WANTED_TIMES))
    return found


def bar_line(bar: Mapping[str, Any]) -> str:
    """Return one of `bars` for people."""
    return f"{'met   ' if bar['met'] else 'missed'} {bar['what']}: {bar['measured']:,.4g} (wanted: {bar['wanted']})"


def note(system: System) -> str:
    """Return what a reader must know of *system*."""
    return f"{system.title}: keeps {system.keeps}. Jobs: {system.jobs}. Answers: {system.answers}."


def skip_line(name: str, why: str) -> str:
    """Return the line for a system that is not measured, or not further."""
    return f"skipped {SYSTEMS[name].title}: {why}"


def round_line(number: int, rounds: int, name: str, figures: Round) -> str:
    """Return the line for one system's figures of one round."""
    many, one = figures["many"], figures["one"]
    return (
        f"round {number}/{rounds}  {SYSTEMS[name].title}: {many['jobs_per_second']:,.0f} jobs/s,"
        f" one at a time p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms"
    )


def _bar(what: str, wanted: str, measured: float, met: bool) -> dict[str, Any]:
    return {"what": what, "wanted": wanted, "measured": measured, "met": met}


def _cell(values: Mapping[str, float], form: str) -> str:
    return f"{values['median']:{form}}\n({values['least']:{form}}-{values['most']:{form}})"
