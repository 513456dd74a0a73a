"""Frames over every kind of transport: in pieces, paused, over the limit, sent at once, and closed."""

from __future__ import annotations

import contextlib
import datetime
import socket
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IPullProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ISystemHandle,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import Int32StringReceiver, StringTooLongError
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport
from zope.interface import implementer

from gloom.transport.framing import FrameProtocol
from gloom.transport.sending import FlushTurn
from gloom.wire.framereader import to_frame

MIB = 1 << 20


class Frames(FrameProtocol):
    """
    Collects frames; answers an over-long frame as a broker does.

    Attributes:
        frames: The received frames.
        on_frame: Called with this protocol and each frame.
        gone: Fires with the reason of the connection's end.
    """

    def __init__(
        self,
        clock: Any = None,
        *,
        limit: int = 1024,
        linger_seconds: float = 1.0,
        on_frame: Callable[[Frames, bytes], None] = lambda frames, frame: None,
    ) -> None:
        clock = Clock() if clock is None else clock
        super().__init__(limit, FlushTurn(clock), clock, linger_seconds)
        self.frames: list[bytes] = []
        self.on_frame = on_frame
        self.gone: Deferred[BaseException] = Deferred()

    def stringReceived(self, string: bytes) -> None:
        self.frames.append(string)
        self.on_frame(self, string)

    def lengthLimitExceeded(self, length: int) -> None:
        self.sendString(b"too long")
        self.close()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        self.gone.callback(reason.value or ConnectionDone())


class EndingTransport(StringTransport):
    """A transport in memory that records the calls that end it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def loseConnection(self) -> None:
        self.ended.append("loseConnection")

    def abortConnection(self) -> None:
        self.ended.append("abortConnection")


def connected(**options: Any) -> tuple[Frames, EndingTransport, Clock]:
    clock = Clock()
    frames, transport = Frames(clock, **options), EndingTransport()
    frames.makeConnection(transport)
    return frames, transport, clock


# Reading


class Stock(Int32StringReceiver):
    """Twisted's own receiver, for comparison."""

    MAX_LENGTH = 1024

    def __init__(self, on_frame: Callable[[Any, bytes], None]) -> None:
        self.frames: list[bytes] = []
        self.on_frame = on_frame

    def stringReceived(self, string: bytes) -> None:
        self.frames.append(string)
        self.on_frame(self, string)


@settings(deadline=None, max_examples=200)
@given(
    sent=st.lists(st.binary(max_size=40), max_size=12),
    tail=st.binary(max_size=3),
    sizes=st.lists(st.integers(0, 5) | st.integers(0, 60), max_size=40),
    pause_at=st.sets(st.integers(0, 11)),
    resume_at=st.sets(st.integers(0, 30)),
)
def test_any_chunking_is_read_as_twisted_s_receiver_reads_it(
    sent: list[bytes], tail: bytes, sizes: list[int], pause_at: set[int], resume_at: set[int]
) -> None:
    """However a stream is cut, paused and resumed, both receivers deliver the same frames at the same moment."""

    def pause(protocol: Any, frame: bytes) -> None:
        if len(protocol.frames) - 1 in pause_at:
            protocol.pauseProducing()

    ours, theirs = Frames(on_frame=pause), Stock(pause)
    stream = b"".join(map(to_frame, sent)) + tail
    edges = [*accumulate(sizes, initial=0), len(stream)]
    for protocol in (ours, theirs):
        protocol.makeConnection(StringTransport())
    for number, (start, stop) in enumerate(pairwise(edges)):
        for protocol in (ours, theirs):
            protocol.dataReceived(stream[start:stop])
            if number in resume_at and protocol.paused:
                protocol.resumeProducing()
        assert ours.frames == theirs.frames
    for protocol in (ours, theirs):
        while protocol.paused:
            protocol.resumeProducing()
    assert ours.frames == theirs.frames == sent


def test_pausing_and_resuming_inside_a_frame_delivers_each_once() -> None:
    """A receiver that pauses and resumes while it reads a frame gets every frame once, in order."""

    def blink(frames: Frames, frame: bytes) -> None:
        frames.pauseProducing()
        frames.resumeProducing()

    frames, _, _ = connected(on_frame=blink)
    sent = [b"0", b"1", b"2"]
    frames.dataReceived(b"".join(map(to_frame, sent)) + b"\0")
    assert frames.frames == sent
    frames.dataReceived(b"\0\0\1x")
    assert frames.frames == [*sent, b"x"]


