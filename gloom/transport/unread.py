"""
The bytes that wait for peers that do not read: how many, and for how long.

Implements docs/protocol.md, section 1.7, "A peer that does not read". A peer
is judged by its progress: how much it has taken lately, not how much waits for
it (docs/decisions/0017-judged-by-progress.md). `gloom.transport.sending` counts, this
module decides; `gloom.transport.framing` closes.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

try:
    from fcntl import ioctl
    from termios import FIONREAD, TIOCOUTQ
except ImportError:  # pragma: no cover (not a Unix system)
    ioctl = None  # type: ignore[assignment]

# Checks in the time in which a peer has to take something.
_LOOKS = 4
# Assumed speed of a peer before its first window.
_FIRST_SECONDS = 1.0
_FIRST_BYTES = 1 << 20
# When peers are dropped to make room, this share of the limit is freed beyond the need,
# at the cost of peers that need more than _SLOW_SECONDS for their bytes.
_ROOM_SHARE = 8
_SLOW_SECONDS = 60.0


def unacknowledged_bytes(handle: socket.socket | None) -> int:
    """Return how many bytes the system holds that the other end has not acknowledged; 0 where it does not say."""
    return 0 if ioctl is None else _ask_socket(handle, TIOCOUTQ)


def unread_input_bytes(handle: socket.socket | None) -> int:
    """Return how many bytes have arrived and were not read; 0 where the system does not say."""
    return 0 if ioctl is None else _ask_socket(handle, FIONREAD)


def _ask_socket(handle: socket.socket | None, request: int) -> int:
    if handle is None or handle.fileno() < 0:
        return 0
    answer = array.array("i", [0])
    try:
        ioctl(handle, request, answer)
    except OSError:
        return 0
    return answer[0]


class UnreadPeer(Protocol):
    """
    A connection as `UnreadWatch` sees it.

    Attributes:
        waiting_bytes: How many bytes wait for the peer, beyond the system's buffers.
    """

    waiting_bytes: int

    @property
    def has_one_piece(self) -> bool:
        """Whether all that waits is at most one frame."""

    def taken_bytes(self) -> int:
        """Return a count that grows by each byte that the peer takes while some wait."""

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*."""


class _Window:
    """
    How much one peer has taken lately: the window that is open, and the one before it.

    Attributes:
        over_since: Since when too much waits without progress; None while not too much waits.
    """

    __slots__ = ("before_bytes", "before_seconds", "over_since", "since", "taken")

    def __init__(self, now: float, taken: int) -> None:
        self.since = now
        self.taken = taken
        self.before_seconds = _FIRST_SECONDS
        self.before_bytes = _FIRST_BYTES
        self.over_since: float | None = None

    def close(self, now: float, taken: int) -> None:
        """Begin the next window."""
        self.before_seconds, self.before_bytes = now - self.since, taken - self.taken
        self.since, self.taken = now, taken

    def forgive(self, seconds: float, now: float) -> None:
        """Count *seconds* of the time before *now* as if they had not been."""
        self.since = min(self.since + seconds, now)
        if self.over_since is not None:
            self.over_since = min(self.over_since + seconds, now)

    def seconds_to_take(self, count: int, now: float, taken: int) -> float:
        """Return how long the peer needs for *count* bytes, at the speed of the two windows."""
        seconds = now - self.since + self.before_seconds
        return count * seconds / max(taken - self.taken + self.before_bytes, 1)


def _at_once(judge: Callable[[], None], late_seconds: float) -> None:
    judge()


