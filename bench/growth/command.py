"""
How the broker's cost grows: ``python -m bench.growth [--only PART] [--json FILE]``.

With ``--plot FILE`` it instead measures the CPU for a job at several
sizes each, and draws the curves.

Starts brokers on free loopback ports, loads them with a million waiting jobs, ten
thousand types and five thousand connections, and prints the cost of each beside
gloom's own limit. CPU is the broker process's, from the
operating system; each ratio is of medians, small and large measured in turn.
Compare only figures of one run on one machine.

Parts: queued, behind, types, connected, large, frames.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import twisted

import gloom
from bench.growth.broker import Broker
from bench.growth.curves import CURVES, Curve
from bench.growth.parts import PARTS, Plan, Row
from bench.growth.plot import plot
from bench.machine import machine


def line_of(row: Row) -> str:
    """Return *row* as a line of the table."""
    bar = "" if row.bar is None else f"{row.bar:g}"
    return f"{row.measured:9.2f} {row.unit:5} {bar:>6} {row.verdict:4}  {row.name} ({row.detail})"


def about() -> dict[str, Any]:
    """Return the machine, the versions and the time of the figures."""
    return {
        "machine": platform.machine(),
        "processor": machine()["processor"],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "gloom": gloom.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def measure_parts(parts: Sequence[str], plan: Plan) -> list[Row]:
    """Measure *parts*, print their figures as they come, and return them."""
    rows: list[Row] = []
    print(" measured unit     bar", flush=True)
    for part in parts:
        for row in PARTS[part](plan):
            rows.append(row)
            print(line_of(row), flush=True)
    precise_us, ticks_us = (sum(counted) for counted in zip(*Broker.counted_us, strict=True))
    print(f"the brokers' processor time, counted in ticks instead, is {ticks_us / precise_us:.2f} times as much")
    return rows


def measure_curves(plan: Plan) -> list[Curve]:
    """Measure all curves, print their medians as they come, and return them."""
    curves: list[Curve] = []
    for measure in CURVES.values():
        curves.append(measure(plan))
        print(curves[-1], flush=True)
    return curves


def write_json(path: Path, **figures: list[dict[str, Any]]) -> None:
    """Write *figures*, with the machine and versions."""
    path.write_text(json.dumps({"about": about(), **figures}, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", action="append", choices=PARTS, metavar="PART", help="may be given more than once")
    what.add_argument(
        "--plot", type=Path, metavar="FILE", help="measure the curves only, and draw them, as .png or .svg (matplotlib)"
    )
    add("--json", type=Path, metavar="FILE", help="also write the figures to FILE; with --plot, the curves")
    add("--jobs", type=int, default=Plan.jobs, help="jobs of one measurement [%(default)s]")
    add("--rounds", type=int, default=Plan.rounds, help="repetitions of each [%(default)s]")
    add("--scale", type=float, default=Plan.scale, help="scale the full numbers by this, for a trial run")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write, draw; return 1 if something is over its bar."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install --group bench")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(options.jobs, options.rounds, options.scale)
    if options.plot:
        curves = measure_curves(plan)
        if options.json:
            write_json(options.json, curves=[asdict(curve) for curve in curves])
        plot(curves, about(), options.plot)
        return 0
    rows = measure_parts(options.only or list(PARTS), plan)
    if options.json:
        write_json(options.json, rows=[asdict(row) | {"verdict": row.verdict} for row in rows])
    return int(any(row.verdict == "OVER" for row in rows))