def test_a_paused_connection_delivers_nothing_until_it_is_resumed() -> None:
    """A paused connection delivers no frame, whatever arrives; once resumed, it delivers all of them in order."""
    frames, transport, _ = connected()
    frames.pauseProducing()
    frames.dataReceived(to_frame(b"1"))
    frames.dataReceived(to_frame(b"2"))
    assert frames.frames == []
    assert transport.producerState == "paused"
    frames.resumeProducing()
    assert frames.frames == [b"1", b"2"]
    assert transport.producerState == "producing"


@pytest.mark.parametrize("blinks", [False, True])
def test_bytes_that_arrive_inside_a_frame_come_after_it(blinks: bool) -> None:
    """Input that arrives during the delivery of a frame comes after the buffered input, even if the receiver pauses."""

    def feed(frames: Frames, frame: bytes) -> None:
        if frame == b"1":
            frames.dataReceived(b"lf" + to_frame(b"4") + b"\0\0")
            if blinks:
                frames.pauseProducing()
                frames.resumeProducing()

    frames, _, _ = connected(on_frame=feed)
    frames.dataReceived(to_frame(b"1") + to_frame(b"2") + to_frame(b"half")[:-2])
    assert frames.frames == [b"1", b"2", b"half", b"4"]
    frames.dataReceived(b"\0\1x")
    assert frames.frames == [b"1", b"2", b"half", b"4", b"x"]


def test_a_short_frame_does_not_wait_for_the_length_of_a_long_one() -> None:
    """After a long frame in pieces, a short frame whose header comes in pieces is delivered once complete."""
    frames, _, _ = connected()
    frames.dataReceived(to_frame(bytes(1000))[:10])
    frames.dataReceived(to_frame(bytes(1000))[10:] + b"\0\0")
    frames.dataReceived(b"\0\1x")
    assert frames.frames == [bytes(1000), b"x"]


@pytest.mark.parametrize("how", ["close", "connectionLost"])
def test_what_was_not_delivered_is_not_kept(how: str) -> None:
    """Input that is buffered for a paused receiver is freed when the connection ends."""
    frames, _, _ = connected()
    frames.pauseProducing()
    frames.dataReceived(to_frame(b"1"))
    getattr(frames, how)()
    assert frames._reader.is_empty
    frames.resumeProducing()
    assert frames.frames == []


@pytest.mark.parametrize("how", ["close", "connectionLost"])
def test_nothing_is_delivered_after_the_end(how: str) -> None:
    """Frames behind the one that ended the connection are not delivered, nor are later bytes."""

    def end(frames: Frames, frame: bytes) -> None:
        getattr(frames, how)()

    frames, _, _ = connected(on_frame=end)
    frames.dataReceived(to_frame(b"1") + to_frame(b"2") + b"\0")
    frames.dataReceived(to_frame(b"3"))
    frames.pauseProducing()
    frames.resumeProducing()
    assert frames.frames == [b"1"]
    assert frames._reader.is_empty


def test_a_frame_of_exactly_the_limit_is_accepted() -> None:
    """A payload of exactly the limit is accepted, and so is an empty one."""
    frames, transport, _ = connected(limit=100)
    frames.dataReceived(to_frame(bytes(100)) + to_frame(b""))
    assert frames.frames == [bytes(100), b""]
    assert transport.ended == []


def test_a_limit_that_grows_counts_from_the_next_frame_on() -> None:
    """A receiver may raise its limit after its first frame, with effect on later frames of the same read."""

    def allow_more(frames: Frames, frame: bytes) -> None:
        frames.MAX_LENGTH = 100

    frames, transport, _ = connected(limit=10, on_frame=allow_more)
    frames.dataReceived(to_frame(b"1") + to_frame(bytes(100)))
    assert frames.frames == [b"1", bytes(100)]
    assert transport.ended == []


