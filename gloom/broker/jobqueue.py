"""
Jobs in strict total order, of one queue or of many: larger priority first, then the older submission.

Knows no peers and no states: an item is queued or removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heapreplace, merge
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from gloom.broker.ordered import Entry, Ordered


class Ranked(Protocol):
    """
    What can stand in a queue.

    Attributes:
        priority: Larger is served first.
        sequence: Order of submission, unique; smaller is served first among equals.
        queued: Owned by the queue: false while the item is in none.
        before: Owned by the queue, as is `after`: its neighbours in the run.
    """

    priority: int
    sequence: int
    queued: int
    before: Any
    after: Any


Item = TypeVar("Item", bound=Ranked)

# What `queued` is.
_NOT_QUEUED, _IN_OTHERS, _IN_RUN = 0, 1, 2


def first_of(one: Item, other: Item) -> Item:
    """Return which of two items the total order serves first."""
    if one.priority != other.priority:
        return one if one.priority > other.priority else other
    return one if one.sequence < other.sequence else other


def rank_of(item: Ranked) -> tuple[int, int]:
    """Return what the total order sorts by."""
    return -item.priority, item.sequence


class JobQueue(Struct, Generic[Item], eq=False, gc=False):
    """
    A priority queue with FIFO ties and removal from anywhere.

    Nearly all jobs have the priority of those before them, and stand in a run,
    where nothing is compared and each knows its neighbours; what does not fit
    behind it is kept in order beside it, O(log n) at most. What is removed is gone
    at once, so that no step takes long and nothing stays alive here.

    Attributes:
        first: The first of the run; None only while nothing is queued. To be read
            only, by those for whom a call is too much; `peek` says which is first of all.
    """

    first: Item | None = None
    _last: Item | None = None
    # None while there are none, as in nearly all queues.
    _others: Ordered[Item] | None = None

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in order, and take none."""
        if self._others is None:
            return self._run()
        return merge(self._run(), (entry[2] for entry in self._others), key=rank_of)

    def _run(self) -> Iterator[Item]:
        item = self.first
        while item is not None:
            yield item
            item = item.after

    def push(self, item: Item) -> None:
        """Add *item*; an item that comes back with its old sequence gets its old place."""
        last = self._last
        if last is None:
            self.first = self._last = item
        elif item.priority == last.priority and item.sequence > last.sequence:
            last.after = item
            item.before = last
            self._last = item
        else:
            self._push_beside(item)
            return
        item.queued = _IN_RUN

    def _push_beside(self, item: Item) -> None:
        if self._others is None:
            self._others = Ordered()
        item.queued = _IN_OTHERS
        self._others.put((-item.priority, item.sequence, item))

    def peek(self) -> Item | None:
        """Return the first item without taking it, or None."""
        item = self.first
        if item is None or self._others is None:
            return item
        entry = self._others.first()
        return item if entry is None else first_of(item, entry[2])

    def remove(self, item: Item) -> None:
        """Take out *item*, which must be in this queue; it may be pushed again."""
        if item.queued != _IN_RUN:
            self._remove_beside(item)
            return
        before, after = item.before, item.after
        item.queued = _NOT_QUEUED
        if before is None:
            self.first = after
        else:
            before.after = after
            item.before = None
        if after is None:
            self._last = before
            if before is None and self._others is not None:
                self._begin_run(self._others)
        else:
            after.before = before
            item.after = None

    def _remove_beside(self, item: Item) -> None:
        others = self._others
        if others is not None:
            item.queued = _NOT_QUEUED
            others.remove((-item.priority, item.sequence, item))
            if not others:
                self._others = None

    def _begin_run(self, others: Ordered[Item]) -> None:
        """The run has ended: the first of the others begins a new one."""
        item = others.pop()[2]
        if not others:
            self._others = None
        self.push(item)


class MergedQueue(Generic[Item]):
    """
    The first item of many queues, found without looking at each.

    Every queue of which an item is expected has a bid: a rank that none of its
    items is before. Only the queue of the first bid is looked at. A bid may promise
    too much, since items are taken from the queue itself; that is put right when it
    is the first. It must never promise too little: who pushes an item says so by
    `expect`.

    Args:
        sources: The queues; what is in them already is seen.
    """

    __slots__ = ("_bids", "_order")

    def __init__(self, sources: Iterable[JobQueue[Item]]) -> None:
        self._order: Ordered[JobQueue[Item]] = Ordered()
        self._bids: dict[JobQueue[Item], Entry[JobQueue[Item]]] = {}
        for source in sources:
            first = source.peek()
            if first is not None:
                self._bid(first, source)

    @property
    def first(self) -> Entry[JobQueue[Item]] | None:
        """The first bid; None only while nothing is queued."""
        return self._order.first()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items of all queues in order, and take none; no queue is looked at before its bid."""
        heap: list[tuple[tuple[int, int], Item, Iterator[Item]]] = []
        for bid in self._order:
            while heap and heap[0][0] < bid[:2]:
                yield _next_of(heap)
            items = iter(bid[2])
            item = next(items, None)
            if item is not None:
                heappush(heap, (rank_of(item), item, items))
        while heap:
            yield _next_of(heap)

    def expect(self, item: Item, source: JobQueue[Item]) -> None:
        """*item* has become the first one of *source*."""
        bid = self._bids.get(source)
        if bid is not None:
            if bid[:2] <= rank_of(item):
                return
            self._order.remove(bid)
        self._bid(item, source)

    def peek(self) -> Item | None:
        """Return the first item of all, which is the first one of its queue, or None."""
        while (bid := self._order.first()) is not None:
            source = bid[2]
            item = source.peek()
            if item is not None and item.sequence == bid[1]:
                return item
            self._order.pop()
            if item is None:
                del self._bids[source]
            else:
                self._bid(item, source)
        return None

    def _bid(self, item: Item, source: JobQueue[Item]) -> None:
        bid = (-item.priority, item.sequence, source)
        self._bids[source] = bid
        self._order.put(bid)


def _next_of(heap: list[tuple[tuple[int, int], Item, Iterator[Item]]]) -> Item:
    """Return the first item of *heap*, and have the next one of its queue follow."""
    _, item, items = heap[0]
    following = next(items, None)
    if following is None:
        heappop(heap)
    else:
        heapreplace(heap, (rank_of(following), following, items))
    return item
