"""Prints CPU per job: a first driver."""

from __future__ import annotations

import argparse
import statistics

from bench.measure import SHAPES, Load, measure
from bench.systems import SYSTEMS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--shapes", default="ABC")
    parser.add_argument("--systems", default="relay,gloom,gearmand")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=30_000)
    parser.add_argument("--body", type=int, default=100)
    arguments = parser.parse_args()
    for shape in arguments.shapes:
        systems = [SYSTEMS[name] for name in arguments.systems.split(",")]
        found: dict[str, list] = {system.name: [] for system in systems}
        for _ in range(arguments.rounds):
            for system in systems:
                found[system.name].append(measure(system, Load(SHAPES[shape], arguments.jobs, arguments.body)))
        for name, measured in found.items():
            cpu = [m.cpu_us for m in measured]
            rate = statistics.median(m.jobs_per_second for m in measured)
            busy = statistics.median(m.load_cpu_seconds / m.seconds for m in measured)
            p50 = statistics.median(m.p50_us for m in measured)
            p99 = statistics.median(m.p99_us for m in measured)
            mib = max(m.peak_bytes for m in measured) / 2**20
            print(
                f"{shape} {name:12} {statistics.median(cpu):6.1f} ({min(cpu):.1f}-{max(cpu):.1f}) us/job "
                f"{rate:8,.0f}/s  p50 {p50:,.0f} p99 {p99:,.0f} us  load {busy:.0%}  {mib:.0f} MiB"
            )


if __name__ == "__main__":
    main()
