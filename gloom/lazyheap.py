"""
A heap with removal from anywhere, none of whose steps takes long.

What is removed is only marked; its entry goes when it surfaces. Where dead
entries come to be the most, the heap is made anew, a few entries at each later
step: sorting a million at once would keep every peer waiting.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, Generic, Protocol, TypeVar


class Queued(Protocol):
    """
    What can be in a heap.

    Attributes:
        queued: Owned by the heap: true while the item is in one.
    """

    queued: int


Item = TypeVar("Item", bound=Queued)
Entry = tuple[Any, int, Item]

# Below this many dead entries a new heap is not worth it.
_RENEW_AT_LEAST = 64
# As many a step that the old heap is empty long before the new one is half dead.
_MOVED_A_STEP = 8


class LazyHeap(Generic[Item]):
    """
    Items in the order of their keys.

    Attributes:
        entries: Not empty while anything is in the heap; what is removed may
            stand there too. To be read only, by those for whom a call is too much.
    """

    __slots__ = ("_dead", "_old", "entries")

    def __init__(self) -> None:
        self.entries: list[Entry[Item]] = []
        # What is left of the heap before this one.
        self._old: list[Entry[Item]] = []
        self._dead = 0

    def __len__(self) -> int:
        return len(self.entries) + len(self._old) - self._dead

    def put(self, key: Any, tie: int, item: Item) -> None:
        """Add *item*; among equal keys the smaller *tie*, which must be unique, is first."""
        item.queued = True
        heappush(self.entries, (key, tie, item))
        if self._old:
            self._move()

    def first(self) -> Entry[Item] | None:
        """Return the first entry without taking it, or None."""
        if self._old:
            self._merge_tops()
        entries = self.entries
        while entries:
            if entries[0][2].queued:
                return entries[0]
            heappop(entries)
            self._dead -= 1
            if self._old:
                self._merge_tops()
        return None

    def pop(self) -> Item:
        """
        Take the first item.

        Raises:
            IndexError: There is none.
        """
        if self._old:
            self.first()
        while True:
            item = heappop(self.entries)[2]
            if item.queued:
                item.queued = False
                if self._old and not self.entries:
                    self._merge_tops()
                return item
            self._dead -= 1

    def remove(self, item: Item) -> None:
        """Take out *item*, which must be in this heap and must not be pushed again."""
        item.queued = False
        self._dead += 1
        entries = self.entries
        # The last to come is often the last in the list, where it leaves no gap.
        while entries and not entries[-1][2].queued:
            entries.pop()
            self._dead -= 1
        if self._old:
            self._move()
        elif self._dead > _RENEW_AT_LEAST and self._dead * 2 > len(entries):
            self._old, self.entries = entries, []
            self._move()

    def _move(self) -> None:
        """Take some entries of the old heap over; its end can go without sorting the rest."""
        old = self._old
        for _ in range(min(_MOVED_A_STEP, len(old))):
            self._take_over(old.pop())
        if not self.entries:
            self._merge_tops()

    def _take_over(self, entry: Entry[Item]) -> None:
        if entry[2].queued:
            heappush(self.entries, entry)
        else:
            self._dead -= 1

    def _merge_tops(self) -> None:
        """See that nothing live of the old heap is before the first entry."""
        entries, old = self.entries, self._old
        while old and not old[0][2].queued:
            heappop(old)
            self._dead -= 1
        if old and (not entries or old[0] < entries[0]):
            heappush(entries, heappop(old))
