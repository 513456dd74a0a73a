"""
Large payloads: received in pieces, and kept in a memory map of their own.

A payload that no single read holds is collected in the pieces of the reads.
Over `MAPPED_OVER_BYTES` it lies in an anonymous map: the system fills it by huge
pages and takes it back whole, where malloc would get it by pages of 4 KiB for
each frame (docs/decisions/0013-large-frames.md has the measurements).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Raw

#: A payload over this lies in a map of its own.
MAPPED_OVER_BYTES = 8 << 20

_CHECKED_BYTES = 1 << 18


class MappedBytes(mmap.mmap):
    """
    A payload in a map of its own, with the methods of `bytes` that reading and sending use.

    Args:
        length: Its size in bytes, over 0; memory is taken when they are written.
    """

    def __new__(cls, length: int) -> MappedBytes:
        mapped = super().__new__(cls, -1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without huge pages
                mapped.madvise(mmap.MADV_HUGEPAGE)
        return mapped

    def isascii(self) -> bool:
        """Return whether all of it is ASCII."""
        return all(self[start : start + _CHECKED_BYTES].isascii() for start in range(0, len(self), _CHECKED_BYTES))

    def decode(self) -> str:
        """
        Return it as text.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
        """
        return str(self, "utf-8")


#: A payload that is received or sent. A map has few methods of `bytes`: mypy tells which.
Payload = bytes | MappedBytes


def join_large(pieces: Sequence[bytes | Raw]) -> MappedBytes:
    """Return *pieces*, joined in a map."""
    return _mapped(pieces, sum(map(len, pieces)))


def _mapped(pieces: Sequence[bytes | Raw], length: int) -> MappedBytes:
    """Return a map of *length* bytes that begins with *pieces*; `write` appends to them."""
    mapped = MappedBytes(length)
    for piece in pieces:
        mapped.write(piece)
    return mapped


class LargePayload:
    """
    A payload that is received in pieces; bytes that have not arrived take no memory.

    Args:
        length: Its size in bytes, 1 or more.

    Attributes:
        missing: Number of bytes that have not arrived.
    """

    def __init__(self, length: int) -> None:
        self._length = self.missing = length
        self._pieces: list[bytes] = []
        self._map: MappedBytes | None = None

    def add(self, data: bytes) -> bytes:
        """Append the start of *data* up to the end of the payload; return the rest."""
        own, rest = (data, b"") if len(data) <= self.missing else (data[: self.missing], data[self.missing :])
        self.missing -= len(own)
        if self._map is not None:
            self._map.write(own)
        elif own:
            self._pieces.append(own)
            # Not at the header of the frame: the first byte of a map takes a huge page.
            if self._length - self.missing > MAPPED_OVER_BYTES:
                self._map = _mapped(self._pieces, self._length)
                self._pieces = []
        return rest

    def whole(self) -> Payload:
        """Return the payload once nothing is missing."""
        if self._map is not None:
            return self._map
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
