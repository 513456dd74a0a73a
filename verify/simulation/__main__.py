"""``python -m verify.simulation``: run it, print a summary, and the command that repeats a failed run."""

from __future__ import annotations

import argparse
import random
import sys

from .bounds import Watchdog
from .world import RECOUNT_STEPS, SimulationFailed, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m verify.simulation", description="Simulate gloom from a seed.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="a random one when absent")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    try:
        watchdog = Watchdog()
        with watchdog.watching():
            figures = World(seed).run(options.steps, watchdog.begin)
    except SimulationFailed as failed:
        sys.stdout.write(f"{failed}\nonce more: python -m verify.simulation --steps {options.steps} --seed {seed}\n")
        return 1
    outcomes = ", ".join(f"{number} {kind}" for kind, number in sorted(figures.outcomes.items()))
    sys.stdout.write(
        f"{figures.steps} steps, everything recounted every {RECOUNT_STEPS}\n"
        f"{figures.jobs} jobs accepted; outcomes: {outcomes}\n"
        f"{figures.client_answers} Deferreds of the client library fired\n"
        f"{figures.drops} connections dropped, {figures.stalls} stalls, {figures.gaps} gaps, "
        f"{figures.restarts} crashes of the broker, {figures.drains} drains, {figures.alarms} alarms of its memory\n"
        f"dropped by the broker: {', '.join(f'{number} {kind}' for kind, number in sorted(figures.dropped.items()))}\n"
        f"{figures.virtual_seconds:.0f} virtual seconds in {figures.cpu_seconds:.1f} CPU seconds, "
        f"{figures.steps / figures.cpu_seconds:.0f} steps a second\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
