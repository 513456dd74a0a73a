"""
Bytes into frames for clients that read their own socket (docs/protocol.md, section 1).

`gloom.framing` does it for Twisted's connections.
"""

from __future__ import annotations

from struct import Struct

_HEADER = Struct("!I")
_CHUNK_BYTES = 1 << 16

#: The header alone can say no more than this.
LARGEST_FRAME_BYTES = 2**32 - 1


def to_frame(payload: bytes) -> bytes:
    """Return *payload* behind its length."""
    return _HEADER.pack(len(payload)) + payload


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

    def only_frame(self, data: bytes) -> bytes | None:
        """Return the payload where the next bytes are *data*, just one whole frame; else None, and nothing is taken."""
        if self._start < self._end or len(data) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(data)
        return data[_HEADER.size :] if _HEADER.size + length == len(data) else None

    def cut_off(self) -> str:
        """Return where in a frame the bytes ended, for a person; empty between frames."""
        pending = self._end - self._start
        return (
            f" in the middle of a frame, after {pending} of {self._needed} bytes" if 0 < pending < self._needed else ""
        )
