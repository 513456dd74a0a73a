"""
Jobs in strict total order: larger priority first, then the older submission.

Knows no peers and no states: an item is queued, popped or removed. Removal is
lazy (the heap's entry goes when it surfaces, or in one compaction when most
entries are dead), so it costs O(1) however long the queue is.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class Ranked(Protocol):
    """
    What can stand in a queue.

    Attributes:
        priority: Larger is served first.
        sequence: Order of submission, unique; smaller is served first among equals.
        queued: Owned by the queue: whether the item is in one.
    """

    priority: int
    sequence: int
    queued: bool


Item = TypeVar("Item", bound=Ranked)

# Below this many dead entries a compaction is not worth its pass over the heap.
_COMPACT_AT_LEAST = 64


def first_of(one: Item, other: Item) -> Item:
    """Return which of two items the total order serves first."""
    if one.priority != other.priority:
        return one if one.priority > other.priority else other
    return one if one.sequence < other.sequence else other


class JobQueue(Generic[Item]):
    """A priority queue with FIFO ties and removal from anywhere."""

    __slots__ = ("_dead", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Item]] = []
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def push(self, item: Item) -> None:
        """Add *item*; an item that comes back with its old sequence gets its old place."""
        item.queued = True
        heappush(self._heap, (-item.priority, item.sequence, item))

    def peek(self) -> Item | None:
        """Return the first item without taking it, or None."""
        heap = self._heap
        while heap:
            item = heap[0][2]
            if item.queued:
                return item
            heappop(heap)
            self._dead -= 1
        return None

    def pop(self) -> Item:
        """
        Take the first item.

        Raises:
            IndexError: The queue is empty.
        """
        while True:
            item = heappop(self._heap)[2]
            if item.queued:
                item.queued = False
                return item
            self._dead -= 1

    def remove(self, item: Item) -> None:
        """Take out *item*, which must be in this queue and must not be pushed again."""
        item.queued = False
        self._dead += 1
        if self._dead > _COMPACT_AT_LEAST and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].queued]
            heapify(self._heap)
            self._dead = 0
