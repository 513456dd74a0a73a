"""Frames that no single read holds: in pieces, read by the poll, in maps of their own."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.task import Clock

from gloom.errors import InvalidJSON, MissingField
from gloom.transport.framing import FrameProtocol
from gloom.transport.sending import FlushTurn
from gloom.wire.encoding import encode_answer, encode_job, encode_progress
from gloom.wire.framereader import to_frame
from gloom.wire.largebytes import MAPPED_OVER_BYTES, LargePayload, MappedBytes
from gloom.wire.messages import MASTER, Submit, Vocabulary
from tests.transport.test_framing import MIB, Frames, SocketTransport, connected

SENT = [
    b"first",
    b"a" * 65_537,
    b"",
    b"b" * 300_000,
    b"c" * 65_536,
    b"d" * (MAPPED_OVER_BYTES + 10),
    b"e" * 9,
    b"f" * MIB,
]
STREAM = b"".join(map(to_frame, SENT))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pauses", [False, True])
def test_large_frames_come_whole_and_in_order_however_they_are_cut(seed: int, pauses: bool) -> None:
    """Small frames and large ones, cut anywhere, paused anywhere: each comes once, whole, in order."""
    chance = random.Random(seed)

    def pause(frames: Frames, frame: bytes) -> None:
        if pauses and chance.random() < 0.5:
            frames.pauseProducing()

    frames, _, _ = connected(limit=2 * MAPPED_OVER_BYTES, on_frame=pause)
    start = 0
    while start < len(STREAM):
        stop = start + chance.choice([1, 3, 4, 1000, 65_536, 65_536, 200_000, 3 * MIB])
        frames.dataReceived(STREAM[start:stop])
        start = stop
        if frames.paused and chance.random() < 0.5:
            frames.resumeProducing()
    while frames.paused:
        frames.resumeProducing()
    assert list(map(bytes, frames.frames)) == SENT


def test_a_large_frame_waits_for_a_paused_receiver() -> None:
    """A receiver that pauses in mid-frame gets the large frame on resuming, and later frames after it."""
    frames, _, _ = connected(limit=MIB)
    data = to_frame(bytes(MIB)) + to_frame(b"next")
    frames.dataReceived(data[:100_000])
    frames.pauseProducing()
    frames.dataReceived(data[100_000:-3])
    frames.dataReceived(data[-3:])
    assert frames.frames == []
    frames.resumeProducing()
    assert frames.frames == [bytes(MIB), b"next"]


def test_input_that_arrives_inside_a_large_frame_comes_after_it() -> None:
    """Input that arrives while a large frame is read comes after it."""

    def feed(frames: Frames, frame: bytes) -> None:
        if frame != b"2":
            frames.dataReceived(to_frame(b"2"))
            assert frames.frames == [bytes(MIB)]

    frames, _, _ = connected(limit=MIB, on_frame=feed)
    for part in (to_frame(bytes(MIB))[:10], to_frame(bytes(MIB))[10:]):
        frames.dataReceived(part)
    assert frames.frames == [bytes(MIB), b"2"]


@pytest.mark.parametrize("how", ["close", "connectionLost"])
def test_a_large_frame_half_way_is_not_kept_after_the_end(how: str) -> None:
    """A connection that ends in the middle of a large frame keeps nothing of it, and delivers nothing."""
    frames, _, _ = connected(limit=MIB)
    frames.dataReceived(to_frame(bytes(MIB))[:-10])
    getattr(frames, how)()
    assert frames._reader.is_empty
    frames.dataReceived(bytes(10))
    assert frames.frames == []


def test_an_announced_frame_takes_no_memory_before_it_comes() -> None:
    """Strangers that announce a frame of 1 GiB and send 100 KB make the broker allocate little more than 100 KB."""
    before = resident_bytes()
    open_ones = []
    for _ in range(20):
        frames, _, _ = connected(limit=1 << 30)
        frames.dataReceived((1 << 30).to_bytes(4, "big") + bytes(100_000))
        open_ones.append(frames)
    assert resident_bytes() - before < 20 * MIB


def test_a_map_takes_memory_as_it_is_written() -> None:
    """A frame of 1 GiB of which 9 MiB have arrived takes no more than a few huge pages beyond them."""
    before = resident_bytes()
    payload = LargePayload(1 << 30)
    for _ in range(9):
        payload.add(bytes(MIB))
    assert payload.missing == (1 << 30) - 9 * MIB
    assert resident_bytes() - before < 30 * MIB


# Read by the poll


class ReadSizes(socket.socket):
    """A socket that writes down how much was asked for, and never has more than that at once."""

    asked: list[int]

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.asked.append(size)
        return super().recv(size, flags)


class NoPoll:
    """Records its readers; the test triggers the reads."""

    def add(self, descriptor: int, reader: Any) -> None:
        """There is something to read whenever the test says so."""

    def remove(self, descriptor: int) -> None:
        """Nobody reads any more."""


def test_large_frames_are_read_to_their_end_and_not_beyond() -> None:
    """The poll reads at most 1 MiB of a large frame at once, which leaves others their turn, and stops at its end."""
    near, far = socket.socketpair()
    near = ReadSizes(near.family, near.type, fileno=near.detach())
    near.asked = []
    near.setblocking(False)
    far.setblocking(False)
    clock, poll, got = Clock(), NoPoll(), []

    class Collects(FrameProtocol):
        def stringReceived(self, string: bytes) -> None:
            got.append(bytes(string))

    frames = Collects(16 * MIB, FlushTurn(clock), clock, poll=poll)  # type: ignore[arg-type]
    frames.makeConnection(SocketTransport(near))
    left = memoryview(STREAM + to_frame(b"tiny"))
    while left or len(got) <= len(SENT):
        with contextlib.suppress(BlockingIOError):
            left = left[far.send(left) :]
        frames.read_socket()
    assert got == [*SENT, b"tiny"]
    assert max(near.asked) == MIB
    # Large frames are read exactly to their end, and the next frame's header is read alone.
    assert near.asked.count(4) >= 3
    near.close()
    far.close()


# As messages


def mapped(data: bytes) -> MappedBytes:
    """Return *data* as it comes when it is large."""
    payload = LargePayload(len(data))
    assert payload.add(data + b"rest") == b"rest"
    whole = payload.whole()
    assert isinstance(whole, MappedBytes)
    return whole


def submit(body: bytes, start: bytes = b'{"action":"submit","id":1,"type":"t",') -> MappedBytes:
    return mapped(start + b'"body":"' + body + b'"}')


BODY = b"x" * (MAPPED_OVER_BYTES + 1)
decode = Vocabulary(MASTER, extended=False).decode


@pytest.mark.parametrize("body", [BODY, BODY + "é€😀".encode(), "é".encode() + BODY])
def test_a_large_body_stays_as_it_is(body: bytes) -> None:
    """A large body goes to the slave and to the master byte for byte, ASCII or not."""
    request = decode(submit(body))
    assert isinstance(request, Submit)
    quoted = b'"' + body + b'"'
    assert bytes(request.body) == quoted
    assert bytes(encode_job(1, "t", request.body)) == b'{"action":"job","id":1,"type":"t","body":' + quoted + b"}"
    assert bytes(encode_answer("1", request.body)) == b'{"id":"1","body":' + quoted + b"}"
    assert bytes(encode_progress("1", request.body)) == b'{"id":"1","progress":' + quoted + b"}"


@pytest.mark.parametrize("body", [BODY + b"\xff", b"\xc3" + BODY, BODY + b"\xed\xa0\x80"])
def test_a_large_body_must_be_utf_8(body: bytes) -> None:
    """A large frame that is not UTF-8 is refused as a small one is, wherever in it that shows."""
    with pytest.raises(InvalidJSON, match="not UTF-8"):
        decode(submit(body))


def test_a_large_frame_that_is_wrong_is_explained() -> None:
    """An invalid large frame has the same error text as a small one."""
    with pytest.raises(InvalidJSON):
        decode(mapped(BODY))
    with pytest.raises(InvalidJSON):
        decode(submit(BODY + b"\n"))
    with pytest.raises(MissingField, match="id is required by submit"):
        decode(submit(BODY, b'{"action":"submit",'))


def test_a_body_outlives_the_frame_it_came_in() -> None:
    """A body that is kept keeps its bytes, though the frame around it is forgotten."""
    body = decode(submit(BODY)).body  # type: ignore[attr-defined]
    again = [mapped(b"y" * len(BODY)) for _ in range(3)]
    assert bytes(body) == b'"' + BODY + b'"'
    assert len(again) == 3


def test_a_message_for_the_wire_is_made_of_small_pieces_as_before() -> None:
    """A small message is bytes, a large one as good as bytes."""
    assert type(encode_answer(1, msgspec.Raw(b"1"))) is bytes
    assert isinstance(encode_answer(1, msgspec.Raw(b'"' + BODY + b'"')), MappedBytes)
