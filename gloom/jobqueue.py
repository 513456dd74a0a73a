"""
Jobs in strict total order, of one queue or of many: larger priority first, then the older submission.

Knows no peers and no states: an item is queued, taken or removed.
"""

from __future__ import annotations

from collections import deque
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
        queued: Owned by the queue: false while the item is in none.
    """

    priority: int
    sequence: int
    queued: int


Item = TypeVar("Item", bound=Ranked)

# What `queued` is, besides the true of `LazyHeap`.
_NOT_QUEUED, _IN_RUN = 0, 2
# With fewer gaps a run is not shortened.
_SHORTEN_AT_LEAST = 64
# As many a removal that a run has more gaps than items for a moment only.
_MOVED_A_STEP = 8


def first_of(one: Item, other: Item) -> Item:
    """Return which of two items the total order serves first."""
    if one.priority != other.priority:
        return one if one.priority > other.priority else other
    return one if one.sequence < other.sequence else other


class JobQueue(Generic[Item]):
    """
    A priority queue with FIFO ties and removal from anywhere.

    Nearly all jobs have the priority of those before them, and stand in a run,
    where nothing is compared; what does not fit behind it is in a heap, O(log n)
    at most. No step takes long, as with `LazyHeap`.

    Attributes:
        entries: The run. Not empty while anything is queued; what is removed may
            stand there too. To be read only, by those for whom a call is too much.
    """

    __slots__ = ("_dead", "_others", "_priority", "entries")

    def __init__(self) -> None:
        self.entries: deque[Item] = deque()
        # Of the run: whose it is, and how many of it were removed.
        self._priority = 0
        self._dead = 0
        self._others: LazyHeap[Item] = LazyHeap()

    def __len__(self) -> int:
        return len(self.entries) - self._dead + len(self._others)

    def push(self, item: Item) -> None:
        """Add *item*; an item that comes back with its old sequence gets its old place."""
        entries = self.entries
        if not entries:
            self._priority = item.priority
        elif item.priority != self._priority or item.sequence < entries[-1].sequence:
            self._others.put(-item.priority, item.sequence, item)
            return
        item.queued = _IN_RUN
        entries.append(item)

    def peek(self) -> Item | None:
        """Return the first item without taking it, or None."""
        entries = self.entries
        while entries:
            item = entries[0]
            if item.queued:
                return self._first_of_both(item) if self._others.entries else item
            entries.popleft()
            self._dead -= 1
            if not entries:
                self._begin_run()
        return None

    def _first_of_both(self, item: Item) -> Item:
        """Return which is first: *item*, the first one of the run, or one of the others."""
        entry = self._others.first()
        return item if entry is None else first_of(item, entry[2])

    def take(self, item: Item) -> None:
        """Take *item*, which must be the first one, as `peek` has just said."""
        if item.queued != _IN_RUN:
            self._others.pop()
            return
        item.queued = _NOT_QUEUED
        entries = self.entries
        entries.popleft()
        if not entries and self._others.entries:
            self._begin_run()

    def remove(self, item: Item) -> None:
        """Take out *item*, which must be in this queue and must not be pushed again."""
        if item.queued != _IN_RUN:
            self._others.remove(item)
            return
        item.queued = _NOT_QUEUED
        self._dead += 1
        entries = self.entries
        # The last to come is often the last of the run, where it leaves no gap.
        for _ in range(_MOVED_A_STEP):
            if not entries or entries[-1].queued:
                break
            entries.pop()
            self._dead -= 1
        if self._dead > _SHORTEN_AT_LEAST and self._dead * 2 > len(entries):
            self._shorten()
        if not entries:
            self._begin_run()

    def _shorten(self) -> None:
        """Take some from the front of the run: gaps, and items to the others."""
        for _ in range(min(_MOVED_A_STEP, len(self.entries))):
            item = self.entries.popleft()
            if item.queued:
                self._others.put(-item.priority, item.sequence, item)
            else:
                self._dead -= 1

    def _begin_run(self) -> None:
        """The run has ended: the first of the others begins a new one."""
        if self._others.first() is not None:
            self.push(self._others.pop())


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
