"""
Jobs in strict total order, of one queue or of many: larger priority first, then the older submission.

Knows no peers and no states: an item is queued, popped or removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Generic, Protocol, TypeVar

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


class Bid(Generic[Item]):
    """
    What a `MergedQueue` expects of one queue: none of its items is served before one of this rank.

    Attributes:
        source: The queue.
        rank: ``(-priority, sequence)`` of an item.
        queued: Whether an item is expected at all; owned by the heap of bids.
    """

    __slots__ = ("queued", "rank", "source")

    def __init__(self, source: JobQueue[Item]) -> None:
        self.source = source
        self.rank = (0, 0)
        self.queued = False


class MergedQueue(LazyHeap[Bid[Item]]):
    """
    The first item of many queues, found without looking at each.

    Every queue has a bid, and only that of the first bid is looked at. A bid
    may promise too much, since items are taken from the queue itself; that is
    put right when it is the first. It must never promise too little: who
    pushes an item says so by `expect`.

    Args:
        sources: The queues; what is in them already is seen.
    """

    __slots__ = ("_bids", "_ties")

    def __init__(self, sources: Iterable[JobQueue[Item]]) -> None:
        super().__init__()
        # A queue may bid the same again while its bid from before, removed, is in the heap still.
        self._ties = count()
        self._bids = {source: Bid(source) for source in sources}
        for source in self._bids:
            first = source.peek()
            if first is not None:
                self.expect(first, source)

    def expect(self, item: Item, source: JobQueue[Item]) -> None:
        """*item* has become the first one of *source*."""
        rank = (-item.priority, item.sequence)
        bid = self._bids[source]
        if bid.queued:
            if bid.rank <= rank:
                return
            self.remove(bid)
            # What was removed must not be pushed again.
            bid = self._bids[source] = Bid(source)
        self._place(bid, rank)

    def peek(self) -> Item | None:
        """Return the first item of all, which is the first one of its queue, or None."""
        while (entry := self.first()) is not None:
            bid = entry[2]
            item = bid.source.peek()
            if item is not None and item.sequence == bid.rank[1]:
                return item
            self.pop()
            if item is not None:
                self._place(bid, (-item.priority, item.sequence))
        return None

    def _place(self, bid: Bid[Item], rank: tuple[int, int]) -> None:
        bid.rank = rank
        self.put(rank, next(self._ties), bid)
