"""
Bytes <-> frames: docs/protocol.md, section 1, for both ends of a connection.

Knows lengths and how a connection ends; knows no JSON and no verbs. Sending is
in `gloom.transport.sending`.

`FrameProtocol` keeps `Int32StringReceiver`'s names and meaning, and replaces
its reading, which copies a partial frame at every read: quadratic in the
frame's size. A frame that no single read holds is collected on its own
(`gloom.wire.largebytes`), and delivered without a copy where it can be.
"""

from __future__ import annotations

import math
import socket
from struct import Struct
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IReactorTime, ISSLTransport, ITCPTransport
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from gloom.transport.lingering import LONGEST_LINGER_SECONDS, Linger
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import LARGE_BYTES, FlushTurn, socket_under
from gloom.transport.slicing import SlicedSender
from gloom.transport.stalls import StallWatch
from gloom.transport.turns import Turns
from gloom.transport.unread import UnreadWatch
from gloom.wire.framebuffer import LARGEST_FRAME_BYTES
from gloom.wire.largebytes import LargePayload, Payload
from gloom.wire.tcpoptions import set_tcp_options

# Read size of Twisted's transports.
_READ_BYTES = 65536
# Read size for a frame larger than one chunk. Bounded, so that other connections are served in between.
_MOST_READ_BYTES = 1 << 20
#: After so many bytes of frames the time is looked at: small requests can be dear.
STEP_BYTES = 1024
_HEADER = Struct("!I")
_pack_length = _HEADER.pack
_unpack_length = _HEADER.unpack_from
_HEADER_BYTES = _HEADER.size


