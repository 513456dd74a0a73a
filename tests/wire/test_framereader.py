"""Bytes into frames: in any pieces, in linear time, one after the other or all at once."""

from __future__ import annotations

import struct
from time import thread_time

from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.wire.framereader import LARGEST_FRAME_BYTES, READ_BYTES, FrameReader, to_frame
from gloom.wire.largebytes import Payload

PAYLOADS = st.lists(st.binary(max_size=100) | st.binary(max_size=200_000), max_size=6)
CUTS = st.lists(st.integers(1, 150_000), min_size=1, max_size=20)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, at = list[bytes](), 0
    while at < len(data):
        pieces.append(data[at : at + cuts[len(pieces) % len(cuts)]])
        at += len(pieces[-1])
    return pieces


@settings(max_examples=100, deadline=None)
@given(PAYLOADS, CUTS)
def test_frames_come_whole_whatever_pieces_they_come_in(payloads: list[bytes], cuts: list[int]) -> None:
    """The payloads that come out are those that went in, in order, one whole frame or many or a part of one a piece."""
    reader, found = FrameReader(), list[Payload]()
    frames = list(map(to_frame, payloads))
    for piece in [*pieces_of(b"".join(frames), cuts), *frames]:
        found += reader.payloads_of(piece)
    assert found == 2 * payloads
    assert reader.is_empty
    assert reader.cut_off() == ""


@settings(max_examples=200, deadline=None)
@given(PAYLOADS, CUTS, st.lists(st.booleans(), min_size=1, max_size=20), st.lists(st.integers(0, 3), min_size=1))
def test_a_payload_that_is_put_back_comes_again_before_what_follows(
    payloads: list[bytes], cuts: list[int], takes: list[bool], accepted: list[int]
) -> None:
    """Whenever the taker stops, between whichever frames, and whatever arrives meanwhile, nothing is lost or turned."""
    reader, found, asked = FrameReader(), list[Payload](), 0

    def take(limited: bool) -> None:
        nonlocal asked
        more = reader.more(LARGEST_FRAME_BYTES)
        asked += 1
        most = accepted[asked % len(accepted)] if limited else len(more)
        found.extend(more[:most])
        reader.put_back(more[most:])

    for turn, piece in enumerate(pieces_of(b"".join(map(to_frame, payloads)), cuts)):
        reader.keep(piece)
        if takes[turn % len(takes)]:
            take(limited=True)
    while reader.has_more:
        take(limited=False)
    assert found == payloads
    assert reader.is_empty


def test_one_look_takes_a_bounded_part_of_what_is_there() -> None:
    """Many small frames come about a KiB at a time, so that their taker can look at the time in between."""
    reader = FrameReader()
    reader.keep(100 * to_frame(bytes(60)))
    sizes = []
    while reader.has_more:
        sizes.append(sum(map(len, reader.more(100))))
    assert sum(sizes) == 6000
    assert max(sizes) <= 1100


def test_a_look_finds_a_frame_that_has_come_in_pieces_since_the_last_one() -> None:
    """However often bytes were kept in between: no payload comes only if none is whole."""
    for whole in (to_frame(b""), to_frame(b"abc"), to_frame(bytes(READ_BYTES)), to_frame(bytes(2 * READ_BYTES))):
        for cut in (1, 3, 4, 5, len(whole) - 1):
            reader = FrameReader()
            reader.keep(whole[:cut])
            reader.keep(whole[cut:] + to_frame(b"next"))
            found = reader.more(LARGEST_FRAME_BYTES)
            assert found[0] == whole[4:]
            while reader.has_more:
                found += reader.more(LARGEST_FRAME_BYTES)
            assert found[1:] == [b"next"]


def test_a_frame_over_the_limit_stops_the_reader_until_the_limit_grows() -> None:
    """The frames before it come, and then its length; with a larger limit it is a frame like another."""
    reader = FrameReader()
    assert reader.whole(to_frame(bytes(101)), 100) is None
    reader.keep(to_frame(b"before") + to_frame(bytes(101)) + to_frame(b"after"))
    assert (reader.more(100), reader.excess, reader.has_more) == ([b"before"], 101, True)
    assert (reader.more(100), reader.excess, reader.has_more) == ([], 101, True)
    assert (reader.more(101), reader.excess) == ([bytes(101), b"after"], 0)
    reader.keep(b"\xff\xff\xff\xff")
    assert (reader.more(101), reader.excess) == ([], 2**32 - 1)


def test_a_piece_that_looks_like_a_frame_belongs_to_the_one_before() -> None:
    """A payload may contain any bytes, even those of a complete frame."""
    reader = FrameReader()
    assert reader.payloads_of(struct.pack("!I", 5) + b"a") == []
    assert reader.payloads_of(struct.pack("!I", 0)) == [b"a" + bytes(4)]


def test_the_end_within_a_frame_is_told_in_numbers() -> None:
    """Where the bytes end is said of a small frame, of a large one, and of half a header."""
    for data, text in (
        (b"\0\0", "after 2 of 4 bytes"),
        (b"\0\0\0\5abc", "after 7 of 9 bytes"),
        (struct.pack("!I", 10**6) + bytes(1000), "after 1004 of 1000004 bytes"),
    ):
        reader = FrameReader()
        assert reader.payloads_of(data) == []
        assert text in reader.cut_off()
        assert not reader.is_empty


def test_large_frames_take_time_in_proportion_to_their_bytes() -> None:
    """64 MiB in pieces of 64 KiB are not copied again with each piece, nor 60 KiB in pieces of a byte."""
    piece, pieces = bytes(READ_BYTES), 1024
    reader, began = FrameReader(), thread_time()
    assert reader.payloads_of(struct.pack("!I", len(piece) * pieces)) == []
    found = [payload for _ in range(pieces) for payload in reader.payloads_of(piece)]
    assert len(found) == 1
    assert bytes(found[0]) == piece * pieces
    found = [payload for byte in to_frame(bytes(60_000)) for payload in reader.payloads_of(bytes([byte]))]
    assert found == [bytes(60_000)]
    # Copying at each piece would move 32 GiB: more than 10 s.
    assert thread_time() - began < 4


def test_within_a_large_frame_reads_are_larger_and_end_with_it() -> None:
    """At most a MiB is asked for at once, and nothing beyond the frame; after it a header alone, then as ever."""
    reader, large = FrameReader(), 3 << 19
    assert reader.read_bytes == READ_BYTES
    assert reader.payloads_of(struct.pack("!I", large)) == []
    assert reader.read_bytes == 1 << 20
    assert reader.payloads_of(bytes(1 << 20)) == []
    assert reader.read_bytes == 1 << 19
    assert len(reader.payloads_of(bytes(1 << 19))) == 1
    assert reader.read_bytes == 4
    assert reader.payloads_of(struct.pack("!I", 5)) == []
    assert reader.read_bytes == READ_BYTES
    assert reader.needed == 9
