"""
The sending half of a connection: when bytes leave, and how many may wait.

All that one reactor turn says to one peer leaves in one ``send``, tried on the
socket itself (docs/decisions/0003-sending-at-once.md). What a peer does not
read waits here, counted: from a mark on nothing more is read from that peer,
and at a bound it is dropped (docs/operations.md, "Limits").
"""

from __future__ import annotations

import socket
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

#: The header alone can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1


def to_frame(payload: bytes) -> bytes:
    """Return *payload* behind its length."""
    return _pack_length(len(payload)) + payload


class FlushTurn:
    """
    The connections that have something to send, flushed together.

    Args:
        clock: Where the flush is scheduled: after the events of this turn.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[FrameSender] = []

    def add(self, sender: FrameSender) -> None:
        """Have *sender* flushed at the end of this turn."""
        if not self._waiting:
            self._clock.callLater(0, self.flush)
        self._waiting.append(sender)

    def flush(self) -> None:
        """Send what every waiting connection has buffered."""
        waiting, self._waiting = self._waiting, []
        for sender in waiting:
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

    transport: Any

    def __init__(self, flushes: FlushTurn, pause_unread_bytes: float, max_unread_bytes: float) -> None:
        self.lost = False
        self._flushes = flushes
        self._pause_unread_bytes = pause_unread_bytes
        self._max_unread_bytes = max_unread_bytes
        self._output: list[bytes] = []
        self._output_ended = False
        self._socket_send: Callable[[bytes], int] | None = None
        # While the transport has bytes of its own to send, ours wait here.
        self._blocked = False
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

    # Sending

    def start_sending(self) -> None:
        """Look at the transport, which is new."""
        transport = self.transport
        handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
        if isinstance(handle, socket.socket):
            self._socket_send = handle.send
        elif IConsumer.providedBy(transport):
            # TLS, whose handle is OpenSSL's: there the transport sends everything.
            transport.registerProducer(_WhenFull(self._full, self._drained), True)

    def send_frame(self, *pieces: bytes) -> None:
        """Send one frame that is already framed, in *pieces*, at the end of this reactor turn."""
        if not self._output:
            self._flushes.add(self)
        self._output += pieces

    def flush(self) -> None:
        """Send what is buffered: at once where the socket takes it, else when the peer has read."""
        output, self._output = self._output, []
        if not output or self._output_ended:
            return
        if self._blocked:
            self._hold(output)
            return
        data = output[0] if len(output) == 1 else b"".join(output)
        if self._socket_send is None:
            self.transport.write(data)
            return
        try:
            sent = self._socket_send(data)
        except OSError:
            # Full, or broken: then the transport meets the same error and reports it.
            sent = 0
        if sent < len(data):
            self._blocked = True
            self.transport.write(data[sent:])
            self.transport.registerProducer(_WhenDrained(self._drained), False)

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
        if self._socket_send is not None:
            self.transport.unregisterProducer()
        self._blocked = False
        self._output = self._take_backlog() + self._output
        self.flush()
        if self._throttled and not self._blocked:
            self._throttled = False
            self.resumeProducing()

    def _take_backlog(self) -> list[bytes]:
        backlog, self._backlog = self._backlog, []
        self._backlog_bytes = 0
        return backlog

    def finish_sending(self) -> None:
        """Give the transport everything, so that it can end the connection when all is sent."""
        self.flush()
        # This was the last word: what is still said to this peer is dropped.
        self._output_ended = True
        if self._backlog:
            self.transport.write(b"".join(self._take_backlog()))
        if IConsumer.providedBy(self.transport):
            # While it has a producer, a transport does not close.
            self.transport.unregisterProducer()

    def stop_sending(self) -> None:
        """The connection has ended: keep nothing."""
        self.lost = True
        self._output_ended = True
        self._output = []
        self._take_backlog()
