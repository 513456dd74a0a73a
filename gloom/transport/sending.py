"""
The sending half of a connection: when bytes leave, and how many may wait.

All that one reactor turn says to one peer leaves in one ``send``, tried on the
socket itself (docs/decisions/0003-sending-at-once.md). The bytes that the
socket does not take wait here, counted: over a limit nothing more is read from
that peer (backpressure), and `gloom.transport.unread` decides when it is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from twisted.internet.interfaces import (
    IConsumer,
    IPullProducer,
    IPushProducer,
    IReactorTime,
)
from twisted.protocols.basic import StringTooLongError
from zope.interface import implementer

from gloom.transport.sockets import has_own_socket, socket_under, unacknowledged_bytes, unread_input_bytes
from gloom.transport.states import Event, Output, output_after
from gloom.transport.unread import UnreadWatch
from gloom.wire.framereader import LARGEST_FRAME_BYTES
from gloom.wire.largebytes import Payload

_pack_length = Struct("!I").pack
_Send = Callable[["Payload | memoryview"], int]
#: A frame over this goes to the socket as it is, where smaller ones are joined.
LARGE_BYTES = 256 * 1024
# One turn sends so much of a backlog; the rest waits for the next turn, however fast the peer reads.
_MOST_SENT_BYTES = 8 << 20
# The transport gets only this much of the backlog, so that it reports when the socket takes bytes again.
_PROBE_BYTES = 4096

# An enumeration's member is slow to reach through its class.
_FREE: Final = Output.FREE
# Bytes wait for the peer.
_WITH_BACKLOG = (Output.BLOCKED, Output.FINISHING)
# No further frame is sent.
_OVER = (Output.FINISHING, Output.ENDED)


class FlushTurn:
    """
    The connections that have something to send, flushed together.

    As a context it flushes at its end, and before it those that are urgent, when
    asked to; outside of one, when the reactor has done the events of this turn.

    Args:
        clock: Where the flush is scheduled.

    Attributes:
        add: Has a connection flushed at the end of this turn.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[FrameSender] = []
        self.add: Callable[[FrameSender], None] = self._add_and_schedule

    def _add_and_schedule(self, sender: FrameSender) -> None:
        if not self._waiting:
            self._clock.callLater(0, self.flush)
        self._waiting.append(sender)

    def __enter__(self) -> None:
        # There is no call to schedule, and so none of Python's own for each connection.
        self.add = self._waiting.append

    def __exit__(self, *_: object) -> None:
        self.add = self._add_and_schedule
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        """Flush every waiting connection."""
        for sender in self._take():
            sender.flush()

    def flush_urgent(self) -> None:
        """Flush the connections that cannot wait."""
        for sender in self._take():
            if sender.can_wait():
                self._waiting.append(sender)
            else:
                sender.flush()

    def _take(self) -> list[FrameSender]:
        waiting = self._waiting.copy()
        self._waiting.clear()  # and not a new list: `add` is a method of this one
        return waiting


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
    """
    Learns from a transport that sends everything (TLS) that its buffer is full, and empty again.

    Attributes:
        is_full: Whether it is full.
    """

    def __init__(self, full: Callable[[], None], drained: Callable[[], None]) -> None:
        self.is_full = False
        self._full = full
        self._drained = drained

    def pauseProducing(self) -> None:
        self.is_full = True
        self._full()

    def resumeProducing(self) -> None:
        self.is_full = False
        self._drained()

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
        waiting_bytes: How many bytes wait for the peer, those that the transport was given included.
        socket_error: The error with which the socket broke, or None. The system reports it once: a transport that
            reads afterwards finds an end, and takes the connection for one that was closed cleanly.
    """

    # With slots, here and in the classes that are built on this: an object with more than 30
    # attributes in a dict has the slow kind of dict, and a tenth of a job's time went there.
    __slots__ = (
        "_backlog",
        "_buffer",
        "_flushes",
        "_given_bytes",
        "_output",
        "_pause_unread_bytes",
        "_sending",
        "_socket_send",
        "_taken_bytes",
        "_unread",
        "socket_error",
        "waiting_bytes",
    )

    transport: Any

    def __init__(self, flushes: FlushTurn, pause_unread_bytes: float, unread: UnreadWatch | None) -> None:
        self.socket_error: OSError | None = None
        self._flushes = flushes
        self._pause_unread_bytes = pause_unread_bytes
        self._unread = unread
        self._sending = Output.FREE
        # Headers and payloads that were said in this turn.
        self._output: list[Payload] = []
        # None over TLS: there the transport sends, and its buffer says when it is full.
        self._socket_send: _Send | None = None
        self._buffer: _WhenFull | None = None
        # The bytes after those that the transport was given.
        self._backlog: deque[Payload | memoryview] = deque()
        self._given_bytes = 0
        self.waiting_bytes = 0
        self._taken_bytes = 0

    # Overridden by subclasses

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
        """Return whether the buffer may wait for further frames."""
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
            self._socket_send = transport.getHandle().send
        elif IConsumer.providedBy(transport):
            # A wrapper such as TLS: there the transport sends everything.
            self._buffer = _WhenFull(self._block, self._drained)
            transport.registerProducer(self._buffer, True)

    def send_frame(self, frame: Payload) -> None:
        """Send *frame*, which is framed already, at the end of this reactor turn."""
        output = self._output
        if not output:
            add = self._flushes.add  # in a local: a callable that is called as an attribute is looked for in the class
            add(self)
        output.append(frame)

    def _send_long(self, payload: Payload) -> None:
        """Send a frame that is not copied behind its header."""
        size = len(payload)
        if size > LARGEST_FRAME_BYTES:
            raise StringTooLongError(f"{size} bytes are more than a frame can have, {LARGEST_FRAME_BYTES}")
        if size > LARGE_BYTES:
            self._sending = output_after(self._sending, Event.LARGE_FRAME)
        self.send_frame(_pack_length(size))
        self._output.append(payload)

    def flush(self) -> None:
        """Send the buffer: at once where the socket takes it, else when the peer has read."""
        output = self._output
        self._output = []
        send = self._socket_send
        if self._sending is not _FREE or send is None or not output:
            self._flush_slowly(output)
            return
        data = b"".join(output)
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
        if self._sending in _OVER or not output:
            return
        count = sum(map(len, output))
        self._backlog.extend(output)
        self.waiting_bytes += count
        if self._sending is not Output.BLOCKED:
            self._send_backlog()
            return
        if self._unread is not None:
            self._unread.add(count)
        if self._is_behind() and self._sending is Output.BLOCKED:
            self.pauseProducing()

    def _is_behind(self) -> bool:
        """Whether too many bytes wait for the peer for anything to be read from it."""
        return self.waiting_bytes > self._pause_unread_bytes

    def _send_backlog(self) -> None:
        if self._socket_send is None:
            self._send_by_transport(self._buffer)
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

    def _send_by_transport(self, buffer: _WhenFull | None) -> None:
        """Give the transport the waiting bytes, until its buffer is full."""
        backlog = self._backlog
        while backlog and not (buffer is not None and buffer.is_full):
            piece = self._next_piece()
            if len(piece) > LARGE_BYTES:
                backlog.appendleft(memoryview(piece)[LARGE_BYTES:])
                piece = bytes(memoryview(piece)[:LARGE_BYTES])
            self._given_bytes += len(piece)
            self.transport.write(bytes(piece))
        if not backlog and not (buffer is not None and buffer.is_full):
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
        if self._sending not in _WITH_BACKLOG:
            self.transport.registerProducer(_WhenDrained(self._drained), False)
            self._block()

    def _block(self) -> None:
        if self._sending in _WITH_BACKLOG:
            return
        self._sending = output_after(self._sending, Event.BLOCK)
        self.output_blocked()
        if self._unread is not None:
            self._unread.begin(self)

    def _took(self, count: int) -> None:
        self._given_bytes = 0
        self.waiting_bytes -= count
        self._taken_bytes += count
        if self._sending in _WITH_BACKLOG and self._unread is not None:
            self._unread.took(count)

    def _drained(self) -> None:
        """The transport has sent all that it had."""
        if self._sending is Output.ENDED:
            return
        self._took(self._given_bytes)
        self._send_backlog()
        if self._sending not in _WITH_BACKLOG:
            self.resumeProducing()

    def _all_sent(self) -> None:
        before, self._sending = self._sending, output_after(self._sending, Event.SENT)
        if before in _WITH_BACKLOG:
            if self._unread is not None:
                self._unread.end(self)
            if self._socket_send is not None:
                self.transport.unregisterProducer()
        if self._sending is Output.ENDED:
            self.output_finished()
        elif before is not _FREE:
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
        if self._sending is Output.ENDED:
            return  # dropped, because even this was too much
        self._sending = output_after(self._sending, Event.FINISH)
        if self._sending is Output.ENDED:
            self.output_finished()

    def discard_output(self, event: Event) -> None:
        """Send nothing more, and drop the backlog, because of *event*."""
        self._sending = output_after(self._sending, event)
        self._output = []
        self._backlog.clear()
        if self._unread is not None:
            self._unread.end(self)
        self.waiting_bytes = self._given_bytes = 0
