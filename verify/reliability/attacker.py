"""
The process of an attacker, or of a CPU hog: ``python -m verify.reliability.attacker``.

Each line on standard input is JSON: the name of one of `verify.reliability.floods.FLOODS`,
or ``spin``, and its arguments. The process runs it, then prints the resulting text and the
CPU time used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from verify.reliability.attacks import Target
from verify.reliability.figures import run_seconds
from verify.reliability.floods import FLOODS
from verify.reliability.nursery import AskedProcess


class Attacker(AskedProcess):
    """Parent-side handle of the process; use it as a context manager."""

    def __init__(self) -> None:
        super().__init__("verify.reliability.attacker")

    def attack(self, name: str, target: Target, seconds: float) -> tuple[str, float]:
        """
        Run the flood of that name.

        Returns:
            The flood's summary, and the CPU time it used.

        Raises:
            OSError: The flood failed; its traceback is on standard error.
        """
        return self._act([name, vars(target), seconds])

    def spin(self, share: float, seconds: float) -> tuple[str, float]:
        """Use this share of a processor for so many seconds; returns as `attack`."""
        return self._act(["spin", share, seconds])

    def _act(self, question: list[Any]) -> tuple[str, float]:
        text, seconds = json.loads(self._ask(json.dumps(question)))
        return text, seconds


def spin(share: float, seconds: float) -> str:
    """Use this share of a processor, and do nothing else."""
    ending = time.monotonic() + seconds
    while (now := time.monotonic()) < ending:
        while time.monotonic() < now + 0.01 * share:
            pass
        time.sleep(0.01 * max(0.0, 1 - share))
    return f"took {share:.2f} of a processor"


def act(name: str, argument: Any, seconds: float) -> str:
    """Run the action called *name*."""
    if name == "spin":
        return spin(argument, seconds)
    (flood,) = (one for one in FLOODS if one.name == name)
    return flood.act(Target(**argument), seconds)


def main() -> None:
    while line := sys.stdin.readline():
        begun = run_seconds(os.getpid())
        text = act(*json.loads(line))
        sys.stdout.write(json.dumps([text, run_seconds(os.getpid()) - begun]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
