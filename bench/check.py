"""
The part of the bench for CI: has a job become dearer?

``python -m bench.check`` compares the CPU of the broker for a job with that of
relay.c, both in turn, in shapes A and C. A ratio of one run says the same on
fast and slow, quiet and busy machines; a time does not. It needs cc, and takes
about 20 seconds.
"""

from __future__ import annotations

import statistics
import sys

from bench.wire.measure import SHAPES, Load, LoadFailed, measure
from bench.wire.programs import CannotCompile
from bench.wire.systems import SYSTEMS, CannotStart

# The most that a job may cost, as a multiple of the relay's: 1.8 to 2.3 were measured, on a busy machine too.
MARGIN = {"A": 3.0, "C": 3.0}
ROUNDS = 8
JOBS = 15_000


def ratio(shape: str) -> float:
    """Return the median of the rounds' ratios in *shape*."""
    load = Load(SHAPES[shape], JOBS)
    return statistics.median(
        measure(SYSTEMS["gloom"], load).cpu_us / measure(SYSTEMS["relay"], load).cpu_us for _ in range(ROUNDS)
    )


def main() -> int:
    """Compare, print one line, return the exit status."""
    try:
        ratios = {shape: ratio(shape) for shape in MARGIN}
    except (CannotCompile, CannotStart, LoadFailed) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 1
    over = [shape for shape, found in ratios.items() if found > MARGIN[shape]]
    found = ", ".join(f"{shape} {ratios[shape]:.2f} (at most {MARGIN[shape]:.2f})" for shape in MARGIN)
    print(f"{'too dear' if over else 'ok'}: broker CPU for a job as a multiple of the C relay's: {found}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
