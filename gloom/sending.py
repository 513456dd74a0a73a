"""
The sending half of a connection: when bytes leave, and how many may wait.

All that one reactor turn says to one peer leaves in one ``send``, tried on the
socket itself (docs/decisions/0003-sending-at-once.md). What a peer does not
read waits here, counted: from a mark on nothing more is read from that peer,
and at a bound it is dropped (docs/operations.md, "Limits").
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

from twisted.internet.interfaces import (
    IConsumer,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
)
from zope.interface import implementer

_pack_length = Struct("!I").pack
_Send = Callable[["bytes | memoryview"], int]
#: A frame over this goes to the socket as it is, where smaller ones are joined.
LARGE_BYTES = 256 * 1024

#: The header alone can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1


def to_frame(payload: bytes) -> bytes:
    """Return *payload* behind its length."""
    return _pack_length(len(payload)) + payload


class FlushTurn:
    """
    The connections that have something to send, flushed together.

    As a context it flushes at its end, and before it those that are urgent, when
    asked to; outside of one, when the reactor has done the events of this turn.

    Args:
        clock: Where the flush is scheduled.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[FrameSender] = []
        self._is_entered = False

    def add(self, sender: FrameSender) -> None:
        """Have *sender* flushed at the end of this turn."""
        if not self._waiting and not self._is_entered:
            self._clock.callLater(0, self.flush)
        self._waiting.append(sender)

    def __enter__(self) -> None:
        self._is_entered = True

    def __exit__(self, *_: object) -> None:
        self._is_entered = False
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        """Send what every waiting connection has buffered."""
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            sender.flush()

    def flush_urgent(self) -> None:
        """Send what cannot wait."""
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
            if sender.can_wait():
                self._waiting.append(sender)
            else:
                sender.flush()


@implementer(IPullProducer)
class _WhenDrained:
    """Learns from a transport that sends by itself only now and then that its buffer is empty."""

    def __init__(self, drained: Callable[[], None]) -> None:
        self._drained = drained
        self._registered = False

    def resumeProducing(self) -> None:
        # The transport calls once on registration, and then whenever its buffer is empty.
        if self._registered:
            self._drained()
        self._registered = True

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost tells."""


@implementer(IPushProducer)
class _WhenFull:
    """Learns from a transport that sends everything (TLS) that its buffer is full, and empty again."""

    def __init__(self, full: Callable[[], None], drained: Callable[[], None]) -> None:
        self.pauseProducing = full
        self.resumeProducing = drained

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost tells."""


