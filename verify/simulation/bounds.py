"""
Bounds of what must end: a loop in virtual time that goes on for ever takes real time only, and says nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Calls of timers, rounds of sending and looks at the time, all at one moment of virtual time: some 300 are usual.
MOST_AT_A_MOMENT = 10_000
#: Seconds of the processor for one epoch, with all that happens until its broker is gone: some thirty times the usual.
MOST_CPU_SECONDS = 120.0


class Endless(AssertionError):
    """Something that must end has gone on for too long."""


class Bound:
    """
    Counts the rounds of a loop.

    Args:
        what: The loop, for the text of the failure.
        most: How many rounds it may have.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = self._left = most

    def count(self) -> None:
        """
        Count a round.

        Raises:
            Endless: There were too many.
        """
        self._left -= 1
        if self._left < 0:
            raise Endless(f"{self._what} has gone on for {self._most} rounds")


class Watchdog:
    """
    Ends a loop within gloom itself, in which no virtual time passes and nothing of the simulation is called.

    The one real time that enters here: it decides nothing before it ends the run.
    """

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what happens meanwhile, from each `begin` on."""
        before = signal.signal(signal.SIGVTALRM, self._end)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def begin(self) -> None:
        """An epoch begins."""
        # Again and again after that: what is raised in a verb may be caught there, and logged.
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_SECONDS, 1.0)

    def _end(self, number: int, frame: object) -> None:
        raise Endless(f"one epoch has taken {MOST_CPU_SECONDS:g} s of the processor")
