"""
Large payloads: how they are put together, and where they lie.

What no single read holds is collected in the pieces in which it comes. Over
`MAPPED_OVER_BYTES` it lies in a memory map of its own, which the system fills
by huge pages and takes back whole; malloc would get and give such memory by
pages of 4 KiB each time (docs/decisions/0013-large-frames.md).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import cast

from msgspec import Raw

#: A payload over this lies in a map of its own.
MAPPED_OVER_BYTES = 4 << 20

_CHECKED_BYTES = 1 << 18
_KEPT_BYTES = 16 << 20


class MappedBytes(mmap.mmap):
    """
    A buffer in a map of its own, which stands in for `bytes` where a payload is read and sent.

    Args:
        length: How many bytes it has, over 0; memory is taken when they are written.
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


def join_large(pieces: Sequence[bytes | Raw]) -> bytes:
    """Return *pieces* as one, in a map of its own."""
    return _mapped(pieces, sum(map(len, pieces)))


def _mapped(pieces: Sequence[bytes | Raw], length: int) -> bytes:
    """Return a map of *length* bytes that begins with *pieces*, and is written on behind them."""
    mapped = MappedBytes(length)
    for piece in pieces:
        mapped.write(piece)
    return cast(bytes, mapped)


class LargePayload:
    """
    A payload that comes in pieces. What has not come takes no memory.

    Args:
        length: How many bytes it will have, 1 or more.

    Attributes:
        missing: How many of them have not come.
    """

    def __init__(self, length: int) -> None:
        _have_malloc_keep_memory()
        self._length = self.missing = length
        self._pieces: list[bytes] = []
        self._mapped: bytes | None = None

    def add(self, data: bytes) -> bytes:
        """Take what belongs to it from the start of *data*; return the rest."""
        own, rest = (data, b"") if len(data) <= self.missing else (data[: self.missing], data[self.missing :])
        self.missing -= len(own)
        if self._mapped is not None:
            cast(MappedBytes, self._mapped).write(own)
        elif own:
            self._pieces.append(own)
            # Not when it is announced: a map takes a huge page for its first byte.
            if self._length - self.missing > MAPPED_OVER_BYTES:
                self._mapped = _mapped(self._pieces, self._length)
                self._pieces = []
        return rest

    def whole(self) -> bytes:
        """Return the payload, of which nothing is missing."""
        if self._mapped is not None:
            return self._mapped
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


@cache
def _have_malloc_keep_memory() -> None:
    """
    Have glibc's malloc keep up to 32 MiB of what is freed, once for the process.

    By default it gives 1 MB back to the system and takes it again for each
    frame. It learns from blocks that are freed; this one is never touched.
    """
    bytes(_KEPT_BYTES)
