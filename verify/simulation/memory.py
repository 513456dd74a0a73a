"""The memory of the broker's process, as `gloom.host.memoryalarm` measures it, and what the alarm must make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gloom.host.memoryalarm import RESIDENT, Bound, MemoryAlarm

from .clock import Clock

#: The limit: so small that the jobs and types here count.
MOST_BYTES = 640_000
# When less than the first part is free, jobs are refused; until the second part is free again.
_LOW_BYTES, _ENOUGH_BYTES = MOST_BYTES // 64, MOST_BYTES // 16
#: What may be free: nothing; enough to go on as before, whether jobs are refused or not; enough for all.
LEVELS = (0, MOST_BYTES // 32, MOST_BYTES)


class Memory:
    """
    What is free, and whether jobs must be refused for it.

    Attributes:
        free_bytes: Now.
        is_full: Whether it was too little when it was last measured.
        alarms: How often that began.
    """

    def __init__(self) -> None:
        self.free_bytes = MOST_BYTES
        self.is_full = False
        self.alarms = 0
        self._broker: Any = None

    def alarm_for(self, broker: Any, clock: Clock) -> MemoryAlarm:
        """Return the alarm of a new *broker*, which measures this."""
        self._broker, self.is_full = broker, False
        bound = Bound("the simulation", MOST_BYTES, RESIDENT)
        return MemoryAlarm(clock, broker, [bound], lambda: None, self._measured, lambda: 0)

    def _measured(self) -> Sequence[int]:
        was_full = self.is_full
        enough = _ENOUGH_BYTES if was_full else _LOW_BYTES
        # Where jobs take next to nothing, refusing more of them would free nothing.
        self.is_full = self.free_bytes < enough and self._broker.used_bytes > _LOW_BYTES
        self.alarms += self.is_full and not was_full
        return [0, MOST_BYTES - self.free_bytes]
