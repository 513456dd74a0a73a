"""The figure of `bench.growth`: a panel for each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.growth_curves import Curve
from bench.plot import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Over 1 for y from 0: a label is above its point.
HEADROOM = 1.4
# A curve that grows more is drawn with y logarithmic, too.
MOST_TIMES_LINEAR = 20


def plot(curves: Sequence[Curve], about: Mapping[str, Any], path: Path) -> None:
    """Draw *curves* into *path*, whose ending says which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(-(-len(curves) // 2), 2, figsize=(8, 5.8), squeeze=False)
    flat = [curve for curve in curves if not _is_steep(curve)]
    # The same for all of them: they can be compared.
    top_us = HEADROOM * max((max(map(max, curve.cpu_us)) for curve in flat), default=1)
    for curve, one in zip(curves, axes.flat, strict=False):
        _points(one, curve)
        _sizes(one, curve)
        if curve in flat:
            one.set_ylim(0, top_us)
            one.set_ylabel("microseconds")
        else:
            _logarithmic(one)
        one.set_title(f"{curve.name[0].upper()}{curve.name[1:]}", loc="left", weight="bold", size=10)
    figure.suptitle("Broker CPU for one job", x=0.012, ha="left", weight="bold", size=12)
    loads = "; ".join(f"{load}: {names}" for load, names in _by_load(curves).items())
    figure.text(0.012, 0.012, loads, size=8)
    figure.text(0.988, 0.012, f"{about['processor']}, {about['cores']} cores, {about['time'][:10]}", ha="right", size=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1), h_pad=1.5, w_pad=1.5)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


def _is_steep(curve: Curve) -> bool:
    return max(curve.medians) > MOST_TIMES_LINEAR * min(curve.medians)


def _by_load(curves: Sequence[Curve]) -> dict[str, str]:
    """Return which curves each load is of, as in the figure's titles."""
    names: dict[str, list[str]] = {}
    for curve in curves:
        names.setdefault(curve.load, []).append(curve.name)
    return {load: ", ".join(of) for load, of in names.items()}


def _points(axes: Axes, curve: Curve) -> None:
    axes.plot(curve.sizes, curve.medians, color=COLOURS["gloom"], marker="o", markersize=4, clip_on=False)
    for size, median, figures in zip(curve.sizes, curve.medians, curve.cpu_us, strict=True):
        axes.vlines(size, min(figures), max(figures), color="black", linewidth=0.8)
        axes.annotate(
            _microseconds(median), (size, max(figures)), (0, 4), textcoords="offset points", ha="center", size=8
        )


def _sizes(axes: Axes, curve: Curve) -> None:
    """Draw x logarithmic; 0, if it is there, a step before the least size."""
    if curve.sizes[0] == 0:
        axes.set_xscale("symlog", linthresh=curve.sizes[1])
    else:
        axes.set_xscale("log")
    axes.set_xticks(curve.sizes, [_short(size) for size in curve.sizes])
    axes.minorticks_off()
    axes.margins(x=0.08)


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_yscale("log")
    axes.margins(y=0.18)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us / 1000:g} ms" if us >= 1000 else f"{us:g} us"))


def _microseconds(us: float) -> str:
    if us < 1000:
        return f"{us:.0f}"
    return f"{us / 1000:.1f} ms" if us < 10_000 else f"{us / 1000:.0f} ms"


def _short(count: int) -> str:
    """Return *count* as a tick has room for: 5000 is 5k, 1000000 is 1M."""
    for unit, letter in ((10**6, "M"), (1000, "k")):
        if count >= unit:
            return f"{count / unit:g}{letter}"
    return str(count)
