"""
How the broker's cost grows: ``python -m bench.growth [--only PART] [--json FILE]``.

Starts brokers on free loopback ports, has a million jobs wait in them, ten
thousand types, five thousand connections, and prints what that costs beside the
bar that gloom sets itself. CPU is that of the broker's process, from the
operating system; each ratio is of medians, small and large measured in turn.
The figures of one run on one machine can be compared, no others.

Parts: queued, behind, types, connected, large, frames.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import twisted

import gloom
from bench.growth_broker import Broker
from bench.growth_parts import PARTS, Plan, Row


def line_of(row: Row) -> str:
    """Return *row* as a line of the table."""
    bar = "" if row.bar is None else f"{row.bar:g}"
    return f"{row.measured:9.2f} {row.unit:5} {bar:>6} {row.verdict:4}  {row.name} ({row.detail})"


def as_json(rows: Sequence[Row]) -> str:
    """Return *rows* with the machine and the versions that they are of."""
    about = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "gloom": gloom.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps({"about": about, "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}, indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if something is over its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help="may be given more than once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--jobs", type=int, default=Plan.jobs, help="jobs of one measurement [%(default)s]")
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="repetitions of each [%(default)s]")
    parser.add_argument("--scale", type=float, default=Plan.scale, help="use a part of the full numbers, to try it out")
    options = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plan = Plan(options.jobs, options.rounds, options.scale)
    rows: list[Row] = []
    print(" measured unit     bar", flush=True)
    for part in options.only or PARTS:
        for row in PARTS[part](plan):
            rows.append(row)
            print(line_of(row), flush=True)
    precise_us, ticks_us = (sum(counted) for counted in zip(*Broker.counted_us, strict=True))
    print(f"the brokers' processor time, counted in ticks instead, is {ticks_us / precise_us:.2f} times as much")
    if options.json is not None:
        options.json.write_text(as_json(rows) + "\n")
    return int(any(row.verdict == "OVER" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
