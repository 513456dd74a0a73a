"""
Jobs in strict total order: larger priority first, then the older submission.

Knows no peers and no states: an item is queued, popped or removed.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from gloom.lazyheap import LazyHeap


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


def first_of(one: Item, other: Item) -> Item:
    """Return which of two items the total order serves first."""
    if one.priority != other.priority:
        return one if one.priority > other.priority else other
    return one if one.sequence < other.sequence else other


class JobQueue(LazyHeap[Item]):
    """A priority queue with FIFO ties and removal from anywhere, each O(log n) at most."""

    __slots__ = ()

    def push(self, item: Item) -> None:
        """Add *item*; an item that comes back with its old sequence gets its old place."""
        self.put(-item.priority, item.sequence, item)

    def peek(self) -> Item | None:
        """Return the first item without taking it, or None."""
        entry = self.first()
        return None if entry is None else entry[2]
