"""
Bytes into frames (docs/protocol.md, section 1), for the daemon, the clients and the workers.

Pure: it knows no socket and no transport, and calls nobody. The connection that
owns a reader gives it the bytes that arrive, and takes the payloads that are whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from gloom.wire.largebytes import LargePayload, Payload

_HEADER = Struct("!I")
_HEADER_BYTES = _HEADER.size
_pack_length = _HEADER.pack
_unpack_length = _HEADER.unpack_from

#: The header can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1
#: Read size, except within a frame that is larger.
READ_BYTES = 1 << 16
# Read size for such a frame. Bounded, so that other connections are served in between.
_MOST_READ_BYTES = 1 << 20
#: `more` returns so many bytes of frames at once, or one frame: its caller looks at the time in between.
STEP_BYTES = 1024


def to_frame(payload: Payload) -> bytes:
    """Return *payload* behind its length."""
    return _pack_length(len(payload)) + payload


class FrameReader:
    """
    Bytes in, payloads of frames out; linear in the bytes, whatever pieces they come in.

    A frame larger than one read is collected on its own (`gloom.wire.largebytes`),
    and comes out without a copy where it can.

    Attributes:
        is_empty: Whether the bytes end between two frames, and every payload was taken.
        read_bytes: How many bytes the next read should ask for.
        excess: The length of the next frame if it is over the limit that `more` was given, else 0.
    """

    __slots__ = ("_at", "_data", "_kept", "_large", "_needed", "excess", "is_empty", "read_bytes")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Keep nothing."""
        self.is_empty = True
        self.read_bytes = READ_BYTES
        self.excess = 0
        # The bytes that are being cut into frames begin at `_at` of `_data`; a large frame and `_kept` follow them.
        self._data = b""
        self._at = 0
        self._kept = bytearray()
        # The size of the frame that begins `_kept`, or of the large one, with its header, as far as known.
        self._needed = _HEADER_BYTES
        # A frame larger than one read, without its header.
        self._large: LargePayload | None = None

    # For a connection, which may have to stop between two frames

    def whole(self, data: bytes, limit: int) -> bytes | None:
        """
        Return the payload if *data* is exactly one frame of at most *limit* bytes, as nearly every chunk is.

        To be asked only while `is_empty`; where it returns None, *data* must be kept.
        """
        size = len(data) - _HEADER_BYTES
        if 0 <= size <= limit and _unpack_length(data)[0] == size:
            return data[_HEADER_BYTES:]
        return None

    def keep(self, data: bytes) -> None:
        """Take *data*, the next bytes of the stream."""
        if self._large is not None:
            data = self._add_to_large(self._large, data)
        else:
            self.read_bytes = READ_BYTES
            if self.is_empty:
                self._data, self._at, self.is_empty = data, 0, not data
                return
        self._kept += data

    @property
    def has_more(self) -> bool:
        """Whether `more` may find another whole frame."""
        if self._at < len(self._data):
            return True
        return len(self._kept) >= self._needed if self._large is None else not self._large.missing

    def more(self, limit: int) -> list[Payload]:
        """
        Return the next whole payloads, oldest first, of about 1 KiB together; none if none is whole.

        Stops before a frame of more than *limit* bytes, and sets `excess`.
        """
        self.excess = 0
        if self._at == len(self._data):
            if not self.has_more:
                return []
            if self._large is not None:
                return [self._take_large(self._large)]
            self._data, self._at = bytes(self._kept), 0
            self._kept, self._needed = bytearray(), _HEADER_BYTES
        payloads = self._cut(limit)
        if not payloads and not self.excess and self.has_more:
            return self.more(limit)  # the end of `_data` and `_kept` make a whole one
        return payloads

    def _cut(self, limit: int) -> list[Payload]:
        data, at = self._data, self._at
        end, needed = len(data), _HEADER_BYTES
        last = end - _HEADER_BYTES
        mark = min(last, at + STEP_BYTES)
        payloads: list[Payload] = []
        while at <= mark:
            (length,) = _unpack_length(data, at)
            begin = at + _HEADER_BYTES
            stop = begin + length
            if length > limit:
                self.excess = length
                break
            if stop > end:
                needed += length
                break
            payloads.append(data[begin:stop])
            at = stop
        self._at = at
        if at == end:
            self.is_empty = not self._kept and self._large is None
        elif not (self.excess or mark < at <= last):
            self._keep_rest(needed)
        return payloads

    def _keep_rest(self, needed: int) -> None:
        """The rest of `_data` is no whole frame: keep it until *needed* bytes are there."""
        rest = memoryview(self._data)[self._at :]
        self._data, self._at = b"", 0
        if needed > READ_BYTES and needed > len(rest) + len(self._kept):
            begun = b"".join((rest[_HEADER_BYTES:], self._kept))
            self._large, self._kept = LargePayload(needed - _HEADER_BYTES), bytearray()
            self._add_to_large(self._large, begun)
        else:
            self._kept[:0] = rest
        self._needed = needed

    def _add_to_large(self, large: LargePayload, data: bytes) -> bytes:
        """Give *large* its part of *data*, have as much read as it misses, and return the rest."""
        rest = large.add(data)
        self.read_bytes = min(large.missing, _MOST_READ_BYTES) or _HEADER_BYTES
        return rest

    def _take_large(self, large: LargePayload) -> Payload:
        self._large = None
        # Another large frame may follow: when its header is read alone, the rest may come in one piece.
        self._needed = self.read_bytes = _HEADER_BYTES
        self.is_empty = not self._kept
        return large.whole()

    def put_back(self, payloads: Iterable[Payload]) -> None:
        """Have *payloads*, the last ones that `more` returned, returned again."""
        frames = b"".join([to_frame(payload) for payload in payloads])
        if frames:
            self._data = frames + self._data[self._at :]
            self._at = 0
            self.is_empty = False

    # For a reader that takes all that is whole

    @property
    def needed(self) -> int:
        """The size of the next frame with its header, as far as known."""
        return self._needed

    def payloads_of(self, data: bytes) -> list[Payload]:
        """Take *data*, and return every payload that is whole now, oldest first."""
        if self.is_empty:
            payload = self.whole(data, LARGEST_FRAME_BYTES)
            if payload is not None:
                self._needed = _HEADER_BYTES
                return [payload]
        self.keep(data)
        payloads: list[Payload] = []
        while self.has_more:
            payloads += self.more(LARGEST_FRAME_BYTES)
        return payloads

    def cut_off(self) -> str:
        """Return where in a frame the bytes ended, for a person; empty between frames."""
        if self.is_empty:
            return ""
        pending = len(self._kept) if self._large is None else self._needed - self._large.missing
        return f" in the middle of a frame, after {pending} of {self._needed} bytes"