class FrameSender:
    """
    Sends frames over ``self.transport``; a part of `gloom.framing.FrameProtocol`.

    Args:
        flushes: Where this connection asks to be flushed.
        pause_unread_bytes: From how many waiting bytes on nothing is read from the peer.
        max_unread_bytes: How many may wait, before the peer is dropped.

    Attributes:
        lost: Whether the connection has ended.
    """

    # With slots, here and in what is built on this: an object with more than 30
    # attributes in a dict has the slow kind of dict, and a tenth of a job's time went there.
    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_blocked",
        "_flushes",
        "_has_large_output",
        "_max_unread_bytes",
        "_output",
        "_output_ended",
        "_pause_unread_bytes",
        "_rest",
        "_send_now",
        "_socket_send",
        "_throttled",
        "lost",
    )

    transport: Any

    def __init__(self, flushes: FlushTurn, pause_unread_bytes: float, max_unread_bytes: float) -> None:
        self.lost = False
        self._flushes = flushes
        self._pause_unread_bytes = pause_unread_bytes
        self._max_unread_bytes = max_unread_bytes
        self._output: list[bytes] = []
        self._output_ended = False
        self._has_large_output = False
        self._socket_send: _Send | None = None
        # As above while all that was said is sent; None when something waits, and over TLS.
        self._send_now: _Send | None = None
        # While the transport has bytes to send: what comes next, and what was said meanwhile.
        self._blocked = False
        self._rest: deque[bytes | memoryview] = deque()
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._throttled = False

    # What a subclass does

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*."""
        raise NotImplementedError

    def pauseProducing(self) -> None:
        """Read no more from the peer for now."""
        raise NotImplementedError

    def resumeProducing(self) -> None:
        """Read from the peer again."""
        raise NotImplementedError

    def can_wait(self) -> bool:
        """Return whether what is buffered may wait for what other peers say next."""
        return False

    # Sending

    def start_sending(self) -> None:
        """Look at the transport, which is new."""
        transport = self.transport
        handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
        if isinstance(handle, socket.socket):
            self._socket_send = self._send_now = handle.send
        elif IConsumer.providedBy(transport):
            # TLS, whose handle is OpenSSL's: there the transport sends everything.
            transport.registerProducer(_WhenFull(self._full, self._drained), True)

    def send_frame(self, frame: bytes) -> None:
        """Send *frame*, which is framed already, at the end of this reactor turn."""
        output = self._output
        if not output:
            self._flushes.add(self)
        output.append(frame)

    def flush(self) -> None:
        """Send what is buffered: at once where the socket takes it, else when the peer has read."""
        output = self._output
        self._output = []
        send = self._send_now
        if send is None or self._has_large_output or not output:
            self._flush_slowly(output)
            return
        data = output[0] if len(output) == 1 else b"".join(output)
        try:
            sent = send(data)
        except OSError:
            # Full, or broken: then the transport meets the same error and reports it.
            sent = 0
        if sent < len(data):
            self._rest.append(memoryview(data)[sent:])
            self._wait()

    def _flush_slowly(self, output: list[bytes]) -> None:
        self._has_large_output = False
        if self._output_ended or not output:
            return
        if self._blocked:
            self._hold(output)
        elif self._socket_send is None:
            self.transport.write(b"".join(output))
        else:
            # Without a join: a copy of a large frame costs more than a system call.
            self._rest.extend(output)
            self._send_rest(self._socket_send)

    def _send_rest(self, send: _Send) -> None:
        """Send what waits, as far as the socket takes it."""
        rest = self._rest
        while rest:
            piece = rest.popleft()
            try:
                sent = send(piece)
            except OSError:
                sent = 0
            if sent < len(piece):
                rest.appendleft(memoryview(piece)[sent:])
                self._wait()
                return
            if not rest:
                # Not before: what waits in the backlog is counted.
                rest.extend(self._take_backlog())
        self._stop_waiting(send)

    def _wait(self) -> None:
        """Have the transport send the next bytes, and tell when the socket has taken them."""
        piece = memoryview(self._rest.popleft())
        if len(piece) > LARGE_BYTES:
            self._rest.appendleft(piece[LARGE_BYTES:])
        self._send_now = None
        self.transport.write(bytes(piece[:LARGE_BYTES]))
        if not self._blocked:
            self._blocked = True
            self.transport.registerProducer(_WhenDrained(self._drained), False)

    def _stop_waiting(self, send: _Send) -> None:
        self._send_now = send
        if self._blocked:
            self._blocked = False
            self.transport.unregisterProducer()

    def _hold(self, output: list[bytes]) -> None:
        self._backlog += output
        self._backlog_bytes += sum(map(len, output))
        if self._backlog_bytes > self._max_unread_bytes:
            self.drop_because(f"it does not read: {self._backlog_bytes} bytes wait for it (--max-unread-bytes)")
        elif self._backlog_bytes > self._pause_unread_bytes and not self._throttled:
            self._throttled = True
            self.pauseProducing()

    def _full(self) -> None:
        self._blocked = True

    def _drained(self) -> None:
        """The transport has sent all that it had."""
        if self._socket_send is None:
            self._blocked = False
            self._output = self._take_backlog() + self._output
            self.flush()
        else:
            if not self._rest:
                self._rest.extend(self._take_backlog())
            self._send_rest(self._socket_send)
        if self._throttled and not self._blocked:
            self._throttled = False
            self.resumeProducing()

    def _take_backlog(self) -> list[bytes]:
        backlog, self._backlog = self._backlog, []
        self._backlog_bytes = 0
        return backlog

    def finish_sending(self) -> None:
        """Give the transport everything, so that it can end the connection when all is sent."""
        if self._output:
            self.flush()
        # This was the last word: what is still said to this peer is dropped.
        self._end_output()
        waiting = [*self._rest, *self._take_backlog()]
        self._rest.clear()
        if waiting:
            self.transport.write(b"".join(waiting))
        if IConsumer.providedBy(self.transport):
            # While it has a producer, a transport does not close.
            self.transport.unregisterProducer()

    def stop_sending(self) -> None:
        """The connection has ended: keep nothing."""
        self.lost = True
        self._end_output()
        self._output = []
        self._rest.clear()
        self._take_backlog()

    def _end_output(self) -> None:
        self._output_ended = True
        self._send_now = None