@pytest.mark.parametrize("length", [101, 2**32 - 1])
def test_a_frame_over_the_limit_is_answered_and_nothing_of_it_is_kept(length: int) -> None:
    """A frame one byte over the limit is answered with an error and ends the connection; earlier frames count."""
    frames, transport, _ = connected(limit=100)
    header = length.to_bytes(4, "big")
    frames.dataReceived(to_frame(b"before") + header + b"x" * 50)
    assert (frames.frames, transport.value(), transport.ended) == (
        [b"before"],
        to_frame(b"too long"),
        ["loseConnection"],
    )
    for _ in range(100):
        frames.dataReceived(b"x" * 1000)
    frames.dataReceived(to_frame(b"after"))
    assert frames.frames == [b"before"]
    assert frames._reader.is_empty


def test_the_length_alone_is_enough_to_refuse() -> None:
    """The limit is checked on the header, before any payload arrives."""
    frames, transport, _ = connected(limit=100)
    for byte in b"\0\0\0\x65":
        assert transport.ended == []
        frames.dataReceived(bytes([byte]))
    assert transport.ended == ["loseConnection"]


def seconds_to_receive(payload_bytes: int, piece_bytes: int) -> float:
    frames, _, _ = connected(limit=payload_bytes)
    piece = bytes(piece_bytes)
    began = time.process_time()
    frames.dataReceived(payload_bytes.to_bytes(4, "big"))
    for _ in range(payload_bytes // piece_bytes):
        frames.dataReceived(piece)
    seconds = time.process_time() - began
    assert [len(frame) for frame in frames.frames] == [payload_bytes]
    return seconds


@pytest.mark.alone
def test_a_frame_costs_the_same_in_few_pieces_and_in_many() -> None:
    """A frame of 64 MiB in 1,024 reads is not copied at each read: it costs about as much as in 8 reads."""
    # Alternate the two, so that a busy machine slows both.
    costs = [(seconds_to_receive(64 * MIB, 8 * MIB), seconds_to_receive(64 * MIB, 64 * 1024)) for _ in range(4)]
    few, many = (min(times) for times in zip(*costs, strict=True))
    # Twisted's receiver takes more than 30 times as long. Comparing sizes instead
    # would measure whether malloc has the memory at hand or gets it page by page.
    assert many < 10 * few


# Writing


class CountingSocket(socket.socket):
    """A socket that records the size of each send."""

    sends: list[int]

    def send(self, data: Any, flags: int = 0) -> int:
        sent = super().send(data, flags)
        self.sends.append(sent)
        return sent


@implementer(ISystemHandle)
class SocketTransport(EndingTransport):
    """Twisted's transport over a real socket, whose own buffer moves only when the test drains it."""

    def __init__(self, handle: socket.socket) -> None:
        super().__init__()
        self.handle = handle
        self.buffer = b""
        self.pull: IPullProducer | None = None

    def getHandle(self) -> socket.socket:
        return self.handle

    def write(self, data: bytes) -> None:
        self.buffer += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert not streaming
        assert self.pull is None
        self.pull = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.pull = None

    def drain(self) -> bool:
        """Do the reactor's work when the socket is writable; return whether the buffer is empty."""
        with contextlib.suppress(BlockingIOError):
            self.buffer = self.buffer[self.handle.send(self.buffer) :]
        if not self.buffer and self.pull is not None:
            self.pull.resumeProducing()
        return not self.buffer


class Wire:
    """A `Frames` over one end of a socket pair, and the other end."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.near = CountingSocket(near.family, near.type, fileno=near.detach())
        self.near.sends = []
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.clock = Clock()
        self.frames = Frames(self.clock)
        self.transport = SocketTransport(self.near)
        self.frames.makeConnection(self.transport)

    def turn(self) -> None:
        self.clock.advance(0)

    def arrived(self) -> bytes:
        pieces = []
        with contextlib.suppress(BlockingIOError):
            while piece := self.far.recv(65536):
                pieces.append(piece)
        return b"".join(pieces)

    def arrives(self) -> bytes:
        """Drain the transport and read until it is empty."""
        data = b""
        while True:
            drained = self.transport.drain()
            data += self.arrived()
            if drained:
                return data


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.near.close()
    wire.far.close()


def test_the_frames_of_one_turn_leave_in_one_send(wire: Wire) -> None:
    """The frames to one peer in one turn leave in one system call, at the end of the turn."""
    for number in range(20):
        wire.frames.sendString(b"%d" % number)
    wire.frames.send_frame(to_frame(b"whole"))
    assert wire.near.sends == []
    wire.turn()
    data = b"".join(to_frame(b"%d" % number) for number in range(20)) + to_frame(b"whole")
    assert wire.near.sends == [len(data)]
    assert wire.arrived() == data
    wire.turn()
    assert wire.near.sends == [len(data)]


def test_what_the_socket_does_not_take_goes_through_the_transport(wire: Wire) -> None:
    """A slow reader receives everything in order; once it has caught up, sending is direct again."""
    large = b"x" * MIB
    wire.frames.sendString(large)
    wire.turn()
    direct = len(wire.near.sends)
    assert 0 < sum(wire.near.sends) < MIB
    wire.frames.sendString(b"2")
    wire.turn()
    wire.frames.sendString(b"3")
    wire.turn()
    assert len(wire.near.sends) == direct
    assert wire.arrives() == to_frame(large) + to_frame(b"2") + to_frame(b"3")
    assert wire.transport.pull is None
    direct = len(wire.near.sends)
    wire.frames.sendString(b"4")
    wire.turn()
    assert wire.transport.buffer == b""
    assert len(wire.near.sends) == direct + 1
    assert wire.arrived() == to_frame(b"4")


def test_a_peer_that_is_slow_twice_is_served_twice(wire: Wire) -> None:
    """A connection may fall back to the transport and return to direct sending any number of times."""
    for _ in range(3):
        wire.frames.sendString(b"y" * MIB)
        wire.turn()
        assert wire.transport.buffer
        assert wire.arrives() == to_frame(b"y" * MIB)


def test_everything_that_waits_is_counted(wire: Wire) -> None:
    """The count of unsent bytes covers a partly sent frame, the transport's buffer, and later frames."""
    said = to_frame(b"a" * MIB) + to_frame(b"b" * MIB) + to_frame(b"c")
    for frame in (b"a" * MIB, b"b" * MIB, b"c"):
        wire.frames.sendString(frame)
        wire.turn()
        assert wire.frames.waiting_bytes == sum(map(len, (*wire.frames._backlog, wire.transport.buffer)))
    assert wire.frames.waiting_bytes == len(said) - sum(wire.near.sends)
    arrived = wire.arrived()
    while not wire.transport.drain():
        arrived += wire.arrived()
    assert (arrived + wire.arrived(), wire.frames.waiting_bytes) == (said, 0)


def test_what_a_peer_takes_is_seen_however_slowly_it_reads(wire: Wire) -> None:
    """Each read of the peer is progress, even before the socket has room for more."""
    wire.frames.sendString(b"a" * MIB)
    wire.turn()
    for _ in range(20):
        before = wire.frames.taken_bytes()
        assert wire.far.recv(4096)
        wire.transport.drain()
        assert wire.frames.taken_bytes() > before
    before = wire.frames.taken_bytes()
    wire.transport.drain()
    assert wire.frames.taken_bytes() == before


def test_many_small_frames_that_waited_leave_in_few_sends(wire: Wire) -> None:
    """10,000 outcomes that a master reads late leave in a few system calls, not in one each."""
    wire.frames.sendString(b"a" * MIB)
    wire.turn()
    for number in range(10_000):
        wire.frames.sendString(b"%d" % number)
        wire.turn()
    wire.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    sends = len(wire.near.sends)
    arrived = wire.arrives()
    assert arrived.endswith(to_frame(b"9998") + to_frame(b"9999"))
    assert len(wire.near.sends) - sends < 500


def test_a_peer_that_takes_all_at_once_leaves_the_reactor_to_others(wire: Wire) -> None:
    """However fast a peer reads its backlog, one turn sends a bounded part of it."""
    sent: list[int] = []
    wire.frames._socket_send = lambda data: sent.append(len(data)) or len(data)  # type: ignore[func-returns-value]
    for _ in range(64):
        wire.frames.sendString(b"a" * MIB)
    wire.turn()
    turns = 1
    assert 0 < sum(sent) <= 10 * MIB
    while wire.frames.waiting_bytes:
        before = sum(sent)
        wire.transport.buffer = b""
        assert wire.transport.pull is not None
        wire.transport.pull.resumeProducing()
        assert sum(sent) - before <= 10 * MIB
        turns += 1
    assert turns >= 7
    assert wire.transport.pull is None


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "closes"])
def test_a_connection_that_was_aborted_keeps_nothing(wire: Wire, ends: bool) -> None:
    """An aborted connection frees its buffer, sends no more, and does not end a second time."""
    wire.frames.sendString(b"a" * MIB)
    wire.turn()
    wire.frames.abort()
    wire.frames.sendString(b"b")
    wire.turn()
    if ends:
        wire.frames.close()
    wire.transport.drain()
    assert (wire.frames.waiting_bytes, len(wire.frames._backlog)) == (0, 0)
    assert wire.transport.ended == ["abortConnection"]