class UnreadWatch:
    """
    Drops connections when their peers do not take the bytes that wait for them.

    Only the time in which this process runs counts against a peer: after a pause
    (SIGSTOP, a suspended VM) nothing was sent that it could have taken.

    Args:
        clock: Time, and one timer for all connections.
        max_bytes: How many may wait for one peer that makes no progress.
        max_total_bytes: How many may wait for all peers together.
        seconds: How long a peer over the first bound may make no progress.
        least_bytes: How much a peer must take in that time for it to count as progress.
        after_reading: As `gloom.server.timer.Alarm.after_reading`.

    Attributes:
        bytes: How many wait for all peers together.
    """

    def __init__(
        self,
        clock: IReactorTime,
        max_bytes: int,
        max_total_bytes: int,
        seconds: float,
        least_bytes: int,
        after_reading: Callable[[Callable[[], None], float], None] = _at_once,
    ) -> None:
        self.bytes = 0
        self._after_reading = after_reading
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._seconds = seconds
        self._least_bytes = least_bytes
        self._windows: dict[UnreadPeer, _Window] = {}
        self._timer: IDelayedCall | None = None

    def begin(self, peer: UnreadPeer) -> None:
        """Bytes begin to wait for *peer*: count all that do."""
        self._windows[peer] = _Window(self._clock.seconds(), peer.taken_bytes())
        if self._timer is None:
            self._set_timer()
        self.add(peer.waiting_bytes)

    def add(self, count: int) -> None:
        """*count* bytes more wait; this may drop connections."""
        self.bytes += count
        if self.bytes > self._max_total_bytes:
            self._make_room()

    def took(self, count: int) -> None:
        """A peer has taken *count* of the bytes."""
        self.bytes -= count

    def end(self, peer: UnreadPeer) -> None:
        """No bytes wait for *peer* any more, or it has gone: count none of its bytes."""
        if self._windows.pop(peer, None) is not None:
            self.bytes -= peer.waiting_bytes

    def stop(self) -> None:
        """Leave no timer behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = self._clock.callLater(self._seconds / _LOOKS, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        late_seconds = 0.0 if self._timer is None else now - self._timer.getTime()
        self._timer = None
        for window in self._windows.values():
            window.forgive(late_seconds, now)
        self._after_reading(self._judge, late_seconds)

    def _judge(self) -> None:
        now = self._clock.seconds()
        for peer, window in list(self._windows.items()):
            if peer in self._windows and self._is_stuck(peer, window, now):
                peer.drop_because(f"it does not read: {peer.waiting_bytes} bytes wait for it (--max-unread-bytes)")
        if self._windows and self._timer is None:
            self._set_timer()

    def _is_stuck(self, peer: UnreadPeer, window: _Window, now: float) -> bool:
        """Return whether *peer* has had too much waiting, without progress, for too long."""
        taken = peer.taken_bytes()
        has_progress = taken - window.taken >= self._least_bytes
        if has_progress:
            window.over_since = None
        if has_progress or now - window.since >= self._seconds:
            window.close(now, taken)
        if peer.waiting_bytes <= self._max_bytes or peer.has_one_piece:
            window.over_since = None
        elif window.over_since is None:
            window.over_since = now
        return window.over_since is not None and now - window.over_since >= self._seconds

    def _make_room(self) -> None:
        """Drop the peers with many waiting bytes and a low speed, until the rest fits."""
        now, low = self._clock.seconds(), self._max_total_bytes * (_ROOM_SHARE - 1) // _ROOM_SHARE
        slowest = [(self._seconds_to_take(peer, now), peer) for peer in self._windows]
        slowest.sort(key=lambda one: one[0] * one[1].waiting_bytes, reverse=True)
        for seconds, peer in slowest:
            # One pass: a new choice among all peers after each drop would be slow.
            if self.bytes <= (low if seconds > _SLOW_SECONDS else self._max_total_bytes):
                return
            if len(self._windows) == 1 and peer.has_one_piece:
                return
            peer.drop_because(
                f"it reads slowest: {peer.waiting_bytes} of {self.bytes} bytes that wait for all peers are its "
                "(--max-total-unread-bytes)"
            )

    def _seconds_to_take(self, peer: UnreadPeer, now: float) -> float:
        return self._windows[peer].seconds_to_take(peer.waiting_bytes, now, peer.taken_bytes())
