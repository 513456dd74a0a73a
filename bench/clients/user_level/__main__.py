"""
Compare gloom with Celery, RQ, Dramatiq, Huey and dask.distributed, each through its own client library.

    python -m bench.clients.user_level [--rounds N] [--seconds N] [--systems NAME,NAME] [--json FILE] [--markdown FILE]

An echo job of 100 bytes and its answer: one at a time, and 64 in flight. Every
system has two worker processes, and otherwise the settings of its documentation
(gloom is measured a second time with as many concurrent jobs as Dramatiq's two
processes run), and shares two CPUs with its client. The systems take turns, and are
restarted for each round. CPU time is the total of all processes of a system,
including its client.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.clients.user_level import report
from bench.clients.user_level.driver import exit_at
from bench.clients.user_level.environment import ROOT, EnvironmentFailed, interpreter, versions
from bench.clients.user_level.farm import STARTING_SECONDS
from bench.clients.user_level.systems import SYSTEMS

_WORKERS = 2
_WINDOW = 64
_PLAIN_COLUMNS = 150


class Failed(Exception):
    """A driver printed no figures; the text gives the reason in one line."""


def main() -> int:
    """Run the command line, and return the exit status."""
    arguments = _arguments()
    for stopping in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stopping, exit_at)
    skipped = dict[str, str]()
    interpreters = _interpreters(arguments.systems, skipped)
    rounds: dict[str, list[report.Round]] = {name: [] for name in interpreters}
    for number in range(1, arguments.rounds + 1):
        for name, python in interpreters.items():
            if name in skipped:
                continue
            try:
                figures = _drive(python, name, arguments.seconds)
            except Failed as failed:
                _skip(skipped, name, str(failed))
            else:
                rounds[name].append(figures)
                print(report.round_line(number, arguments.rounds, name, figures), flush=True)
    return _tell({name: found for name, found in rounds.items() if found}, skipped, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.clients.user_level",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; default: 3")
    parser.add_argument(
        "--seconds", type=float, default=4, help="seconds of each of the two measurements of a round; default: 4"
    )
    parser.add_argument("--systems", type=_names, default=list(SYSTEMS), help=f"of {','.join(SYSTEMS)}; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE, as Markdown")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be 1 or more, and --seconds over 0")
    return arguments


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SYSTEMS:
            raise argparse.ArgumentTypeError(f"unknown system {name!r}, choose from {', '.join(SYSTEMS)}")
    return names


def _interpreters(names: Iterable[str], skipped: dict[str, str]) -> dict[str, str]:
    """Return the Python interpreter for each system; add the systems that cannot be measured to *skipped*."""
    found = {}
    for name in names:
        if SYSTEMS[name].redis and shutil.which("redis-server") is None:
            _skip(skipped, name, "redis-server is not installed (Debian: apt install redis-server)")
        else:
            found[name] = sys.executable
    others = [name for name in found if SYSTEMS[name].packages]
    if others:
        try:
            python = str(interpreter())
        except EnvironmentFailed as failed:
            for name in others:
                del found[name]
                _skip(skipped, name, f"its environment could not be made: {failed}")
        else:
            found.update(dict.fromkeys(others, python))
    return found


def _skip(skipped: dict[str, str], name: str, why: str) -> None:
    skipped[name] = why
    print(report.skip_line(name, why), flush=True)


def _drive(python: str, name: str, seconds: float) -> report.Round:
    """Measure one system once, in a process with its library."""
    options = (f"--seconds={seconds}", f"--workers={_WORKERS}", f"--window={_WINDOW}")
    driver = subprocess.Popen(
        [python, "-m", "bench.clients.user_level.driver", name, *options],
        cwd=ROOT,
        # The system's processes run in another directory, and must be able to import the job too.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = driver.communicate(timeout=2 * seconds + 4 * STARTING_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed("it takes too long") from None
    finally:
        _end(driver)
    if driver.returncode:
        print(said, file=sys.stderr)
        raise Failed((said.strip().splitlines() or [f"its driver ended with status {driver.returncode}"])[-1])
    figures: report.Round = json.loads(printed.splitlines()[-1])
    return figures


def _end(driver: subprocess.Popen[str]) -> None:
    """End *driver* if it still runs: first with a signal that lets it stop its children, then with the whole group."""
    if driver.poll() is None:
        driver.terminate()
        with suppress(subprocess.TimeoutExpired):
            driver.communicate(timeout=STARTING_SECONDS)
    if driver.poll() is None:
        # Its process group has the same id.
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()


def _tell(rounds: dict[str, list[report.Round]], skipped: dict[str, str], arguments: argparse.Namespace) -> int:
    summaries = {name: report.summary(found) for name, found in rounds.items()}
    bars = report.bars(summaries)
    machine = _machine()
    where = f"{machine['cpu']}, {machine['cpus']} CPUs, Python {machine['python']}, {machine['redis'] or 'no Redis'}"
    print(f"\n{where}")
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)
    console.print(report.table(summaries, _WINDOW))
    for name in rounds:
        print(report.note(SYSTEMS[name]))
    print()
    for bar in bars:
        print(report.bar_line(bar))
    if arguments.markdown is not None:
        arguments.markdown.write_text(report.markdown(summaries, _WINDOW, where))
    if arguments.json is not None:
        told = {
            "machine": machine,
            "versions": {"gloom": version("gloom"), **versions()},
            "settings": {"workers": _WORKERS, "window": _WINDOW, "seconds": arguments.seconds},
            "systems": {
                name: {"keeps": SYSTEMS[name].keeps, "summary": summaries[name], "rounds": found}
                for name, found in rounds.items()
            },
            "skipped": skipped,
            "bars": bars,
        }
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if rounds else 1


def _machine() -> dict[str, Any]:
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    redis = shutil.which("redis-server")
    return {
        "system": platform.platform(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "redis": redis and " ".join(subprocess.check_output([redis, "--version"], text=True).split()[:3]),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    sys.exit(main())
