"""
The process of an attacker, or of a program that only takes processor time: ``python -m verify.reliability.attacker``.

For each line of JSON on standard input, the name of one of `verify.reliability.floods.FLOODS`
or ``spin``, and its arguments, it does that, and prints its text and the processor
time that it took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from verify.reliability.attacks import Target
from verify.reliability.figures import run_seconds
from verify.reliability.floods import FLOODS
from verify.reliability.nursery import environment


class Attacker:
    """The process, as its user sees it; use it as a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verify.reliability.attacker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )

    def attack(self, name: str, target: Target, seconds: float) -> tuple[str, float]:
        """
        Do the flood of that name.

        Returns:
            What it says, and how much processor time it took.

        Raises:
            OSError: It could not; its traceback is on standard error.
        """
        return self._ask([name, vars(target), seconds])

    def spin(self, share: float, seconds: float) -> tuple[str, float]:
        """Take so large a share of a processor for so long; returns as `attack`."""
        return self._ask(["spin", share, seconds])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()

    def _ask(self, question: list[Any]) -> tuple[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the attacker has ended while it did {question[0]}")
        text, seconds = json.loads(line)
        return text, seconds


def spin(share: float, seconds: float) -> str:
    """Take so large a share of a processor, and do nothing."""
    ending = time.monotonic() + seconds
    while (now := time.monotonic()) < ending:
        while time.monotonic() < now + 0.01 * share:
            pass
        time.sleep(0.01 * max(0.0, 1 - share))
    return f"took {share:.2f} of a processor"


def act(name: str, argument: Any, seconds: float) -> str:
    """Do what *name* says."""
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