def test_a_full_socket_takes_nothing_and_loses_nothing(wire: Wire) -> None:
    """When the socket accepts no byte, the transport gets all of them."""
    with contextlib.suppress(BlockingIOError):
        while True:
            wire.near.send(bytes(65536))
    wire.frames.sendString(b"late")
    wire.turn()
    assert wire.transport.buffer == to_frame(b"late")


def test_a_broken_socket_is_the_transport_s_to_report(wire: Wire) -> None:
    """Sending to a disconnected peer raises nothing: the transport meets the error and ends the connection."""
    wire.far.close()
    wire.frames.sendString(b"into the void")
    wire.turn()
    assert wire.transport.buffer == to_frame(b"into the void")
    with pytest.raises(BrokenPipeError):
        wire.transport.drain()
    wire.transport.pull.stopProducing()  # type: ignore[union-attr]
    wire.frames.connectionLost()


def test_without_a_socket_the_transport_sends() -> None:
    """Over a transport without its own socket, one turn is one write."""
    frames, transport, clock = connected()
    frames.sendString(b"1")
    frames.sendString(b"2")
    assert transport.value() == b""
    clock.advance(0)
    assert transport.value() == to_frame(b"1") + to_frame(b"2")


def test_one_flush_serves_all_connections() -> None:
    """Connections that are flushed in the same turn share one timer."""
    clock = Clock()
    turn = FlushTurn(clock)
    pairs = [(FrameProtocol(100, turn, clock), StringTransport()) for _ in range(3)]
    for frames, transport in pairs:
        frames.makeConnection(transport)
        frames.sendString(b"1")
        frames.sendString(b"2")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert {transport.value() for _, transport in pairs} == {to_frame(b"1") + to_frame(b"2")}
    assert not clock.getDelayedCalls()


