"""The command: python -m bench."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench.machine import machine
from bench.wire.measure import SHAPES
from bench.wire.plot import plot
from bench.wire.programs import CannotCompile, compiled
from bench.wire.report import show, write_json
from bench.wire.run import Plan, run
from bench.wire.systems import SYSTEMS, System

DESCRIPTION = """\
What a job costs each system, and how long it takes, side by side on this machine.
About 10 minutes; with --quick about one. Systems that are not installed are left out.
"""
QUICK = {"rounds": 1, "jobs": 10_000, "bodies": [100], "rates": [5000.0], "queued": 0}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        words = _words(text)
        if not words or (unknown := [word for word in words if word not in known]):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return words

    return chosen


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers with commas between, got {text!r}") from error


def _bodies(text: str) -> list[int]:
    sizes = [int(number) for number in _numbers(text)]
    if not sizes or min(sizes) < 18:
        raise argparse.ArgumentTypeError("a body has 18 bytes or more: the load generator writes into it")
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=DESCRIPTION)
    shapes = "; ".join(f"{name}: {shape}" for name, shape in SHAPES.items())
    add = parser.add_argument
    add("--shapes", type=_chosen(list(SHAPES)), default=list(SHAPES), metavar="A,B", help=f"{shapes}; all by default")
    add("--systems", type=_chosen(list(SYSTEMS)), default=list(SYSTEMS), metavar="X,Y", help=f"of {', '.join(SYSTEMS)}")
    add("--rounds", type=int, default=3, metavar="N", help="measurements of each system under each load (3)")
    add("--jobs", type=int, default=30_000, metavar="N", help="jobs of one measurement in a closed loop (30000)")
    add("--bodies", type=_bodies, default=[100, 10_000, 1_000_000], metavar="N,N", help="bytes; first in all shapes")
    add("--rates", type=_numbers, default=[2e3, 5e3, 1e4, 2e4], metavar="N,N", help="jobs offered a second; '': none")
    add(
        "--queued", type=int, default=300_000, metavar="N", help="other jobs queued in one of the loads (300000); 0: no"
    )
    add("--json", type=Path, metavar="FILE", help="write every measurement")
    add("--plot", type=Path, metavar="FILE", help="draw CPU and latency, as .png or .svg; needs matplotlib")
    add("--quick", action="store_true", help="one round of 10000 jobs, 100 bytes, one rate, nothing queued")
    return parser


def _available(names: Sequence[str]) -> tuple[list[System], list[str]]:
    """Return the systems that can be started, and a line for each that cannot."""
    missing = {name: SYSTEMS[name].missing() for name in names}
    return [SYSTEMS[name] for name, line in missing.items() if not line], [line for line in missing.values() if line]


def main() -> int:
    """Measure, print, write; return the exit status."""
    parser = _parser()
    quick, _ = parser.parse_known_args()
    if quick.quick:
        parser.set_defaults(**QUICK)
    arguments = parser.parse_args()
    if arguments.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install --group bench")
    systems, left_out = _available(arguments.systems)
    try:
        compiled("relay"), compiled("load")
    except CannotCompile as error:
        print(error, file=sys.stderr)
        return 1
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": machine(),
        "versions": {system.name: system.version() for system in systems},
        "left_out": left_out,
    }
    plan = Plan(arguments.shapes, arguments.bodies, arguments.rates, arguments.queued, arguments.rounds, arguments.jobs)
    with Console(stderr=True).status("starting") as status:
        results = run(plan, systems, status.update)
    show(results, about, Console(width=None if sys.stdout.isatty() else 150))
    if arguments.json:
        write_json(results, about, arguments.json)
    if arguments.plot:
        plot(results, about, arguments.plot)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
