"""
Heartbeats: docs/protocol.md, section 4.2.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

# How often the broker looks for signs of life, in one heartbeat, while it does not read from the peer.
_PAUSED_LOOKS = 4


class Living(Protocol):
    """A connection with a heartbeat."""

    @property
    def paused(self) -> bool:
        """Whether nothing is read, because the peer does not read."""

    @property
    def waits(self) -> bool:
        """Whether the connection waits for its turn."""

    def has_unread_input(self) -> bool:
        """Return whether the peer has sent something that was not read."""

    def signs_of_life(self) -> tuple[int, int]:
        """Return two counts, one of which changes when the peer takes or sends bytes."""

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*."""


class Heartbeat:
    """
    The timer that drops a silent peer.

    Args:
        connection: The peer's connection; it sets `heard_seconds`, and calls `pause` and `stop`.
        clock: Time.
        heartbeat_seconds: How long the peer may be silent, over 0.

    Attributes:
        heard_seconds: When the peer was heard last.
        heartbeat_seconds: As above.
    """

    __slots__ = ("_clock", "_connection", "_life", "_timer", "heard_seconds", "heartbeat_seconds")

    def __init__(self, connection: Living, clock: IReactorTime, heartbeat_seconds: float) -> None:
        self._connection = connection
        self._clock = clock
        self.heartbeat_seconds = heartbeat_seconds
        self._life = (0, 0)
        self._timer: IDelayedCall | None = None
        self._await_life()

    def pause(self) -> None:
        """Nothing is read from the peer now: look for other signs of life."""
        self._life = self._connection.signs_of_life()
        self._look_after(self.heartbeat_seconds / _PAUSED_LOOKS)

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_life(self) -> None:
        self.heard_seconds = self._clock.seconds()
        self._look_after(self.heartbeat_seconds)

    def _look_after(self, seconds: float) -> None:
        self.stop()
        self._timer = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        connection, now = self._connection, self._clock.seconds()
        if connection.paused:
            self._look_for_life(now)
        left = self.heard_seconds + self.heartbeat_seconds - now
        if left > 0:
            self._look_after(min(left, self.heartbeat_seconds / _PAUSED_LOOKS) if connection.paused else left)
        elif connection.waits or (not connection.paused and connection.has_unread_input()):
            # The broker has not read its input in time: after a pause of the process, or under load.
            self._await_life()
        else:
            connection.drop_because(f"it was silent for {self.heartbeat_seconds:g} s, its heartbeat")

    def _look_for_life(self, now: float) -> None:
        """The peer lives if it takes bytes, or has sent bytes that are not read yet."""
        life = self._connection.signs_of_life()
        if life != self._life:
            self._life, self.heard_seconds = life, now