class Huge(bytes):
    """Its length exceeds the header's range."""

    def __len__(self) -> int:
        return 2**32


def test_a_frame_that_no_header_can_announce_is_refused() -> None:
    """A frame of more than 4 GiB is the sender's error, and no byte of it is sent."""
    frames, transport, clock = connected()
    with pytest.raises(StringTooLongError):
        frames.sendString(Huge())
    clock.advance(0)
    assert transport.value() == b""


@pytest.mark.parametrize("end", ["close", "connectionLost"])
def test_what_is_said_after_the_end_is_dropped(end: str) -> None:
    """The error that closes a connection is its last frame; later frames are neither sent nor kept."""
    frames, transport, clock = connected()
    frames.sendString(b"error")
    getattr(frames, end)()
    for _ in range(3):
        frames.sendString(b"outcome")
        clock.advance(0)
    assert transport.value() == (to_frame(b"error") if end == "close" else b"")
    assert frames._output == []


# Ending


def test_close_ends_once() -> None:
    """A second close, or a close after the end, has no effect."""
    frames, transport, clock = connected()
    frames.close()
    frames.close()
    assert transport.ended == ["loseConnection"]
    frames.connectionLost()
    frames.close()
    clock.advance(60)
    assert transport.ended == ["loseConnection"]


def test_a_peer_that_does_not_end_is_dropped() -> None:
    """A closed connection that does not end within its time is aborted."""
    frames, transport, clock = connected(linger_seconds=2.5)
    frames.close()
    clock.advance(2.4)
    assert transport.ended == ["loseConnection"]
    clock.advance(0.1)
    assert transport.ended == ["loseConnection", "abortConnection"]
    frames.connectionLost()
    assert not clock.getDelayedCalls()


