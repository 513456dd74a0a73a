"""
Heartbeats: docs/protocol.md, section 4.2.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from gloom.server.surroundings import Surroundings
from gloom.transport.framing import FrameProtocol
from gloom.transport.sending import FlushTurn

# How often the broker looks for signs of life, in one heartbeat, while it does not read from the peer.
_PAUSED_LOOKS = 4


class HeartbeatProtocol(FrameProtocol):
    """
    A connection of the broker, with one timer: it drops a peer that is silent for its heartbeat.

    Args:
        around: The state that all connections share.
        flushes: Schedules the flushes of this connection.
    """

    __slots__ = ("_around", "_deadline", "_heard_seconds", "_heartbeat_seconds", "_life", "_seconds", "_settings")

    def __init__(self, around: Surroundings, flushes: FlushTurn) -> None:
        settings = around.settings
        super().__init__(
            settings.max_frame_bytes,
            flushes,
            around.clock,
            settings.linger_seconds,
            pause_unread_bytes=settings.pause_unread_bytes,
            unread=around.unread,
            stalls=around.stalls,
            poll=around.poll,
            turns=around.turns,
        )
        self._around = around
        self._settings = settings
        self._seconds = around.clock.seconds
        self._heard_seconds = 0.0
        self._heartbeat_seconds = 0.0
        self._life = (0, 0)
        self._deadline: IDelayedCall | None = None

    def begin_heartbeat(self, heartbeat_seconds: float) -> None:
        """Drop the peer when it is silent for *heartbeat_seconds* from now on; 0 for never."""
        self._heartbeat_seconds = heartbeat_seconds
        self.counts_life = heartbeat_seconds > 0
        self._await_life()

    def alive(self) -> None:
        self._heard_seconds = self._seconds()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        self._set_deadline(None)

    def _await_life(self) -> None:
        if self._heartbeat_seconds:
            self._heard_seconds = self._seconds()
            self._set_deadline(self._clock.callLater(self._heartbeat_seconds, self._heartbeat_due))

    def _heartbeat_due(self) -> None:
        self._deadline = None
        now = self._seconds()
        if self.paused:
            self._look_for_life(now)
        left = self._heard_seconds + self._heartbeat_seconds - now
        if left > 0:
            wait = min(left, self._heartbeat_seconds / _PAUSED_LOOKS) if self.paused else left
            self._set_deadline(self._clock.callLater(wait, self._heartbeat_due))
        elif self._waits or (not self.paused and self.has_unread_input()):
            # The broker has not read its input in time: after a pause of the process, or under load.
            self._await_life()
        else:
            self.drop_because(f"it was silent for {self._heartbeat_seconds:g} s, its heartbeat")

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._heartbeat_seconds:
            self._life = self.signs_of_life()
            self._set_deadline(self._clock.callLater(self._heartbeat_seconds / _PAUSED_LOOKS, self._heartbeat_due))

    def _look_for_life(self, now: float) -> None:
        """Nothing is read from this peer now: it lives if it takes bytes, or has sent some that wait to be read."""
        life = self.signs_of_life()
        if life != self._life:
            self._life, self._heard_seconds = life, now

    def _set_deadline(self, deadline: IDelayedCall | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = deadline
