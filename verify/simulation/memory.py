"""The memory of the broker's process, as `gloom.host.memoryalarm` measures it, and the expected state of the alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gloom.host.memoryalarm import RESIDENT, Bound, MemoryAlarm

from .clock import Clock

#: The limit: low enough for the jobs and types here to matter.
MOST_BYTES = 640_000
# Jobs are refused below the first free part, until the second free part is available again.
_LOW_BYTES, _ENOUGH_BYTES = MOST_BYTES // 64, MOST_BYTES // 16
#: Amounts of free memory: none; between the thresholds, where the state does not change; plenty.
LEVELS = (0, MOST_BYTES // 32, MOST_BYTES)


class Memory:
    """
    The free memory, and whether the broker must refuse jobs because of it.

    Attributes:
        free_bytes: Free memory now.
        is_full: Whether the last measurement found too little.
        alarms: Number of alarms so far.
    """

    def __init__(self) -> None:
        self.free_bytes = MOST_BYTES
        self.is_full = False
        self.alarms = 0
        self._broker: Any = None

    def alarm_for(self, broker: Any, clock: Clock) -> MemoryAlarm:
        """Return the alarm of a new *broker*, which measures this memory."""
        self._broker, self.is_full = broker, False
        bound = Bound("the simulation", MOST_BYTES, RESIDENT)
        return MemoryAlarm(clock, broker, [bound], lambda: None, self._measured, lambda: 0)

    def _measured(self) -> Sequence[int]:
        was_full = self.is_full
        enough = _ENOUGH_BYTES if was_full else _LOW_BYTES
        # Where jobs use almost no memory, refusing them would free none.
        self.is_full = self.free_bytes < enough and self._broker.used_bytes > _LOW_BYTES
        self.alarms += self.is_full and not was_full
        return [0, MOST_BYTES - self.free_bytes]
