"""
Bounds on loops that must end: an endless loop in virtual time would hang the run without a message.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Calls of timers, send rounds and clock reads at one moment of virtual time: about 300 are usual.
MOST_AT_A_MOMENT = 10_000
#: Processor seconds for one epoch, until its broker is gone: about thirty times the usual.
MOST_CPU_SECONDS = 120.0


class Endless(AssertionError):
    """A bounded loop has run too long."""


class Bound:
    """
    Counts the rounds of a loop.

    Args:
        what: Name of the loop, for the failure text.
        most: The allowed number of rounds.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = self._left = most

    def count(self) -> None:
        """
        Count a round.

        Raises:
            Endless: The loop exceeded its bound.
        """
        self._left -= 1
        if self._left < 0:
            raise Endless(f"{self._what} has gone on for {self._most} rounds")


class Watchdog:
    """
    Ends a loop within gloom itself, in which virtual time stands still and no code of the simulation runs.

    It is the only use of real time here, and it affects a run only by ending it.
    """

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch each epoch from its `begin` on, within this context."""
        before = signal.signal(signal.SIGVTALRM, self._end)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def begin(self) -> None:
        """Start an epoch."""
        # The signal repeats: gloom may catch and log an exception raised within a verb.
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU_SECONDS, 1.0)

    def _end(self, number: int, frame: object) -> None:
        raise Endless(f"one epoch has taken {MOST_CPU_SECONDS:g} s of the processor")
