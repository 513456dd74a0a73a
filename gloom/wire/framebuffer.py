"""
Bytes into frames for clients that read their own socket (docs/protocol.md, section 1).

`gloom.transport.framing` does it for Twisted's connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

_HEADER = Struct("!I")
_HEADER_BYTES = _HEADER.size
_pack_length = _HEADER.pack
_unpack_length = _HEADER.unpack_from
_CHUNK_BYTES = 1 << 16

#: The header alone can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1


def to_frame(payload: bytes) -> bytes:
    """Return *payload* behind its length."""
    return _pack_length(len(payload)) + payload


class FrameBuffer:
    """Bytes in, payloads of frames out; linear in the bytes, whatever pieces they come in."""

    def __init__(self) -> None:
        self._data = bytearray(_CHUNK_BYTES)
        self._start = self._end = 0
        # Of the frame at the start, header included, as far as known.
        self._needed = _HEADER.size

    def room(self) -> memoryview:
        """Return where the next bytes go; it is never empty."""
        pending = self._end - self._start
        if not pending or self._end == len(self._data):
            self._move(pending)
        return memoryview(self._data)[self._end :]

    def _move(self, pending: int) -> None:
        """Move what is pending to the front of a buffer that is large enough, and not much larger."""
        size = 2 * pending
        if pending < self._needed:
            size = min(size, self._needed)
        size = max(size, _CHUNK_BYTES)
        if pending or size != len(self._data):
            data = bytearray(size)
            data[:pending] = memoryview(self._data)[self._start : self._end]
            self._data = data
        self._start, self._end = 0, pending

    @property
    def needed(self) -> int:
        """The bytes of the frame at the start, header included, as far as known."""
        return self._needed

    def received(self, count: int) -> None:
        """Note that *count* bytes were put into `room`."""
        self._end += count

    def take(self) -> bytes | None:
        """Return the payload of the oldest frame, or None where it is not whole yet."""
        pending = self._end - self._start
        self._needed = _HEADER.size
        if pending < self._needed:
            return None
        self._needed += _HEADER.unpack_from(self._data, self._start)[0]
        if pending < self._needed:
            return None
        begin = self._start + _HEADER.size
        self._start += self._needed
        return bytes(memoryview(self._data)[begin : self._start])

    def payloads_of(self, data: bytes) -> Sequence[bytes]:
        """Take *data*, in the place of `room` and `received`; return the payloads that are whole now, oldest first."""
        if self._start == self._end and len(data) >= _HEADER_BYTES:
            # The short way, for nearly all that is small: just one whole frame.
            (length,) = _unpack_length(data)
            if _HEADER_BYTES + length == len(data):
                return (data[_HEADER_BYTES:],)
        return self._payloads_of_pieces(data)

    def _payloads_of_pieces(self, data: bytes) -> list[bytes]:
        payloads, rest = list[bytes](), memoryview(data)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.received(count)
            rest = rest[count:]
            while (payload := self.take()) is not None:
                payloads.append(payload)
        return payloads

    def cut_off(self) -> str:
        """Return where in a frame the bytes ended, for a person; empty between frames."""
        pending = self._end - self._start
        return (
            f" in the middle of a frame, after {pending} of {self._needed} bytes" if 0 < pending < self._needed else ""
        )