def test_a_peer_that_goes_on_reading_is_not_cut_off(wire: Wire) -> None:
    """After a close, the linger time restarts at each byte that the peer reads, and the peer receives all of them."""
    wire.frames.sendString(b"a" * 64 * 1024)
    wire.turn()
    wire.frames.sendString(b"b" * 64 * 1024)
    wire.frames.close()
    arrived = b""
    while not wire.transport.ended and len(arrived) < 128 * 1024:
        wire.clock.advance(0.9)
        arrived += wire.far.recv(100_000)
        wire.transport.drain()
    arrived += wire.arrives()
    assert arrived == to_frame(b"a" * 64 * 1024) + to_frame(b"b" * 64 * 1024)
    assert wire.transport.ended == ["loseConnection"]
    wire.clock.advance(0.5)
    wire.clock.advance(1)
    assert wire.transport.ended == ["loseConnection", "abortConnection"]


def test_a_slow_reader_has_no_more_than_the_time_of_the_close(wire: Wire) -> None:
    """The total time of a close is limited, however steadily the peer reads."""
    wire.frames.sendString(b"a" * MIB)
    wire.turn()
    wire.frames.close(within_seconds=5)
    seconds = 0.0
    while not wire.transport.ended:
        wire.clock.advance(0.25)
        seconds += 0.25
        wire.far.recv(5000)
        wire.transport.drain()
    assert (wire.transport.ended, seconds) == (["abortConnection"], 5)


def test_a_peer_that_was_not_read_from_is_read_to_its_end() -> None:
    """After a close, input of a paused peer is read and discarded, so that its end is noticed."""
    frames, transport, _ = connected()
    frames.pauseProducing()
    frames.close()
    assert transport.producerState == "producing"


def test_without_its_own_answer_a_frame_over_the_limit_closes() -> None:
    """A receiver that does not override lengthLimitExceeded closes the connection, as Twisted's does."""
    frames, transport = FrameProtocol(10, FlushTurn(Clock()), Clock()), EndingTransport()
    frames.makeConnection(transport)
    frames.dataReceived(b"\0\0\0\x0b")
    assert transport.ended == ["loseConnection"]


def test_a_transport_in_memory_that_claims_tcp_is_served() -> None:
    """Twisted's doubles claim TCP but have no socket, so no socket option is set."""
    frames = Frames()
    transport = FakeTransport(frames, isServer=True)
    frames.makeConnection(transport)
    frames.sendString(b"1")
    frames.flush()
    assert transport.getOutBuffer() == to_frame(b"1")


# Real sockets


@implementer(IHalfCloseableProtocol)
class Collector(Protocol):
    """
    Reads to the end, and sends its remaining bytes afterwards.

    Attributes:
        data: The received bytes.
        gone: Fires with the reason of the connection's end.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.gone: Deferred[BaseException] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]

    def writeConnectionLost(self) -> None:
        """Close the sending half once all bytes are sent."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.gone.callback(reason.value or ConnectionDone())


class Server:
    """A listening port whose connections are `Frames`."""

    def __init__(self, **options: Any) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.options = options
        self.protocols: list[Frames] = []

    async def listen(self, description: str = "tcp:0:interface=127.0.0.1") -> IListeningPort:
        return await self.listen_at(serverFromString(self.reactor, description))

    async def listen_at(self, endpoint: IStreamServerEndpoint) -> IListeningPort:
        factory = Factory.forProtocol(self.build)
        factory.noisy = False
        self.port: IListeningPort = await endpoint.listen(factory)
        return self.port

    def build(self) -> Frames:
        protocol = Frames(self.reactor, **self.options)
        self.protocols.append(protocol)
        return protocol

    async def connect(self, description: str | None = None) -> Collector:
        if description is None:
            description = f"tcp:127.0.0.1:{self.port.getHost().port}"  # type: ignore[attr-defined]
        return await self.connect_to(clientFromString(self.reactor, description))

    async def connect_to(self, endpoint: IStreamClientEndpoint) -> Collector:
        client: Collector = await connectProtocol(endpoint, Collector())
        return client

    async def stop(self) -> None:
        for protocol in self.protocols:
            if not protocol.lost:
                protocol.transport.abortConnection()
                await protocol.gone
        await maybeDeferred(self.port.stopListening)


def answer_and_close(frames: Frames, frame: bytes) -> None:
    frames.sendString(b"error")
    frames.close()


async def test_the_last_word_is_read_although_input_is_pending() -> None:
    """A peer that still sends when the connection is closed reads the error, and meets no reset meanwhile."""
    server = Server(on_frame=answer_and_close)
    await server.listen()
    client = await server.connect()
    client.transport.write(to_frame(b"nonsense") + bytes(4 * MIB))  # type: ignore[union-attr]
    why = await client.gone
    assert client.data == to_frame(b"error")
    assert isinstance(why, ConnectionDone)
    await server.stop()