class FrameProtocol(SlicedSender, Int32StringReceiver):
    """
    Frames in, frames out, in linear time.

    Subclasses override `stringReceived` and `lengthLimitExceeded`.

    Args:
        max_frame_bytes: Largest payload that is accepted.
        flushes: Schedules the flushes of this connection.
        clock: Time, for the timer of `close`.
        linger_seconds: How long after `close` the peer may take none of the bytes that are left for it.
        pause_unread_bytes: With more bytes than this waiting for the peer, nothing is read from it.
        unread: Counts the bytes that wait, and drops peers that do not take them; None for nobody.
        stalls: Drops this connection when a frame stalls half way; None for no such timer.
        poll: Reads plain sockets; None to have the reactor read them.
        turns: Gives each connection its turn; None where there is one connection.

    Attributes:
        counts_life: Whether `alive` wants to hear of each chunk that arrives.
    """

    __slots__ = (
        "MAX_LENGTH",
        "_aborting",
        "_clock",
        "_descriptor",
        "_had_a_frame",
        "_linger",
        "_linger_seconds",
        "_needed_bytes",
        "_partial",
        "_poll",
        "_stalls",
        "_watched",
        "counts_life",
    )

    def __init__(
        self,
        max_frame_bytes: int,
        flushes: FlushTurn,
        clock: IReactorTime,
        linger_seconds: float = 1.0,
        *,
        pause_unread_bytes: float = math.inf,
        unread: UnreadWatch | None = None,
        stalls: StallWatch | None = None,
        poll: SocketPoll | None = None,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(flushes, pause_unread_bytes, unread, turns)
        self._poll: Any = poll
        self._descriptor = -1
        self.MAX_LENGTH = max_frame_bytes
        self.counts_life = False
        self._stalls = stalls
        self._had_a_frame = False
        self._watched = False
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._linger: Linger | None = None
        self._partial = bytearray()
        self._needed_bytes = _HEADER_BYTES
        # A frame that no read holds: `_partial` has only its header, and what came after it.
        self._large: LargePayload | None = None
        self._read_bytes = _READ_BYTES
        self._aborting = False

    # Reading

    def connectionMade(self) -> None:
        self.start_sending()
        sock = socket_under(self.transport)
        if sock is not None:
            set_tcp_options(sock)
        if self._poll is not None and self._socket_send is not None:
            self._read_by_poll(self.transport)
        elif self._turns is not None:
            self._turns.reactor_reads += 1

    def _read_by_poll(self, transport: Any) -> None:
        transport.pauseProducing()
        self._polled = transport.getHandle()
        self._descriptor = self._polled.fileno()
        self._poll.add(self._descriptor, self)

    def _read_by_reactor(self) -> None:
        """Have the transport read again: it knows what an end and an error mean."""
        if self._leave_poll():
            self.transport.resumeProducing()

    def _leave_poll(self) -> bool:
        """Be read by the poll no more; return whether that was so."""
        if self._polled is None:
            return False
        self._polled = None
        self._poll.remove(self._descriptor)
        return True

    def read_socket(self) -> None:
        """Read the socket once; the poll calls it when there is something to read."""
        try:
            data = self._polled.recv(self._read_bytes)
        except BlockingIOError:
            return
        except OSError as error:
            self.socket_error = error
            data = b""
        if data:
            self.dataReceived(data)
        else:
            self._read_by_reactor()
            self.peer_ended()

    def dataReceived(self, data: bytes) -> None:
        if self.counts_life:
            self.alive()
        if self._partial or self._halted or self._parsing:
            self._continue(data)
            return
        size = len(data)
        self._parsing = True
        try:
            # Nearly every chunk of a peer that waits for replies is one whole frame.
            if size >= _HEADER_BYTES and _HEADER_BYTES + _unpack_length(data)[0] == size and size <= self.MAX_LENGTH:
                self._had_a_frame = True
                rest = size
                self.stringReceived(data[_HEADER_BYTES:])
            else:
                rest = self._deliver(data)
        finally:
            self._parsing = False
        if rest < size or self._partial or self._watched:
            self._keep(data, rest)

    def alive(self) -> None:
        """The peer has sent something; called for each chunk if `counts_life`."""

    def peer_ended(self) -> None:
        """The peer has ended the connection. The transport reports it later; the cost belongs in this peer's turn."""

    @property
    def is_new(self) -> bool:
        """Whether no frame has come yet."""
        return not self._had_a_frame

    def _continue(self, data: bytes) -> None:
        """Take *data* where there is more than data to think of."""
        if self._closed:
            return
        if self._large is None:
            self._read_bytes = _READ_BYTES
        else:
            data = self._add_to_large(self._large, data)
        self._partial += data
        if not self._parsing:
            self._deliver_partial()

    def _keep(self, data: bytes, rest: int) -> None:
        """Keep what is not delivered of *data*, before what has arrived meanwhile."""
        if not self._closed:
            self._read_bytes = _READ_BYTES
            self._partial[:0] = memoryview(data)[rest:]
            self._deliver_partial()

    def _deliver_partial(self) -> None:
        """Deliver the frames of what is kept, and of what arrives meanwhile."""
        if self._large is not None:
            self._deliver_large(self._large)
        while len(self._partial) >= self._needed_bytes and not self._halted:
            data = bytes(self._partial)
            self._partial = bytearray()
            self._parsing = True
            try:
                rest = self._deliver(data)
            finally:
                self._parsing = False
            if self._closed:
                break
            self._partial[:0] = memoryview(data)[rest:]
        if self._needed_bytes > max(_READ_BYTES, len(self._partial)) and self._large is None and not self._closed:
            self._begin_large()
        self._watch()

    def _begin_large(self) -> None:
        """Collect the frame that is kept, as far as it came, on its own."""
        self._large = LargePayload(self._needed_bytes - _HEADER_BYTES)
        self._add_to_large(self._large, bytes(memoryview(self._partial)[_HEADER_BYTES:]))
        self._partial = self._partial[:_HEADER_BYTES]

    def _add_to_large(self, large: LargePayload, data: bytes) -> bytes:
        """Give *large* its part of *data*, have as much read as it misses, and return the rest."""
        rest = large.add(data)
        self._read_bytes = min(large.missing, _MOST_READ_BYTES) or _HEADER_BYTES
        return rest

    def _deliver_large(self, large: LargePayload) -> None:
        """Deliver *large* if it is whole."""
        if large.missing or self._halted:
            return
        self._large = None
        del self._partial[:_HEADER_BYTES]
        # After it there may come another: when its header is read alone, the rest may come in one piece.
        self._needed_bytes = self._read_bytes = _HEADER_BYTES
        self._had_a_frame = self._parsing = True
        try:
            self.stringReceived(large.whole())
        finally:
            self._parsing = False

    def _deliver(self, data: bytes) -> int:
        """Deliver each whole frame of *data*, as far as time allows; return where the rest begins."""
        offset, end = 0, len(data)
        self._needed_bytes = _HEADER_BYTES
        # Where a header may begin; and where, for now.
        last = end - _HEADER_BYTES
        mark, slice_ends = (last if last < STEP_BYTES else STEP_BYTES), 0.0
        while True:
            while offset <= mark:
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
                if self._halted:
                    break
            else:
                if mark < last:
                    slice_ends = self._slice_from(slice_ends)
                    mark = min(last, offset + STEP_BYTES)
                    if not self._halted:
                        continue
            break
        if offset:
            self._had_a_frame = True
        return offset

    def has_unread_input(self) -> bool:
        """Return whether the peer has sent something that was not read."""
        handle = socket_under(self.transport)
        try:
            return handle is not None and bool(handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (OSError, AttributeError):
            return False

    def _watch(self) -> None:
        """Have a frame that stands half way watched, and one that does not forgotten."""
        if self._stalls is None:
            return
        # Half way is what the peer has not sent: not what this end is too busy to read.
        self._watched = bool(self._partial) and not self._halted
        if self._watched:
            self._stalls.begin(self, again=self._had_a_frame)
        else:
            self._stalls.end(self)

    def pauseProducing(self) -> None:
        self.paused = self._halted = True
        if self._polled is not None:
            self._poll.remove(self._descriptor)
        else:
            cast(Any, self.transport).pauseProducing()
        self._watch()

    def resumeProducing(self) -> None:
        self.paused = False
        self._halt()
        if self._polled is not None:
            self._poll.add(self._descriptor, self)
        elif not self._waits:
            cast(Any, self.transport).resumeProducing()
        if not self._parsing:
            self._deliver_partial()

    def _stop_reading(self) -> None:
        self._closed = self._halted = True
        self._partial = bytearray()
        self._large = None
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    # Writing

    def sendString(self, string: Payload) -> None:
        """
        Send *string* as one frame, at the end of this reactor turn.

        Raises:
            StringTooLongError: It has more bytes than a header can say.
        """
        length = len(string)
        if length > LARGE_BYTES:
            if length > LARGEST_FRAME_BYTES:
                super().sendString(string)
            self._has_large_output = True
        output = self._output
        if not output:
            self._flushes.add(self)
        output += (_pack_length(length), string)

    # Ending

    def close(self, within_seconds: float = LONGEST_LINGER_SECONDS) -> None:
        """
        Send what is buffered, read no more, and end the connection.

        On TCP the sending half closes first and what still arrives is thrown
        away: a full close with unread input would reset the connection, and
        the peer might never read the error that explains it. A peer that takes
        nothing for the time that it has to linger is reset.

        Args:
            within_seconds: When it is reset at the latest, however it goes on.
        """
        if self.lost or self._aborting or self._linger is not None:
            return
        for _ in self._steps or ():
            pass  # finish the request that has begun, so that it is answered
        self._stop_reading()
        self._read_to_the_end()
        # Before the output: a transport in memory may end at once.
        self._linger = linger = Linger(self, self._clock, self._linger_seconds, within_seconds)
        self.finish_sending()
        if not self.lost:
            linger.note_progress()

    def output_finished(self) -> None:
        """See `FrameSender.output_finished`: now the connection can end."""
        if self._aborting:
            return
        transport = self.transport
        if IConsumer.providedBy(transport):
            # While it has a producer, a transport does not close.
            transport.unregisterProducer()
        if ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport):
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def abort(self) -> None:
        """End the connection at once, whatever is left for the peer."""
        self._aborting = True
        self._stop_reading()
        self._leave_poll()
        self.discard_output()
        cast(Any, self.transport).abortConnection()

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*, which a subclass may tell."""
        self.abort()

    def _read_to_the_end(self) -> None:
        """Have the transport read to the end of the input, which is thrown away."""
        if self.paused:
            cast(Any, self.transport).resumeProducing()
        self._read_by_reactor()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 (the base's signature)
        self.stop_sending()
        self._stop_reading()
        self.release()
        self._leave_poll()
        if self._turns is not None:
            self._turns.forget(self)
            self._turns.reactor_reads -= self._descriptor < 0
        if self._stalls is not None:
            self._stalls.end(self)
        if self._linger is not None:
            self._linger.stop()
            self._linger = None
