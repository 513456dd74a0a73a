"""
Prints earlier runs, from their JSON files.

    python -m bench.wire.show FILE... [--markdown] [--plot FILE]

Several files, of runs on one machine, are merged; if they contain the
same load, the first counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.wire.measure import Measurement
from bench.wire.plot import plot
from bench.wire.report import HEADINGS, row, show
from bench.wire.run import Case, Results

FIGURES = [field.name for field in fields(Measurement)]
LOAD = [field.name for field in fields(Case)]


def read(contents: Sequence[Mapping[str, Any]]) -> Results:
    """Return the results in the *contents* of JSON files."""
    results = Results()
    for content in contents:
        results.failures += content["failures"]
        for case, systems in _measured(content).items():
            results.measured.setdefault(case, systems)
    return results


def _measured(content: Mapping[str, Any]) -> dict[Case, dict[str, list[Measurement]]]:
    measured: dict[Case, dict[str, list[Measurement]]] = {}
    for entry in content["measurements"]:
        case = Case(**{name: entry[name] for name in LOAD})
        measurement = Measurement(**{name: entry[name] for name in FIGURES})
        measured.setdefault(case, {}).setdefault(entry["system"], []).append(measurement)
    return measured


def markdown(results: Results) -> str:
    """Return *results* as a table for each load."""
    lines = []
    for case, measured in results.measured.items():
        lines += [f"**{case.name}**", "", f"| | {' | '.join(HEADINGS)} | |", "|---" + "|--:" * len(HEADINGS) + "|---|"]
        lines += [f"| {' | '.join(row(case, measured, name))} |" for name in measured]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Read the files, and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.wire.show", description="Show runs of the bench again.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="output of python -m bench --json")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw CPU and latency, as .png or .svg")
    arguments = parser.parse_args()
    contents = [json.loads(path.read_text()) for path in arguments.files]
    results = read(contents)
    if arguments.markdown:
        print(markdown(results))
    else:
        show(results, contents[0], Console(width=None if sys.stdout.isatty() else 150))
    if arguments.plot:
        plot(results, contents[0], arguments.plot)


if __name__ == "__main__":
    main()
