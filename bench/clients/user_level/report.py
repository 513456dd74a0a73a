"""
Summary of the rounds: medians and ranges, gloom's targets, a table and lines about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from bench.clients.user_level.systems import GLOOMS, SYSTEMS, System

Summary = Mapping[str, Mapping[str, float]]
"""Figures of one system, as `summary` returns them."""

Round = Mapping[str, Mapping[str, Any]]
"""Output of a driver: the figures of ``one`` and ``many``."""

WANTED_JOBS_PER_SECOND = 8_000
WANTED_TIMES = 10
WANTED_P50_MS = 0.5

_WHOLE_FROM = 1000

_FIGURES = (
    ("many", "jobs_per_second"),
    ("many", "cpu_ms_per_job"),
    ("one", "p50_ms"),
    ("one", "p99_ms"),
    ("one", "cpu_ms_per_job"),
)


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return the median and the range of each figure over *rounds*, by a name such as ``many.jobs_per_second``."""
    figures = {}
    for load, figure in _FIGURES:
        values = [one_round[load][figure] for one_round in rounds]
        figures[f"{load}.{figure}"] = {"median": median(values), "least": min(values), "most": max(values)}
    return figures


def table(summaries: Mapping[str, Summary], window: int) -> Table:
    """Return the table of *summaries*, by system name."""
    drawn = Table(title="An echo job and its answer: medians (least-most)")
    drawn.add_column("", no_wrap=True)
    for heading in _headings(summaries, window):
        drawn.add_column(heading.replace(": ", ":\n").replace(", ", ",\n", 1), justify="right")
    for name, figures in summaries.items():
        drawn.add_row(SYSTEMS[name].title, *(cell.replace(" ", "\n") for cell in row(figures, rates(summaries))))
    return drawn


def markdown(summaries: Mapping[str, Summary], window: int, machine: str) -> str:
    """Return the report as Markdown: the machine, the table, the notes, and the targets."""
    headings = _headings(summaries, window)
    lines = [f"{machine}. Medians (least-most).", ""]
    lines += [f"| | {' | '.join(headings)} |", "|---" + "|--:" * len(headings) + "|"]
    for name, figures in summaries.items():
        lines.append(f"| {SYSTEMS[name].title} | {' | '.join(row(figures, rates(summaries)))} |")
    lines += ["", *(f"- {note(SYSTEMS[name])}" for name in summaries)]
    lines += ["", *(f"- {bar_line(bar)}" for bar in bars(summaries))]
    return "\n".join(lines) + "\n"


def rates(summaries: Mapping[str, Summary]) -> dict[str, float]:
    """Return the jobs a second of each measured gloom configuration."""
    return {name: summaries[name]["many.jobs_per_second"]["median"] for name in GLOOMS if name in summaries}


def _headings(summaries: Mapping[str, Summary], window: int) -> list[str]:
    return [
        f"answered jobs/s, {window} in flight",
        *(f"times as fast: {SYSTEMS[name].title}" for name in rates(summaries)),
        "CPU ms a job, all processes",
        "one at a time: p50 ms",
        "one at a time: p99 ms",
        "one at a time: CPU ms a job",
    ]


def row(figures: Summary, gloom_rates: Mapping[str, float]) -> list[str]:
    """Return the cells of one system's *figures*; *gloom_rates* is the result of `rates`."""
    rate, *others = figures.values()
    times = [f"{gloom / rate['median']:.1f}" for gloom in gloom_rates.values()]
    return [_cell(rate, ",.0f"), *times, *(_cell(values, ".3g") for values in others)]


def bars(summaries: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """Return gloom's targets with the measured values: ``what``, ``wanted``, ``measured`` and ``met``."""
    found = []
    for name, rate in rates(summaries).items():
        title, p50 = SYSTEMS[name].title, summaries[name]["one.p50_ms"]["median"]
        wanted = f"at least {WANTED_JOBS_PER_SECOND:,}"
        found.append(_bar(f"{title}: answered jobs/s", wanted, rate, rate >= WANTED_JOBS_PER_SECOND))
        found.append(_bar(f"{title}: one at a time, p50 ms", f"under {WANTED_P50_MS}", p50, p50 < WANTED_P50_MS))
        found += _times_bars(title, rate, summaries)
    return found


def _times_bars(title: str, rate: float, summaries: Mapping[str, Summary]) -> list[dict[str, Any]]:
    found = []
    for name, figures in summaries.items():
        if SYSTEMS[name].wanted:
            times = rate / figures["many.jobs_per_second"]["median"]
            what = f"{title}: times {SYSTEMS[name].title}"
            found.append(_bar(what, f"at least {WANTED_TIMES}", times, times >= WANTED_TIMES))
    return found


def bar_line(bar: Mapping[str, Any]) -> str:
    """Return one of `bars` as text."""
    measured = bar["measured"]
    shown = f"{measured:,.0f}" if measured >= _WHOLE_FROM else f"{measured:.4g}"
    return f"{'met   ' if bar['met'] else 'missed'} {bar['what']}: {shown} (wanted: {bar['wanted']})"


def note(system: System) -> str:
    """Return the facts about *system* that a reader must know."""
    return f"{system.title}: keeps {system.keeps}. Jobs: {system.jobs}. Answers: {system.answers}."


def skip_line(name: str, why: str) -> str:
    """Return the line for a system that is skipped, from the start or from now on."""
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
    return f"{values['median']:{form}} ({values['least']:{form}}-{values['most']:{form}})"
