"""
The time of Python's garbage collector, which no connection is to pay for.
"""

from __future__ import annotations

import time

# The collector's oldest generation, and with it everything.
_FULL = 2


class CollectorTime:
    """
    How long the garbage collector has run, in full collections: the others are short.

    A full collection falls to whoever happens to make an object just then, and is no fact about that connection.

    Attributes:
        seconds: Processor time of this thread.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """See `gc.callbacks`."""
        if info["generation"] == _FULL:
            now = time.thread_time()
            if phase == "start":
                self._begun = now
            else:
                self.seconds += now - self._begun


#: Counted from `gloom.host.malloc.let_be` on.
COLLECTOR = CollectorTime()
