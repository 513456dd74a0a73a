"""
When jobs must be looked at next: a heap of moments with one timer outside.

Knows no states: a deadline is set, dropped, or due. Dropping is lazy, so a
million jobs that end in time cost O(1) each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from msgspec import Struct

from gloom.lazyheap import LazyHeap

Item = TypeVar("Item")


class Deadline(Struct, Generic[Item], eq=False, gc=False):
    """
    One moment. As a job, the garbage collector does not follow it.

    Attributes:
        when: Seconds on the caller's clock.
        item: What is due then; None once it was dropped.
        queued: Whether it lies ahead.
    """

    when: float
    item: Item | None
    queued: int = 0


class Deadlines(Generic[Item]):
    """
    The moments that lie ahead.

    Args:
        sooner: Called with the first moment whenever it has become an earlier one.
    """

    __slots__ = ("_heap", "_sooner", "_ties")

    def __init__(self, sooner: Callable[[float], None]) -> None:
        self._sooner = sooner
        self._heap: LazyHeap[Deadline[Item]] = LazyHeap()
        self._ties = count()

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, when: float, item: Item) -> Deadline[Item]:
        """Add a moment for *item*."""
        deadline = Deadline(when, item)
        self._heap.put(when, next(self._ties), deadline)
        first = self._heap.first()
        if first is not None and first[2] is deadline:
            self._sooner(when)
        return deadline

    def drop(self, deadline: Deadline[Item]) -> None:
        """Forget a moment that was set and is not due yet."""
        deadline.item = None
        self._heap.remove(deadline)

    def next(self) -> float | None:
        """Return the first moment, or None."""
        first = self._heap.first()
        return None if first is None else float(first[0])

    def due(self, now: float) -> Iterator[Item]:
        """Take out and yield what is due at *now*, earliest first; more may be set meanwhile."""
        while (first := self._heap.first()) is not None and first[0] <= now:
            item = self._heap.pop().item
            if item is not None:
                yield item
