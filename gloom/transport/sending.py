"""
The sending half of a connection: when bytes leave, and how many may wait.

All that one reactor turn says to one peer leaves in one ``send``, tried on the
socket itself (docs/decisions/0003-sending-at-once.md). The bytes that the
socket does not take wait here, counted: over a limit nothing more is read from
that peer (backpressure), and `gloom.transport.unread` decides when it is dropped.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
)
from zope.interface import implementer

from gloom.transport.unread import UnreadWatch, unacknowledged_bytes, unread_input_bytes
from gloom.wire.largebytes import Payload

_Send = Callable[["Payload | memoryview"], int]
#: A frame over this goes to the socket as it is, where smaller ones are joined.
LARGE_BYTES = 256 * 1024
# One turn sends so much of a backlog; the rest waits for the next turn, however fast the peer reads.
_MOST_SENT_BYTES = 8 << 20
# The transport gets only this much of the backlog, so that it reports when the socket takes bytes again.
_PROBE_BYTES = 4096


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
    Sends frames over ``self.transport``; a part of `gloom.transport.framing.FrameProtocol`.

    Args:
        flushes: Schedules the flushes of this connection.
        pause_unread_bytes: With more bytes than this waiting for the peer, nothing is read from it.
        unread: Counts the bytes that wait, and drops peers that do not take them; None for nobody.

    Attributes:
        lost: Whether the connection has ended.
        waiting_bytes: How many bytes wait for the peer, those that the transport was given included.
        socket_error: What the socket said when it broke, or None. It says so once: a transport that
            reads afterwards finds an end, and takes the connection for one that was closed cleanly.
    """

    # With slots, here and in what is built on this: an object with more than 30
    # attributes in a dict has the slow kind of dict, and a tenth of a job's time went there.
    __slots__ = (
        "_backlog",
        "_blocked",
        "_flushes",
        "_given_bytes",
        "_has_large_output",
        "_is_full",
        "_output",
        "_output_ended",
        "_pause_unread_bytes",
        "_send_now",
        "_socket_send",
        "_taken_bytes",
        "_throttled",
        "_unread",
        "lost",
        "socket_error",
        "waiting_bytes",
    )

    transport: Any

    def __init__(self, flushes: FlushTurn, pause_unread_bytes: float, unread: UnreadWatch | None) -> None:
        self.lost = False
        self.socket_error: OSError | None = None
        self._flushes = flushes
        self._pause_unread_bytes = pause_unread_bytes
        self._unread = unread
        self._output: list[Payload] = []
        self._output_ended = False
        # True until all of a large output is sent.
        self._has_large_output = False
        self._socket_send: _Send | None = None
        # As above while all that was said is sent; None when something waits, and over TLS.
        self._send_now: _Send | None = None
        # True while the transport has bytes to send; the backlog holds the bytes after them.
        self._blocked = False
        self._is_full = False
        self._backlog: deque[Payload | memoryview] = deque()
        self._given_bytes = 0
        self.waiting_bytes = 0
        self._taken_bytes = 0
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

    def output_blocked(self) -> None:
        """The socket does not take the next bytes: they wait."""

    def output_ready(self) -> None:
        """A large output is sent, or the whole backlog."""

    def output_finished(self) -> None:
        """After `finish_sending` everything is sent."""

    # Sending

    def start_sending(self) -> None:
        """Look at the transport, which is new."""
        transport = self.transport
        if has_own_socket(transport):
            self._socket_send = self._send_now = transport.getHandle().send
        elif IConsumer.providedBy(transport):
            # A wrapper such as TLS: there the transport sends everything.
            transport.registerProducer(_WhenFull(self._on_full, self._drained), True)

    def send_frame(self, frame: Payload) -> None:
        """Send *frame*, which is framed already, at the end of this reactor turn."""
        output = self._output
        if not output:
            self._flushes.add(self)
        output.append(frame)

    def flush(self) -> None:
        """Send the buffer: at once where the socket takes it, else when the peer has read."""
        output = self._output
        self._output = []
        send = self._send_now
        if send is None or self._has_large_output or not output:
            self._flush_slowly(output)
            return
        data = output[0] if len(output) == 1 else b"".join(output)
        try:
            sent = send(data)
        except OSError as error:
            sent = self._not_sent(error)
        if sent < len(data):
            self._backlog.append(memoryview(data)[sent:])
            self.waiting_bytes = len(data) - sent
            self._probe()

    def _not_sent(self, error: OSError) -> int:
        """Return that 0 bytes are sent: the socket is full, or broken, and then keep *error*."""
        if not isinstance(error, BlockingIOError):
            self.socket_error = error
        return 0

    def _flush_slowly(self, output: list[Payload]) -> None:
        if self._output_ended or not output:
            return
        count = sum(map(len, output))
        self._backlog.extend(output)
        self.waiting_bytes += count
        if not self._blocked:
            self._send_backlog()
            return
        if self._unread is not None:
            self._unread.add(count)
        if self.waiting_bytes > self._pause_unread_bytes and not self._throttled and not self._output_ended:
            self._throttled = True
            self.pauseProducing()

    def _send_backlog(self) -> None:
        if self._socket_send is None:
            self._send_by_transport()
        else:
            self._send_by_socket(self._socket_send)

    def _send_by_socket(self, send: _Send) -> None:
        """Send the waiting bytes, as far as the socket takes them and one turn should last."""
        backlog, left_bytes = self._backlog, _MOST_SENT_BYTES
        while backlog:
            piece = self._next_piece()
            try:
                sent = send(piece)
            except OSError as error:
                sent = self._not_sent(error)
            self._took(sent)
            if sent < len(piece):
                backlog.appendleft(memoryview(piece)[sent:])
            left_bytes -= sent
            if backlog and (sent < len(piece) or left_bytes <= 0):
                self._probe()
                return
        self._all_sent()

    def _send_by_transport(self) -> None:
        """Give the transport the waiting bytes, until its buffer is full."""
        backlog = self._backlog
        while backlog and not self._is_full:
            piece = self._next_piece()
            if len(piece) > LARGE_BYTES:
                backlog.appendleft(memoryview(piece)[LARGE_BYTES:])
                piece = bytes(memoryview(piece)[:LARGE_BYTES])
            self._given_bytes += len(piece)
            self.transport.write(bytes(piece))
        if not backlog and not self._is_full:
            self._took(self._given_bytes)
            self._all_sent()

    def _next_piece(self) -> Payload | memoryview:
        """Take the next bytes from the backlog: small frames are joined, because each system call costs."""
        backlog = self._backlog
        piece = backlog.popleft()
        if not backlog or len(piece) + len(backlog[0]) > LARGE_BYTES:
            # Without a join: a copy of a large frame costs more than a system call.
            return piece
        pieces, size = [piece], len(piece)
        while backlog and size + len(backlog[0]) <= LARGE_BYTES:
            size += len(backlog[0])
            pieces.append(backlog.popleft())
        return b"".join(pieces)

    def _probe(self) -> None:
        """Have the transport send the next bytes, and tell when the socket has taken them."""
        piece = memoryview(self._backlog.popleft())
        if len(piece) > _PROBE_BYTES:
            self._backlog.appendleft(piece[_PROBE_BYTES:])
            piece = piece[:_PROBE_BYTES]
        self._given_bytes = len(piece)
        self.transport.write(bytes(piece))
        if not self._blocked:
            self.transport.registerProducer(_WhenDrained(self._drained), False)
            self._block()

    def _on_full(self) -> None:
        self._is_full = True
        self._block()

    def _block(self) -> None:
        if self._blocked:
            return
        self._blocked = True
        self._send_now = None
        self.output_blocked()
        if self._unread is not None:
            self._unread.begin(self)

    def _took(self, count: int) -> None:
        self._given_bytes = 0
        self.waiting_bytes -= count
        self._taken_bytes += count
        if self._blocked and self._unread is not None:
            self._unread.took(count)

    def _drained(self) -> None:
        """The transport has sent all that it had."""
        self._is_full = False
        self._took(self._given_bytes)
        self._send_backlog()
        if self._throttled and not self._blocked:
            self._throttled = False
            self.resumeProducing()

    def _all_sent(self) -> None:
        is_news = self._blocked or self._has_large_output
        self._has_large_output = False
        if self._blocked:
            self._blocked = False
            if self._unread is not None:
                self._unread.end(self)
            if self._socket_send is not None:
                self.transport.unregisterProducer()
        if self._output_ended:
            self.output_finished()
            return
        self._send_now = self._socket_send
        if is_news:
            self.output_ready()

    # Progress

    @property
    def has_one_piece(self) -> bool:
        """Whether at most one frame waits, however large."""
        return len(self._backlog) <= 1

    def taken_bytes(self) -> int:
        """Return a count that grows by each byte that the peer's host takes while some wait."""
        return self._taken_bytes - unacknowledged_bytes(socket_under(self.transport))

    def signs_of_life(self) -> tuple[int, int]:
        """Return two counts; one of them changes when the peer takes bytes, or sends bytes that are not read yet."""
        return self.taken_bytes(), unread_input_bytes(socket_under(self.transport))

    # Ending

    def finish_sending(self) -> None:
        """Send the buffer, and then no more; `output_finished` is called when it is sent."""
        if self._output:
            self.flush()
        # Frames that are added after the last are dropped.
        self._end_output()
        if not self._blocked and not self.lost:
            self.output_finished()

    def discard_output(self) -> None:
        """Send nothing more, and drop the backlog."""
        self._end_output()
        self._output = []
        self._backlog.clear()
        if self._unread is not None:
            self._unread.end(self)
        self.waiting_bytes = self._given_bytes = 0

    def stop_sending(self) -> None:
        """The connection has ended: keep nothing."""
        self.lost = True
        self.discard_output()

    def _end_output(self) -> None:
        self._output_ended = True
        self._send_now = None


def has_own_socket(transport: Any) -> bool:
    """
    Return whether *transport* is a socket's own, without a wrapper.

    A wrapper (TLS, the PROXY protocol) is itself the protocol of the transport below.
    It may show the socket of that transport, but has to see all bytes.
    """
    if IProtocol.providedBy(transport) or not ISystemHandle.providedBy(transport):
        return False
    return isinstance(transport.getHandle(), socket.socket)


def socket_under(transport: Any) -> socket.socket | None:
    """Return the socket under *transport*, or None; over TLS it is that of the transport below OpenSSL's."""
    while ISystemHandle.providedBy(transport):
        handle = transport.getHandle()
        if isinstance(handle, socket.socket):
            return handle
        transport = getattr(transport, "transport", None)
    return None
