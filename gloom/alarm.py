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
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.ring: Callable[[float], float | None] = lambda now: None
        self._clock = clock
        self._call: IDelayedCall | None = None

    def set(self, when: float) -> None:
        """Ring at *when*, in seconds of the clock, or before."""
        if self._call is not None:
            if self._call.getTime() <= when:
                return
            self._call.cancel()
        self._call = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._due)

    def stop(self) -> None:
        """Ring no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _due(self) -> None:
        self._call = None
        following = self.ring(self._clock.seconds())
        if following is not None:
            self.set(following)
