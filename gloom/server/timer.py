"""
The broker's one timer on a Twisted clock.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """
    Rings at the earliest moment that it was set to.

    Args:
        clock: Time, and the timer.

    Attributes:
        ring: Called with the time when it rings; returns the next moment, or None.
        after_reading: Takes a function and the alarm's delay, and calls the function once
            the input that has arrived is read, and perhaps at once.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.ring: Callable[[float], float | None] = lambda now: None
        self.after_reading: Callable[[Callable[[], None], float], None] = lambda call, late_seconds: call()
        self._clock = clock
        self._call: IDelayedCall | None = None
        # Whether it is due, and waits until the sockets have been read; ringing says when to ring next.
        self._is_due = False

    def set(self, when: float) -> None:
        """Ring at *when*, in seconds of the clock, or before."""
        if self._is_due:
            return
        if self._call is not None:
            if self._call.getTime() <= when:
                return
            self._call.cancel()
        self._call = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._due)

    def stop(self) -> None:
        """Ring no more."""
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
