"""The figure of `bench.growth`: a panel for each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.growth.curves import Curve
from bench.wire.plot import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Over 1 for y from 0: a label is above its point.
HEADROOM = 1.4


def plot(curves: Sequence[Curve], about: Mapping[str, Any], path: Path) -> None:
    """Draw *curves* into *path*; its suffix selects the format."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(-(-len(curves) // 2), 2, figsize=(8, 5.8), squeeze=False)
    # One scale for all panels, so that they are comparable.
    top_us = HEADROOM * max((max(map(max, curve.cpu_us)) for curve in curves if not curve.proportional), default=1)
    for curve, one in zip(curves, axes.flat, strict=False):
        _points(one, curve)
        _sizes(one, curve)
        if curve.proportional:
            _logarithmic(one, curve)
        else:
            one.set_ylim(0, top_us)
            one.set_ylabel("microseconds")
        one.set_title(f"{curve.name[0].upper()}{curve.name[1:]}", loc="left", weight="bold", size=10)
        one.set_title(curve.load, loc="right", size=8)
    figure.suptitle("Broker CPU for one job", x=0.012, ha="left", weight="bold", size=12)
    figure.text(0.988, 0.012, f"{about['processor']}, {about['cores']} cores, {about['time'][:10]}", ha="right", size=8)
    figure.tight_layout(rect=(0, 0.03, 1, 1), h_pad=1.5, w_pad=1.5)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


def _points(axes: Axes, curve: Curve) -> None:
    unit_us = 1000 if curve.proportional else 1
    # A rising line leaves room on its left.
    where, align = ((-3, 3), "right") if curve.proportional else ((0, 4), "center")
    axes.plot(curve.sizes, [us / unit_us for us in curve.medians], color=COLOURS["gloom"], marker="o", markersize=4)
    for size, median, figures in zip(curve.sizes, curve.medians, curve.cpu_us, strict=True):
        least, most = min(figures) / unit_us, max(figures) / unit_us
        axes.vlines(size, least, most, color="black", linewidth=0.8)
        axes.annotate(_text(median / unit_us), (size, most), where, textcoords="offset points", ha=align, size=8)


def _sizes(axes: Axes, curve: Curve) -> None:
    """Make x logarithmic; 0, if present, is drawn one step before the least size."""
    if curve.sizes[0] == 0:
        axes.set_xscale("symlog", linthresh=curve.sizes[1])
    else:
        axes.set_xscale("log")
    axes.set_xticks(curve.sizes, [_short(size) for size in curve.sizes])
    axes.minorticks_off()
    axes.margins(x=0.08)


def _logarithmic(axes: Axes, curve: Curve) -> None:
    axes.set_yscale("log")
    axes.margins(y=0.12)
    axes.set_xlim(curve.sizes[0] / 6, curve.sizes[-1] * 2)
    axes.tick_params(axis="x", labelsize=8)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_ylabel("milliseconds")


def _text(figure: float) -> str:
    return f"{figure:.2f}" if figure < 1 else f"{figure:.1f}" if figure < 10 else f"{figure:,.0f}"


def _short(count: int) -> str:
    """Return *count* as a short tick label: 5000 is 5k, 1000000 is 1M."""
    for unit, letter in ((10**6, "M"), (1000, "k")):
        if count >= unit:
            return f"{count / unit:g}{letter}"
    return str(count)
