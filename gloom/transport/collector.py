"""
The time of Python's garbage collector, which counts against no connection's share.
"""

from __future__ import annotations

import gc
import time

# The collector's oldest generation, and with it everything.
_FULL = 2


class CollectorTime:
    """
    The processor time of full garbage collections; the others are short.

    A full collection runs in the turn of the connection that made the last object, whichever that is.

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


#: It stays zero where the process does not count (`count_collections`).
COLLECTOR = CollectorTime()


def count_collections() -> None:
    """Count the time of full collections from now on; for a process that is the daemon's own."""
    gc.callbacks.append(COLLECTOR)
