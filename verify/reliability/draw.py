"""Choices derived from bytes: equal bytes give equal choices, whatever generated them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Value = TypeVar("Value")


class Draw:
    """
    Derives choices from *data*; once the data is used up, every choice is the first.

    Attributes:
        left: Number of bytes left.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def number(self, below: int) -> int:
        """Return an integer from 0 to *below* - 1; *below* is at most 65536."""
        size = 1 if below <= 256 else 2
        return int.from_bytes(self.bytes(size)) % below

    def of(self, values: Sequence[Value]) -> Value:
        """Return one of *values*."""
        return values[self.number(len(values))]

    def once_in(self, times: int) -> bool:
        """Return True once in so many *times*."""
        return self.number(times) == times - 1

    def bytes(self, count: int) -> bytes:
        """Return at most *count* raw bytes of the data."""
        taken = self._data[self._at : self._at + count]
        self._at += count if self.left >= count else self.left
        return taken
