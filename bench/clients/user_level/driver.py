"""
Measures one system once, in the interpreter that has its library.

    python -m bench.clients.user_level.driver SYSTEM --seconds N --workers N --window N

Prints one line of JSON: the figures of one job at a time, and of a window in
flight. On failure it exits with status 1, and the reason on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import FrameType

from bench.clients.user_level.farm import Farm
from bench.clients.user_level.meter import Meter

# Long enough for workers that start one after the other, and for compiling and connecting at first use.
_WARM_SECONDS = 0.8
_CPUS = 2


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, exit_at)
    # Child processes inherit this: figures of larger machines stay comparable.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CPUS])
    with tempfile.TemporaryDirectory(prefix="gloom-bench-") as directory, Farm(Path(directory)) as farm:
        print(json.dumps(measure(farm, arguments.system, arguments.seconds, arguments.workers, arguments.window)))


def measure(farm: Farm, system: str, seconds: float, workers: int, window: int) -> dict[str, object]:
    """
    Start a system in *farm* and measure it.

    Args:
        farm: Owner of the system's processes; it ends them.
        system: Name of its ``on_`` module, with hyphens.
        seconds: Duration of each of the two measurements.
        workers: Number of worker processes.
        window: Number of jobs in flight in the second measurement.

    Returns:
        The figures of both: ``one`` and ``many``.
    """
    # The system's module contains the address, as in ordinary programs, and its workers import it too.
    os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{farm.redis_port}/0"
    module = import_module(f"bench.clients.user_level.on_{system.replace('-', '_')}")
    one, many = (Meter(_WARM_SECONDS, seconds, farm.cpu_seconds) for _ in range(2))
    module.start(farm, workers)
    module.measure(one, many, window)
    return {"one": one.figures, "many": many.figures}


def exit_at(number: int, _frame: FrameType | None) -> None:
    """Exit on a signal, so that the started processes are ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
