"""
Bytes <-> frames: docs/protocol.md, section 1, for both ends of a connection.

Knows lengths, sockets and when to send; knows no JSON and no verbs.

`FrameProtocol` keeps `Int32StringReceiver`'s names and meaning, and replaces
its reading (which copies a partial frame at every read, quadratic in the
frame's size) and its writing (docs/decisions/0003-sending-at-once.md).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IPullProducer,
    IReactorTime,
    ISystemHandle,
    ITCPTransport,
    ITransport,
)
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

_HEADER = Struct("!I")
_pack_length = _HEADER.pack
_unpack_length = _HEADER.unpack_from
_HEADER_BYTES = _HEADER.size

#: The header alone can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1

# A vanished host is noticed within about a minute: idle connections by
# keepalive (30 s + 3 x 10 s), those with unacknowledged data by the timeout.
# The timeout also ends a connection whose peer lives and reads nothing for as
# long, while more waits for it than the sockets hold.
_TCP_OPTIONS = [
    (getattr(socket, option), value)
    for option, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", 30),  # seconds
        ("TCP_KEEPINTVL", 10),  # seconds
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60_000),  # milliseconds
    )
    if hasattr(socket, option)  # some systems lack some of them
]


def to_frame(payload: bytes) -> bytes:
    """Return *payload* behind its length."""
    return _pack_length(len(payload)) + payload


class FlushTurn:
    """
    The connections that have something to send, flushed together.

    All that one reactor turn says to one peer leaves in one ``send``.

    Args:
        clock: Where the flush is scheduled: after the events of this turn.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[FrameProtocol] = []

    def add(self, protocol: FrameProtocol) -> None:
        """Have *protocol* flushed at the end of this turn."""
        if not self._waiting:
            self._clock.callLater(0, self.flush)
        self._waiting.append(protocol)

    def flush(self) -> None:
        """Send what every waiting connection has buffered."""
        waiting, self._waiting = self._waiting, []
        for protocol in waiting:
            protocol.flush()


@implementer(IPullProducer)
class _WhenDrained:
    """Learns from the transport, through its producer interface, that its buffer is empty."""

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


