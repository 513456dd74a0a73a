"""
A sorted list with removal from anywhere; no operation takes long.

A removed entry is gone at once. There is no lazy deletion: a search for the first
live entry would have to remove all dead ones before it together, and until then
they would keep other objects alive (decision 20).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Entry = tuple[Any, int, Item]

#: A chunk with more entries is split: an insertion moves up to so many pointers, in a tenth of a microsecond.
MOST_IN_CHUNK = 512


class Ordered(Generic[Item]):
    """
    Entries ``(key, tie, item)``, the smallest first.

    The entries are kept in sorted chunks. To find one takes O(log n) comparisons,
    in C. No two entries may be equal in key and tie, so items are never compared.
    """

    __slots__ = ("_chunks", "_lasts")

    def __init__(self) -> None:
        self._chunks: list[list[Entry[Item]]] = []
        # The last entry of each chunk.
        self._lasts: list[Entry[Item]] = []

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __iter__(self) -> Iterator[Entry[Item]]:
        return chain.from_iterable(self._chunks)

    def first(self) -> Entry[Item] | None:
        """Return the first entry without removing it, or None."""
        chunks = self._chunks
        return chunks[0][0] if chunks else None

    def put(self, entry: Entry[Item]) -> None:
        """Add *entry*."""
        lasts = self._lasts
        if not lasts or entry > lasts[-1]:
            self._append(entry)
            return
        place = bisect_left(lasts, entry)
        chunk = self._chunks[place]
        insort(chunk, entry)
        if len(chunk) > MOST_IN_CHUNK:
            half = chunk[MOST_IN_CHUNK // 2 :]
            del chunk[MOST_IN_CHUNK // 2 :]
            lasts[place] = chunk[-1]
            self._chunks.insert(place + 1, half)
            lasts.insert(place + 1, half[-1])

    def _append(self, entry: Entry[Item]) -> None:
        chunks, lasts = self._chunks, self._lasts
        if chunks and len(chunks[-1]) < MOST_IN_CHUNK:
            chunks[-1].append(entry)
            lasts[-1] = entry
        else:
            chunks.append([entry])
            lasts.append(entry)

    def pop(self) -> Entry[Item]:
        """
        Remove the first entry, and return it.

        Raises:
            IndexError: There are no entries.
        """
        entry = self._chunks[0].pop(0)
        if not self._chunks[0]:
            del self._chunks[0], self._lasts[0]
        return entry

    def remove(self, entry: Entry[Item]) -> None:
        """Remove *entry*, which must be here."""
        place = bisect_left(self._lasts, entry)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, entry)]
        if chunk:
            self._lasts[place] = chunk[-1]
        else:
            del self._chunks[place], self._lasts[place]
        if len(chunk) <= MOST_IN_CHUNK // 4:
            self._join_with_next(place)

    def _join_with_next(self, place: int) -> None:
        """Join two neighbouring chunks that are small, so that chunks do not become many."""
        chunks = self._chunks
        if place + 1 < len(chunks) and len(chunks[place]) + len(chunks[place + 1]) <= MOST_IN_CHUNK // 2:
            chunks[place] += chunks[place + 1]
            self._lasts[place] = chunks[place][-1]
            del chunks[place + 1], self._lasts[place + 1]
