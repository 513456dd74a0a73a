"""
Priority queues in strict total order, one or several merged: larger priority first, then the older submission.

Nothing is known here of peers or of the states of a job: an item is queued or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heapreplace, merge
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from gloom.broker.ordered import Entry, Ordered


class Ranked(Protocol):
    """
    An item of a queue.

    Attributes:
        priority: Larger is served first.
        sequence: Order of submission, unique; smaller is served first among equals.
        queued: Whether the item is in a queue; kept by the queue.
        before: The item before it in the queue's run; kept by the queue, None outside a run.
        after: The item behind it in the run; kept by the queue.
    """

    priority: int
    sequence: int
    queued: bool
    before: Any
    after: Any


Item = TypeVar("Item", bound=Ranked)


def first_of(one: Item, other: Item) -> Item:
    """Return the item that comes first in the total order."""
    if one.priority != other.priority:
        return one if one.priority > other.priority else other
    return one if one.sequence < other.sequence else other


def rank_of(item: Ranked) -> tuple[int, int]:
    """Return the key of the total order; smaller comes first."""
    return -item.priority, item.sequence


class JobQueue(Struct, Generic[Item], eq=False, gc=False):
    """
    A priority queue with FIFO ties and removal from anywhere.

    Nearly every job has the priority of the job before it. Such jobs form the run,
    a linked list: adding and removing there compares nothing. A job that does not
    fit behind the run is kept sorted beside it, in O(log n) at most. A removed job
    is gone at once: no step takes long, and the queue keeps nothing alive.

    Attributes:
        first: The first item of the run, which need not be the first of all (`peek`);
            None only while the queue is empty. Read-only: the hot path skips an
            empty queue by it, without a call.
    """

    first: Item | None = None
    _last: Item | None = None
    # The items beside the run; None instead of empty, as in nearly all queues.
    _others: Ordered[Item] | None = None

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in order without removing them."""
        if self._others is None:
            return self._run()
        return merge(self._run(), (entry[2] for entry in self._others), key=rank_of)

    def _run(self) -> Iterator[Item]:
        item = self.first
        while item is not None:
            yield item
            item = item.after

    def push(self, item: Item) -> None:
        """Add *item*; one that was removed and is added again gets its old place."""
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
        item.queued = True

    def _push_beside(self, item: Item) -> None:
        if self._others is None:
            self._others = Ordered()
        item.queued = True
        self._others.put((-item.priority, item.sequence, item))

    def peek(self) -> Item | None:
        """Return the first item of all without removing it, or None."""
        item = self.first
        if item is None or self._others is None:
            return item
        entry = self._others.first()
        return item if entry is None else first_of(item, entry[2])

    def remove(self, item: Item) -> None:
        """Remove *item*, which must be in this queue; it may be added again."""
        before, after = item.before, item.after
        if before is not None:
            before.after = after
            item.before = None
        elif item is self.first:
            self.first = after
        else:
            self._remove_beside(item)
            return
        item.queued = False
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
            item.queued = False
            others.remove((-item.priority, item.sequence, item))
            if not others:
                self._others = None

    def _begin_run(self, others: Ordered[Item]) -> None:
        """Begin a new run, after the last one has ended, with the first of *others*."""
        item = others.pop()[2]
        if not others:
            self._others = None
        self.push(item)


class MergedQueue(Generic[Item]):
    """
    Many queues merged, with the first item found without a search through all.

    Each queue that may hold items has a bid, a rank: no item of the queue ranks
    before it. Only the queue of the first bid is examined. Items are removed from
    the queues themselves, so a bid may be too early; it is corrected when it comes
    first. A bid must never be too late: after an item was added to a queue as its
    first, call `expect`.

    Args:
        sources: The queues, empty or not.
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
        """The first bid; None only while all queues are empty, as with `JobQueue.first`."""
        return self._order.first()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items of all queues in order without removing them; no queue is examined before its bid."""
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
        """Take note that *item* is now the first item of *source*."""
        bid = self._bids.get(source)
        if bid is not None:
            if bid[:2] <= rank_of(item):
                return
            self._order.remove(bid)
        self._bid(item, source)

    def peek(self) -> Item | None:
        """Return the first item of all queues without removing it, or None."""
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
    """Return the first item of *heap*, and replace it by the next one of its queue."""
    _, item, items = heap[0]
    following = next(items, None)
    if following is None:
        heappop(heap)
    else:
        heapreplace(heap, (rank_of(following), following, items))
    return item