class FrameProtocol(Int32StringReceiver):
    """
    Frames in, frames out, in linear time.

    Subclasses override `stringReceived` and `lengthLimitExceeded`.

    Args:
        max_frame_bytes: Largest payload that is accepted.
        flushes: Where this connection asks to be flushed.
        clock: For the time that `close` allows.
        linger_seconds: What `close` allows the peer to read what is left for it.

    Attributes:
        lost: Whether the connection has ended.
    """

    def __init__(
        self, max_frame_bytes: int, flushes: FlushTurn, clock: IReactorTime, linger_seconds: float = 1.0
    ) -> None:
        self.MAX_LENGTH = max_frame_bytes
        self.lost = False
        self._flushes = flushes
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._linger: IDelayedCall | None = None
        self._partial = bytearray()
        self._needed_bytes = _HEADER_BYTES
        self._parsing = False
        self._closed = False
        self._output: list[bytes] = []
        self._output_ended = False
        # Set while the transport's own buffer is known to be empty.
        self._send: Callable[[bytes], int] | None = None
        self._socket_send: Callable[[bytes], int] | None = None

    # Reading

    def connectionMade(self) -> None:
        transport = cast(ITransport, self.transport)
        handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
        if isinstance(handle, socket.socket):
            # Not so over TLS, whose handle is OpenSSL's: there the transport sends.
            self._send = self._socket_send = handle.send
        _set_tcp_options(transport)

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        if self._partial or self.paused or self._parsing:
            self._partial += data
            if len(self._partial) < self._needed_bytes or self.paused or self._parsing:
                return
            data = self._take_partial()
        self._parse(data)

    def _take_partial(self) -> bytes:
        data = bytes(self._partial)
        self._partial = bytearray()
        return data

    def _parse(self, data: bytes) -> None:
        """Deliver the frames of *data*, and of what arrives meanwhile."""
        self._parsing = True
        try:
            while True:
                rest = self._deliver(data)
                if self._closed:
                    return
                if rest < len(data):
                    self._partial[:0] = memoryview(data)[rest:]
                if self.paused or len(self._partial) < self._needed_bytes:
                    return
                data = self._take_partial()
        finally:
            self._parsing = False

    def _deliver(self, data: bytes) -> int:
        """Deliver each whole frame of *data*; return where the rest begins."""
        offset, end = 0, len(data)
        self._needed_bytes = _HEADER_BYTES
        while end - offset >= _HEADER_BYTES:
            (length,) = _unpack_length(data, offset)
            # Read anew for each: a client's limit grows with the broker's first frame.
            if length > self.MAX_LENGTH:
                self.lengthLimitExceeded(length)
                self._stop_reading()
                break
            stop = offset + _HEADER_BYTES + length
            if stop > end:
                self._needed_bytes = _HEADER_BYTES + length
                break
            frame = data[offset + _HEADER_BYTES : stop]
            offset = stop
            self.stringReceived(frame)
            if self.paused or self._closed:
                break
        return offset

    def resumeProducing(self) -> None:
        self.paused = False
        cast(Any, self.transport).resumeProducing()
        if not self._parsing and len(self._partial) >= self._needed_bytes:
            self._parse(self._take_partial())

    def _stop_reading(self) -> None:
        self._closed = True
        self._partial = bytearray()

    # Writing

    def sendString(self, string: bytes) -> None:
        """
        Send *string* as one frame, at the end of this reactor turn.

        Raises:
            StringTooLongError: It has more bytes than a header can say.
        """
        if len(string) > LARGEST_FRAME_BYTES:
            super().sendString(string)
        self.send_frame(_pack_length(len(string)), string)

    def send_frame(self, *pieces: bytes) -> None:
        """Send one frame that is already framed, in *pieces*, at the end of this reactor turn."""
        if not self._output:
            self._flushes.add(self)
        self._output += pieces

    def flush(self) -> None:
        """
        Send what is buffered: at once where the socket takes it, else through the transport.

        The transport's way costs two ``epoll_ctl`` and a turn a message.
        """
        output, self._output = self._output, []
        if not output or self._output_ended:
            return
        data = output[0] if len(output) == 1 else b"".join(output)
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                # Full, or broken: then the transport meets the same error and reports it.
                sent = 0
            if sent == len(data):
                return
            self._send = None
            self._leave_to_transport(data[sent:])
        else:
            cast(ITransport, self.transport).write(data)

    def _leave_to_transport(self, data: bytes) -> None:
        transport = cast(Any, self.transport)
        transport.write(data)
        cast(IConsumer, transport).registerProducer(_WhenDrained(self._drained), False)

    def _drained(self) -> None:
        cast(IConsumer, self.transport).unregisterProducer()
        self._send = self._socket_send

    # Ending

    def close(self) -> None:
        """
        Send what is buffered, read no more, and end the connection.

        On TCP the sending half closes first and what still arrives is thrown
        away: a full close with unread input would reset the connection, and
        the peer might never read the error that explains it.
        """
        if self.lost or self._linger is not None:
            return
        self._stop_reading()
        self.flush()
        # The error is the last word: what a broker still says to this peer is dropped.
        self._output_ended = True
        self._linger = self._clock.callLater(self._linger_seconds, self._linger_ended)
        self._end_output()

    def _end_output(self) -> None:
        has_halves = self._socket_send is not None and ITCPTransport.providedBy(self.transport)
        transport = cast(Any, self.transport)
        if has_halves:
            # While it has a producer, the transport forgets to close its half.
            transport.unregisterProducer()
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def _linger_ended(self) -> None:
        self._linger = None
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 (the base's signature)
        self.lost = True
        self._stop_reading()
        self._output_ended = True
        self._output = []
        self._send = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None


def _set_tcp_options(transport: Any) -> None:
    handle = _socket_of(transport)
    # A unix socket's transport claims to be TCP's, and its socket takes none of these.
    if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_OPTIONS:
        handle.setsockopt(socket.IPPROTO_TCP, option, value)


def _socket_of(transport: Any) -> socket.socket | None:
    """Return the socket under *transport*, or None; over TLS it is that of the transport below OpenSSL's."""
    while ISystemHandle.providedBy(transport):
        handle = transport.getHandle()
        if isinstance(handle, socket.socket):
            return handle
        transport = getattr(transport, "transport", None)
    return None
