"""
When jobs must be looked at next: a heap of moments with one timer outside.

Knows no states: a deadline is set, dropped, or due. Dropping is lazy, as in
`gloom.jobqueue`, so a million jobs that end in time cost O(1) each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Below this many dropped entries a compaction is not worth its pass over the heap.
_COMPACT_AT_LEAST = 64


class Deadline(Generic[Item]):
    """
    One moment.

    Attributes:
        when: Seconds on the caller's clock.
        item: What is due then; None once it was dropped.
    """

    __slots__ = ("item", "when")

    def __init__(self, when: float, item: Item) -> None:
        self.when = when
        self.item: Item | None = item


class Deadlines(Generic[Item]):
    """
    The moments that lie ahead.

    Args:
        sooner: Called with the first moment whenever it has become an earlier one.
    """

    __slots__ = ("_dropped", "_heap", "_sooner", "_ties")

    def __init__(self, sooner: Callable[[float], None]) -> None:
        self._sooner = sooner
        self._heap: list[tuple[float, int, Deadline[Item]]] = []
        self._dropped = 0
        self._ties = count()

    def __len__(self) -> int:
        return len(self._heap) - self._dropped

    def set(self, when: float, item: Item) -> Deadline[Item]:
        """Add a moment for *item*."""
        deadline = Deadline(when, item)
        heap = self._heap
        heappush(heap, (when, next(self._ties), deadline))
        if heap[0][2] is deadline:
            self._sooner(when)
        return deadline

    def drop(self, deadline: Deadline[Item]) -> None:
        """Forget a moment that was set and is not due yet."""
        deadline.item = None
        self._dropped += 1
        if self._dropped > _COMPACT_AT_LEAST and self._dropped * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].item is not None]
            heapify(self._heap)
            self._dropped = 0

    def next(self) -> float | None:
        """Return the first moment, or None."""
        heap = self._heap
        while heap and heap[0][2].item is None:
            heappop(heap)
            self._dropped -= 1
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[Item]:
        """Take out and yield what is due at *now*, earliest first; more may be set meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            item = heappop(self._heap)[2].item
            if item is None:
                self._dropped -= 1
            else:
                yield item