async def test_a_slow_peer_reads_all_before_the_end() -> None:
    """A close with much unsent data sends all of it first, and then ends cleanly."""

    def answer_much_and_close(frames: Frames, frame: bytes) -> None:
        frames.sendString(bytes(8 * MIB))
        frames.flush()
        answer_and_close(frames, frame)

    server = Server(on_frame=answer_much_and_close, linger_seconds=4)
    await server.listen()
    client = await server.connect()
    client.transport.write(to_frame(b"go"))  # type: ignore[union-attr]
    why = await client.gone
    assert client.data == to_frame(bytes(8 * MIB)) + to_frame(b"error")
    assert isinstance(why, ConnectionDone)
    await server.stop()


async def test_a_peer_that_never_closes_is_dropped() -> None:
    """A peer that neither reads nor closes holds its connection no longer than the linger time."""
    server = Server(on_frame=answer_and_close, linger_seconds=0.05)
    await server.listen()
    client = await server.connect()
    client.transport.write(to_frame(b"1"))  # type: ignore[union-attr]
    client.transport.pauseProducing()  # type: ignore[union-attr]
    while not server.protocols:
        await turn()
    await server.protocols[0].gone
    client.transport.resumeProducing()  # type: ignore[union-attr]
    assert isinstance(await client.gone, ConnectionLost | ConnectionDone)
    await server.stop()


async def test_connections_are_tuned_for_short_messages_and_lost_hosts() -> None:
    """Small frames are sent without delay, and a vanished host is noticed in about a minute."""
    server = Server()
    await server.listen()
    client = await server.connect()
    client.transport.write(to_frame(b"1"))  # type: ignore[union-attr]
    while not server.protocols or not server.protocols[0].frames:
        await turn()
    check_tcp_options(server.protocols[0].transport.getHandle())
    await server.stop()
    await client.gone


def check_tcp_options(handle: socket.socket) -> None:
    def value(option: str) -> int:
        return handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))

    assert value("TCP_NODELAY")
    assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert value("TCP_KEEPIDLE") + value("TCP_KEEPINTVL") * value("TCP_KEEPCNT") == 60
    assert value("TCP_USER_TIMEOUT") == 60_000


async def turn() -> None:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0.001)


def echo(frames: Frames, frame: bytes) -> None:
    if frame == b"bad":
        answer_and_close(frames, frame)
    else:
        frames.sendString(frame)


async def test_a_unix_socket_is_a_wire_like_another(tmp_path: Path) -> None:
    """A unix socket carries frames of any size and the end after an error, without a log line."""
    server = Server(on_frame=echo, limit=8 * MIB)
    await server.listen(f"unix:{tmp_path / 's'}")
    client = await server.connect(f"unix:{tmp_path / 's'}")
    sent = to_frame(b"1") + to_frame(b"y" * 8 * MIB) + to_frame(b"2")
    client.transport.write(sent + to_frame(b"bad") + b"more")  # type: ignore[union-attr]
    await client.gone
    assert client.data == sent + to_frame(b"error")
    await server.stop()


async def test_tls_is_a_wire_like_another(tmp_path: Path) -> None:
    """TLS encrypts every byte, the options are set on the socket below, and the peer reads the error that closes."""
    pytest.importorskip("OpenSSL", reason="needs gloom[tls]")
    certificate = write_certificate(tmp_path / "broker.pem")
    server = Server(on_frame=echo, limit=8 * MIB)
    await server.listen(f"ssl:0:interface=127.0.0.1:privateKey={certificate}")
    port = server.port.getHost().port  # type: ignore[attr-defined]
    client = await server.connect(f"ssl:127.0.0.1:{port}:caCertsDir={tmp_path}")
    sent = to_frame(b"1") + to_frame(b"z" * 4 * MIB) + to_frame(b"2")
    client.transport.write(sent)  # type: ignore[union-attr]
    while len(client.data) < len(sent):
        await turn()
    check_tcp_options(server.protocols[0].transport.transport.getHandle())
    client.transport.write(to_frame(b"bad") + bytes(1000))  # type: ignore[union-attr]
    await client.gone
    assert client.data == sent + to_frame(b"error")
    await server.stop()


def write_certificate(path: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 into one file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
