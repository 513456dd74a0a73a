"""
Frames that stand half way, and the one timer that ends their connections: docs/operations.md, "Limits".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gloom.transport.turns import SLICE_SECONDS


class Stalling(Protocol):
    """A connection that may stand still."""

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*."""


def _at_once(judge: Callable[[], None], late_seconds: float) -> None:
    judge()


class StallWatch:
    """
    Drops connections whose frame stands still half way: one timer for all of them.

    Args:
        clock: Time.
        stall_seconds: How long a frame may stand still; and how long the first
            frame of a connection may take in all.
        after_reading: As `gloom.server.timer.Alarm.after_reading`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stall_seconds: float,
        after_reading: Callable[[Callable[[], None], float], None] = _at_once,
    ) -> None:
        self._clock = clock
        self._after_reading = after_reading
        self._stall_seconds = stall_seconds
        self._watched: dict[Stalling, float] = {}
        self._timer: IDelayedCall | None = None

    def begin(self, protocol: Stalling, *, again: bool) -> None:
        """Watch *protocol* from now on; one that is watched keeps its time unless *again*."""
        if again or protocol not in self._watched:
            self._watched[protocol] = self._clock.seconds()
        self._begin_timer(self._stall_seconds / 4)

    def end(self, protocol: Stalling) -> None:
        """*protocol* has no frame half way any more."""
        self._watched.pop(protocol, None)

    def stop(self) -> None:
        """Watch nothing more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        due = self._clock.seconds() if self._timer is None else self._timer.getTime()
        self._timer = None
        self._after_reading(self._judge, self._clock.seconds() - due)

    def _judge(self) -> None:
        begun = self._clock.seconds()
        before = begun - self._stall_seconds
        for protocol in [protocol for protocol, since in self._watched.items() if since <= before]:
            if self._clock.seconds() - begun > SLICE_SECONDS:
                # Thousands may be due at once: other connections are served in between.
                self._begin_timer(0.0)
                return
            del self._watched[protocol]
            protocol.drop_because(f"a frame stood half way for {self._stall_seconds:g} s")
        if self._watched:
            self._begin_timer(self._stall_seconds / 4)

    def _begin_timer(self, delay_seconds: float) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(delay_seconds, self._look)
