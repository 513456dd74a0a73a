"""The figure of a run: CPU for each job in each shape, and latency at the rates that were sustained."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.wire.measure import Measurement
from bench.wire.report import SUSTAINED
from bench.wire.run import Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# One colour per system, the same in every figure.
COLOURS = {
    "relay": "#999999",
    "gloom": "#0b6e4f",
    "gloom-slots": "#6fbf8b",
    "gearmand": "#d1495b",
    "beanstalkd": "#edae49",
    "nats": "#3d7ea6",
}
NAMES = {"relay": "relay in C (the limit)", "gloom-slots": "gloom, 16 slots", "nats": "nats (pushes)"}
GROUP_WIDTH = 0.84


def plot(results: Results, about: Mapping[str, Any], path: Path) -> None:
    """Draw *results* into *path*; its suffix selects the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    first = next(iter(results.measured))
    # Shape S is about latency: its CPU is dominated by wake-ups.
    closed = [case for case in results.measured if case == Case(case.shape, first.body_bytes) and case.shape != "S"]
    offered = [case for case in results.measured if case.rate]
    panels = [(draw, cases) for draw, cases in ((_cpu, closed), (_latency, offered)) if cases]
    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 3.7 * len(panels)), squeeze=False)
    for (draw, cases), one in zip(panels, axes[:, 0], strict=True):
        draw(one, results, cases)
    axes[0, 0].legend(ncols=3, frameon=False, loc="upper right")
    machine = about["machine"]
    figure.text(
        0.99,
        0.006,
        f"{machine['processor']}, {machine['cores']} cores, bodies of {first.body_bytes:,} B",
        ha="right",
        size=8,
    )
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


def _systems(results: Results, cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(name for case in cases for name in results.measured[case]))


def _positions(results: Results, cases: Sequence[Case]) -> list[tuple[float, float, str, Sequence[Measurement]]]:
    """Return x, width, system and measurements of each bar of the groups *cases*."""
    systems = _systems(results, cases)
    width = GROUP_WIDTH / len(systems)
    return [
        (group + (index - (len(systems) - 1) / 2) * width, width, name, measurements)
        for group, case in enumerate(cases)
        for index, name in enumerate(systems)
        if (measurements := results.measured[case].get(name))
    ]


def _median(measurements: Sequence[Measurement], figure: Callable[[Measurement], float]) -> float:
    return statistics.median(map(figure, measurements))


def _cpu(axes: Axes, results: Results, cases: Sequence[Case]) -> None:
    seen = set()
    for x, width, name, measurements in _positions(results, cases):
        figures = [measurement.cpu_us for measurement in measurements]
        median = statistics.median(figures)
        axes.bar(x, median, width * 0.94, color=COLOURS[name], label=None if name in seen else NAMES.get(name, name))
        axes.vlines(x, min(figures), max(figures), color="black", linewidth=0.8)
        axes.annotate(f"{median:.0f}", (x, max(figures)), (0, 2), textcoords="offset points", ha="center", size=8)
        seen.add(name)
    axes.set_title("Broker CPU for one job", loc="left", weight="bold")
    axes.set_ylabel("microseconds")
    axes.margins(y=0.36)
    axes.set_xticks(range(len(cases)), [case.title for case in cases])


def _latency(axes: Axes, results: Results, cases: Sequence[Case]) -> None:
    from matplotlib.ticker import LogLocator

    kept = [
        (x, width, name, measurements)
        for x, width, name, measurements in _positions(results, cases)
        if _median(measurements, lambda measurement: measurement.jobs_per_second) >= SUSTAINED * cases[round(x)].rate
    ]
    for x, width, name, measurements in kept:
        p50 = _median(measurements, lambda measurement: measurement.p50_us / 1000)
        p99 = _median(measurements, lambda measurement: measurement.p99_us / 1000)
        p99_9 = _median(measurements, lambda measurement: measurement.p99_9_us / 1000)
        axes.bar(x, p99 - p50, width * 0.8, p50, color=COLOURS[name])
        axes.vlines(x, p99, p99_9, color=COLOURS[name], linewidth=1.6)
    axes.set_yscale("log")
    axes.margins(y=0.08)
    axes.use_sticky_edges = False
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_axisbelow(True)
    axes.grid(axis="y", linewidth=0.4)
    shape = cases[0].shape
    axes.set_title(
        f"Latency at an offered rate, shape {shape}: box p50 to p99, line to p99.9", loc="left", weight="bold"
    )
    axes.set_ylabel("milliseconds")
    axes.set_xticks(range(len(cases)), [f"{case.rate:,.0f} jobs/s" for case in cases])
