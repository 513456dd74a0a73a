"""
The broker's timer: a single delayed call on a Twisted clock.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """
    Calls `ring` at the earliest of the times that were set.

    Args:
        clock: Schedules the call.

    Attributes:
        ring: Called with the present time; returns the next time, or None.
        after_reading: Takes a function and the delay of the alarm in seconds; calls the
            function once the input that has already arrived is read, perhaps at once.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.ring: Callable[[float], float | None] = lambda now: None
        self.after_reading: Callable[[Callable[[], None], float], None] = lambda call, late_seconds: call()
        self._clock = clock
        self._call: IDelayedCall | None = None
        # True between the due time and `ring`, while the sockets are read; `ring` then returns the next time.
        self._is_due = False

    def set(self, when: float) -> None:
        """Ring no later than *when*, in seconds of the clock."""
        if self._is_due:
            return
        if self._call is not None:
            if self._call.getTime() <= when:
                return
            self._call.cancel()
        self._call = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._due)

    def stop(self) -> None:
        """Cancel the alarm."""
        self._is_due = False
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _due(self) -> None:
        due = self._call
        self._call = None
        self._is_due = True
        late_seconds = 0.0 if due is None else self._clock.seconds() - due.getTime()
        self.after_reading(self._ring, late_seconds)

    def _ring(self) -> None:
        if not self._is_due:  # it was stopped
            return
        self._is_due = False
        following = self.ring(self._clock.seconds())
        if following is not None:
            self.set(following)
