"""
Bytes <-> frames: docs/protocol.md, section 1, for both ends of a connection.

Knows lengths and how a connection ends; knows no JSON and no verbs. Sending is
in `gloom.sending`.

`FrameProtocol` keeps `Int32StringReceiver`'s names and meaning, and replaces
its reading, which copies a partial frame at every read: quadratic in the
frame's size. A frame that no single read holds is collected on its own
(`gloom.largebytes`), and delivered without a copy where it can be.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Generator
from struct import Struct
from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime, ISSLTransport, ITCPTransport
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from gloom.largebytes import LargePayload
from gloom.polling import SocketPoll
from gloom.sending import LARGE_BYTES, LARGEST_FRAME_BYTES, FlushTurn, FrameSender, socket_under, to_frame
from gloom.stalls import StallWatch
from gloom.turns import SLICE_SECONDS, Turns
from gloom.unread import UnreadWatch

__all__ = ["LARGEST_FRAME_BYTES", "FlushTurn", "FrameProtocol", "StallWatch", "to_frame"]

# What Twisted reads at once.
_READ_BYTES = 65536
# What is read at once of a frame that this does not hold: then others have their turn.
_MOST_READ_BYTES = 1 << 20
#: After so many bytes of frames the time is looked at: small requests can be dear.
STEP_BYTES = 1024
_HEADER = Struct("!I")
_pack_length = _HEADER.pack
_unpack_length = _HEADER.unpack_from
_HEADER_BYTES = _HEADER.size

#: How long `FrameProtocol.close` lets a peer read that goes on reading.
LONGEST_LINGER_SECONDS = 30.0
# How often it looks, in the time that a peer may take nothing.
_LINGER_LOOKS = 4

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


class FrameProtocol(FrameSender, Int32StringReceiver):
    """
    Frames in, frames out, in linear time.

    Subclasses override `stringReceived` and `lengthLimitExceeded`.

    Args:
        max_frame_bytes: Largest payload that is accepted.
        flushes: Where this connection asks to be flushed.
        clock: For the time that `close` allows.
        linger_seconds: How long after `close` the peer may take nothing of what is left for it.
        pause_unread_bytes: From how many waiting bytes on nothing is read from the peer.
        unread: Counts the bytes that wait, and drops peers that do not take them; None for nobody.
        stalls: Who drops this connection when a frame stands half way; None for nobody.
        poll: What reads plain sockets; None for the reactor.
        turns: Who else wants the time that many frames take; None for nobody.

    Attributes:
        counts_life: Whether `alive` wants to hear of each chunk that arrives.
        paused: Whether nothing is read, because the peer does not read.
    """

    __slots__ = (
        "MAX_LENGTH",
        "_aborting",
        "_clock",
        "_closed",
        "_descriptor",
        "_had_a_frame",
        "_halted",
        "_linger",
        "_linger_ends",
        "_linger_seconds",
        "_linger_since",
        "_linger_taken",
        "_needed_bytes",
        "_parsing",
        "_partial",
        "_poll",
        "_polled",
        "_stalls",
        "_steps",
        "_turns",
        "_waits",
        "_watched",
        "counts_life",
        "paused",
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
        super().__init__(flushes, pause_unread_bytes, unread)
        self._turns = turns
        self._poll: Any = poll
        # The socket, while the poll reads it.
        self._polled: Any = None
        self._descriptor = -1
        self.MAX_LENGTH = max_frame_bytes
        self.counts_life = False
        self.paused = False
        self._stalls = stalls
        self._had_a_frame = False
        self._watched = False
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._linger: IDelayedCall | None = None
        self._linger_since = self._linger_ends = 0.0
        self._linger_taken = 0
        self._partial = bytearray()
        self._needed_bytes = _HEADER_BYTES
        # A frame that no read holds: `_partial` has only its header, and what came after it.
        self._large: LargePayload | None = None
        self._read_bytes = _READ_BYTES
        self._parsing = False
        self._closed = False
        self._aborting = False
        # Whether what was read waits for this connection's next turn; and what goes on there before it.
        self._waits = False
        self._steps: Generator[None, None, None] | None = None
        # Whether no frame is delivered: it is paused, closed, or waits.
        self._halted = False

    # Reading

    def connectionMade(self) -> None:
        self.start_sending()
        _set_tcp_options(self.transport)
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
        """The peer has ended the connection, which the transport tells later: what that costs belongs in its turn."""

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

    # Turns

    def _slice_from(self, ends: float) -> float:
        """Return when this slice ends, which began just now if *ends* is 0; if it is over, wait for the next turn."""
        if self._turns is None:
            return ends
        now = self._turns.seconds()
        if not ends:
            return now + SLICE_SECONDS
        if now >= ends:
            self._wait_for_turn(self._turns)
        return ends

    def _wait_for_turn(self, turns: Turns) -> None:
        self._waits = self._halted = True
        turns.add(self, self._go_on)
        if self._polled is None:
            cast(Any, self.transport).pauseProducing()
            turns.wake()

    def _go_on(self) -> None:
        """Go on where the last turn has ended; this one has come."""
        self._waits = False
        self._halt()
        if self._steps is not None:
            self.work_off(self._steps)
        if not self._halted and not self._parsing:
            self._deliver_partial()
        if self._polled is None and not (self._waits or self.paused or self.lost):
            cast(Any, self.transport).resumeProducing()

    def work_off(self, steps: Generator[None, None, None]) -> None:
        """
        Take *steps*, each of them short, in as many turns as they take; closed when the connection ends before.

        Meanwhile no frame is delivered and none is sent: their reply comes first, see `release`.
        """
        self._steps = None
        slice_ends = 0.0
        for _ in steps:
            if not self._has_held_much():
                slice_ends = self._slice_from(slice_ends)
            if self._closed:
                steps.close()
                return
            if self._waits:
                self._steps = steps
                self._hold_output()
                return

    def _hold_output(self) -> None:
        if "flush" not in self.__dict__:
            self.flush()
            self.flush = _send_nothing  # type: ignore[method-assign]

    def _has_held_much(self) -> bool:
        return "flush" in self.__dict__ and sum(map(len, self._output)) > self._pause_unread_bytes

    def release(self) -> list[bytes]:
        """Return the frames that were said since the first turn of `work_off`, and send from now on."""
        if self.__dict__.pop("flush", None) is None:
            return []
        held, self._output = self._output, []
        return held

    def _halt(self) -> None:
        """Note whether frames may be delivered."""
        self._halted = self.paused or self._closed or self._waits

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

    def sendString(self, string: bytes) -> None:
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
            pass  # what has begun is answered
        self._stop_reading()
        self._read_to_the_end()
        self._linger_since = self._clock.seconds()
        self._linger_ends = self._linger_since + max(within_seconds, self._linger_seconds)
        # Before the output: a transport in memory may end at once.
        self._set_linger()
        self.finish_sending()
        if not self.lost:
            self._linger_taken = self.taken_bytes()

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
        """Have the transport read, and throw away, what still comes, until it is the end."""
        if self.paused:
            cast(Any, self.transport).resumeProducing()
        self._read_by_reactor()

    def _set_linger(self) -> None:
        left = min(self._linger_since + self._linger_seconds, self._linger_ends) - self._clock.seconds()
        wait = min(max(left, 0.0), self._linger_seconds / _LINGER_LOOKS)
        self._linger = self._clock.callLater(wait, self._linger_is_over)

    def _linger_is_over(self) -> None:
        """Reset the connection if its peer has taken nothing for too long."""
        self._linger = None
        now, taken = self._clock.seconds(), self.taken_bytes()
        if taken != self._linger_taken:
            self._linger_since, self._linger_taken = now, taken
        if now - self._linger_since >= self._linger_seconds or now >= self._linger_ends:
            self.abort()
        else:
            self._set_linger()

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
            self._linger.cancel()
            self._linger = None


def _send_nothing() -> None:
    """Stand for the flush of a connection that holds its output."""


def _set_tcp_options(transport: Any) -> None:
    handle = socket_under(transport)
    # A unix socket's transport claims to be TCP's, and its socket takes none of these.
    if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
        return
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_OPTIONS:
        handle.setsockopt(socket.IPPROTO_TCP, option, value)
