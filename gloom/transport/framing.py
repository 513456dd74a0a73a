"""
A connection that speaks in frames: docs/protocol.md, section 1, for both ends.

Its states are in `gloom.transport.states`; sending is in `gloom.transport.sending`,
and `gloom.wire.framereader` cuts bytes into frames. Knows how a connection works in
slices of time, and how it ends; knows no JSON and no verbs.

`FrameProtocol` keeps `Int32StringReceiver`'s names and meaning, and replaces
its reading, which copies a partial frame at every read: quadratic in the
frame's size.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from struct import Struct
from typing import Any, Final, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IReactorTime, ISSLTransport, ITCPTransport
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from gloom.transport.lingering import LONGEST_LINGER_SECONDS, Linger
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn, FrameSender
from gloom.transport.sockets import has_unread_input, socket_under
from gloom.transport.stalls import StallWatch
from gloom.transport.states import HALF_WAY, OVER, PAUSED, WAITING, Event, Input, Output, input_after
from gloom.transport.turns import SLICE_SECONDS, Turns
from gloom.transport.unread import UnreadWatch
from gloom.wire.framereader import FrameReader
from gloom.wire.largebytes import Payload
from gloom.wire.tcpoptions import set_tcp_options

_pack_length = Struct("!I").pack
# To copy a longer payload behind its header would cost more than to keep the two apart.
_LONG_BYTES = 4096
# An enumeration's member is slow to reach through its class.
_READY: Final = Input.READY
_DELIVERING: Final = Input.DELIVERING


class FrameProtocol(FrameSender, Int32StringReceiver):
    """
    Frames in, frames out, in linear time and in slices of time.

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
        "_clock",
        "_descriptor",
        "_linger",
        "_linger_seconds",
        "_poll",
        "_reader",
        "_receiving",
        "_recv",
        "_stalls",
        "_steps",
        "_turns",
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
        super().__init__(flushes, pause_unread_bytes, unread)
        self.MAX_LENGTH = max_frame_bytes
        self.counts_life = False
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._linger: Linger | None = None
        self._stalls = stalls
        self._turns = turns
        self._poll: Any = poll
        # While the poll reads the socket; and its descriptor, -1 if it never did.
        self._recv: Any = None
        self._descriptor = -1
        self._receiving = Input.NEW
        self._reader = FrameReader()
        # Of a request that takes several slices, the steps that are left.
        self._steps: Generator[bool, None, None] | None = None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._receiving is Input.LOST

    @property
    def closed(self) -> bool:
        """Whether it has ended, or is about to: no frame is delivered any more."""
        return self._receiving in OVER

    @property
    def paused(self) -> bool:  # type: ignore[override]
        """Whether nothing is read, because the peer does not read."""
        return self._receiving in PAUSED

    @property
    def is_new(self) -> bool:
        """Whether no frame has come yet."""
        return self._receiving is Input.NEW

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn."""
        return self._receiving in WAITING

    # Reading

    def connectionMade(self) -> None:
        self.start_sending()
        sock = socket_under(self.transport)
        if sock is not None:
            set_tcp_options(sock)
        if self._poll is not None and self._socket_send is not None:
            cast(Any, self.transport).pauseProducing()
            handle = cast(Any, self.transport).getHandle()
            self._recv, self._descriptor = handle.recv, handle.fileno()
            self._poll.add(self._descriptor, self)
        elif self._turns is not None:
            self._turns.reactor_reads += 1

    def _read_by_reactor(self) -> None:
        """Have the transport read again: the end and errors are its business."""
        if self._leave_poll():
            self.transport.resumeProducing()

    def _leave_poll(self) -> bool:
        """Be read by the poll no more; return whether that was so."""
        if self._recv is None:
            return False
        self._recv = None
        self._poll.remove(self._descriptor)
        return True

    def read_socket(self) -> None:
        """Read the socket once; the poll calls it when there is something to read."""
        recv = self._recv
        try:
            data = recv(self._reader.read_bytes)
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
        if self._receiving is not _READY:
            self._receive(data)
            return
        # Nearly every chunk of a peer that waits for replies is one whole frame.
        reader = self._reader
        frame = reader.whole(data, self.MAX_LENGTH)
        if frame is None:
            reader.keep(data)
            self._deliver()
            return
        self._receiving = _DELIVERING
        self.stringReceived(frame)
        if self._receiving is _DELIVERING and reader.is_empty:
            self._receiving = _READY
        else:
            self._deliver_rest()

    def alive(self) -> None:
        """The peer has sent something; called for each chunk if `counts_life`."""

    def peer_ended(self) -> None:
        """The peer has ended the connection. The transport reports it later; the cost belongs in this peer's turn."""

    def _receive(self, data: bytes) -> None:
        """Take *data* where this connection is not between two frames."""
        if self._receiving not in OVER:
            self._reader.keep(data)
            if self._receiving in HALF_WAY:
                self._deliver()

    def _deliver(self) -> None:
        """Deliver the frames that are whole, as far as time allows."""
        before, reader, slice_ends = self._receiving, self._reader, 0.0
        while True:
            payloads = reader.more(self.MAX_LENGTH)
            if payloads:
                self._receiving = _DELIVERING
                self._deliver_each(payloads)
            elif reader.excess:
                self.lengthLimitExceeded(reader.excess)
                self._stop_reading()
            # The limit is asked for anew before a frame that is over it: a client's grows with its first frame.
            if self._receiving is not _DELIVERING or not reader.has_more:
                break
            slice_ends = self._slice_from(slice_ends, Event.SLICE_OVER)
            if slice_ends < 0:
                break
        if self._receiving is _DELIVERING:
            self._receiving = _READY
        else:
            self._enter(Event.DELIVERED)
        if self._receiving is _READY and not reader.is_empty:
            self._enter(Event.PART)
        if before in HALF_WAY or self._receiving in HALF_WAY:
            self._watch()

    def _deliver_each(self, payloads: list[Payload]) -> None:
        left = iter(payloads)
        for payload in left:
            self.stringReceived(payload)
            if self._receiving is not _DELIVERING:
                if self._receiving not in OVER:
                    self._reader.put_back(left)
                return

    def _deliver_rest(self) -> None:
        """Go on after one frame which has changed the state, or within which more has arrived."""
        self._enter(Event.DELIVERED)
        if self._receiving is _READY:
            self._deliver()

    def _watch(self) -> None:
        """Have a frame that stands half way watched, and one that does not forgotten."""
        if self._stalls is None:
            return
        if self._receiving in HALF_WAY and not self._reader.is_empty:
            self._stalls.begin(self, again=self._receiving is not Input.NEW)
        else:
            self._stalls.end(self)

    def has_unread_input(self) -> bool:
        """Return whether the peer has sent something that was not read."""
        return has_unread_input(socket_under(self.transport))

    def _enter(self, event: Event) -> None:
        self._receiving = input_after(self._receiving, event)

    # Pausing

    def pauseProducing(self) -> None:
        before = self._receiving
        self._enter(Event.PAUSE)
        if self._receiving is not before:
            self._pause()

    def _pause(self) -> None:
        """Nothing is read from now on."""
        if self._recv is not None:
            self._poll.remove(self._descriptor)
        else:
            cast(Any, self.transport).pauseProducing()
        self._watch()

    def resumeProducing(self) -> None:
        before = self._receiving
        self._enter(Event.RESUME)
        if self._receiving is before:
            return
        if self._recv is not None:
            self._poll.add(self._descriptor, self)
        else:
            cast(Any, self.transport).resumeProducing()
        if self._receiving is _READY:
            self._deliver()

    # Turns

    def work_off(self, steps: Generator[bool, None, None]) -> None:
        """
        Answer a request in *steps*, each of them short, in as many slices of time as they take.

        Meanwhile no frame is delivered. The steps are closed when the connection ends before.

        Args:
            steps: Each yields whether this slice may end there.
        """
        self._steps, slice_ends = None, 0.0
        for may_wait in steps:
            if self._receiving in OVER:
                steps.close()
                return
            if may_wait:
                slice_ends = self._slice_from(slice_ends, Event.STEPS_LEFT)
                if slice_ends < 0:
                    self._steps = steps
                    return
        self._enter(Event.ANSWERED)

    def _slice_from(self, ends: float, left: Event) -> float:
        """
        Return when this slice of time ends, which begins now if *ends* is 0.

        Args:
            ends: The value that this returned last.
            left: The event of this connection when the slice is over.

        Returns:
            Less than 0 if it is over: this connection waits for its turn.
        """
        turns = self._turns
        if turns is None:
            return ends
        now = turns.seconds()
        if not ends:
            return now + SLICE_SECONDS
        if now < ends:
            return ends
        self._enter(left)
        turns.add(self, self._go_on)
        if self._recv is None:
            cast(Any, self.transport).pauseProducing()
            turns.wake()
        return -1.0

    def _go_on(self) -> None:
        """Go on where the last slice has ended; the next one has come."""
        self._enter(Event.TURN)
        if self._steps is not None:
            self.work_off(self._steps)
        if self._receiving is _READY:
            if self._is_behind():
                self.pauseProducing()
            else:
                self._deliver()
        if self._recv is None and not (self.waits or self.paused or self.lost):
            cast(Any, self.transport).resumeProducing()

    def _stop_reading(self) -> None:
        self._enter(Event.CLOSE)
        self._reader.clear()
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
        if length > _LONG_BYTES:
            self._send_long(string)
            return
        output = self._output
        if not output:
            add = self._flushes.add
            add(self)
        output.append(_pack_length(length) + string)

    # Ending

    def close(self, within_seconds: float = LONGEST_LINGER_SECONDS) -> None:
        """
        Send the buffer, read no more, and end the connection.

        On TCP the sending half closes first and later input is thrown
        away: a full close with unread input would reset the connection, and
        the peer might never read the error that explains it. A peer that takes
        nothing for the time that it has to linger is reset.

        Args:
            within_seconds: When it is reset at the latest, however it goes on.
        """
        if self.lost or self._sending in (Output.FINISHING, Output.ENDED):
            return
        for _ in self._steps or ():
            pass  # finish the request that has begun, so that it is answered
        was_paused = self.paused
        self._stop_reading()
        # Input is read to its end, and thrown away.
        if was_paused:
            cast(Any, self.transport).resumeProducing()
        self._read_by_reactor()
        # Before the output: a transport in memory may end at once.
        self._linger = linger = Linger(self, self._clock, self._linger_seconds, within_seconds)
        self.finish_sending()
        if not self.lost:
            linger.note_progress()

    def output_finished(self) -> None:
        """See `FrameSender.output_finished`: now the connection can end."""
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
        self._stop_reading()
        self._leave_poll()
        self.discard_output(Event.CLOSE)
        cast(Any, self.transport).abortConnection()

    def drop_because(self, reason: str) -> None:
        """End the connection at once, because of *reason*, which a subclass may tell."""
        self.abort()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 (the base's signature)
        self.discard_output(Event.LOSE)
        self._stop_reading()
        self._enter(Event.LOSE)
        self._leave_poll()
        if self._turns is not None:
            self._turns.forget(self)
            self._turns.reactor_reads -= self._descriptor < 0
        if self._stalls is not None:
            self._stalls.end(self)
        if self._linger is not None:
            self._linger.stop()
            self._linger = None
