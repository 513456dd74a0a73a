"""
The part of the bench for CI: a check that the broker's cost of a job has not risen.

``python -m bench.check`` counts the broker's instructions for a job (`bench.instructions`)
and fails above a bound. The count is the same on fast and slow, quiet and busy machines.
A ratio of processor times is not: beside relay.c a job took 1.8 to 2.3 times the time
on one machine, and 2.8 to 4.1 times on another, where the interpreter weighs more.
"""

from __future__ import annotations

import sys

from bench.instructions import WINDOWS, CannotCount, instructions_per_job
from bench.machine import machine

# Jobs of each master at once -> the most instructions for a job: 6 % above the count of CPython 3.11.7 without PGO.
# Debian's 3.11.2 takes 6 % fewer; another version may need bounds of its own.
MOST = {1: 136_500, 16: 98_000}


def main() -> int:
    """Count, print a line for each load, return the exit status."""
    print("{processor}, Python {python}, {build}".format(**machine()))
    dear = False
    for window in WINDOWS:
        try:
            count = instructions_per_job(window)
        except CannotCount as error:
            print(f"cannot count: {error}", file=sys.stderr)
            return 1
        dear |= count > MOST[window]
        verdict = "too dear" if count > MOST[window] else "ok"
        print(f"{verdict}: {count:,} instructions a job, {window} at once (at most {MOST[window]:,})")
    return int(dear)


if __name__ == "__main__":
    sys.exit(main())
