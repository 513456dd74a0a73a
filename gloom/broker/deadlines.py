"""
Deadlines in order, with one timer outside.

A deadline is set, dropped, or due. A dropped deadline is gone at once, and to
drop any of a million takes two microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from gloom.broker.ordered import Ordered

Item = TypeVar("Item")

#: A time in seconds of the caller's clock, a number that orders equal times, and the item that is due then.
Deadline = tuple[float, int, Item]


class Deadlines(Generic[Item]):
    """
    The deadlines that are set.

    Args:
        sooner: Called with the first time whenever an earlier deadline is set.
    """

    __slots__ = ("_order", "_sooner", "_ties")

    def __init__(self, sooner: Callable[[float], None]) -> None:
        self._sooner = sooner
        self._order: Ordered[Item] = Ordered()
        self._ties = count()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Deadline[Item]]:
        return iter(self._order)

    def set(self, when: float, item: Item) -> Deadline[Item]:
        """Set a deadline for *item*; return it, for `drop`."""
        deadline = (when, next(self._ties), item)
        self._order.put(deadline)
        if self._order.first() is deadline:
            self._sooner(when)
        return deadline

    def drop(self, deadline: Deadline[Item]) -> None:
        """Forget a deadline that was set and has not come out of `due`."""
        self._order.remove(deadline)

    def next(self) -> float | None:
        """Return the time of the first deadline, or None."""
        first = self._order.first()
        return None if first is None else float(first[0])

    def due(self, now: float) -> Iterator[Item]:
        """Remove and yield the items that are due at *now*, earliest first; deadlines may be set between two items."""
        while (first := self._order.first()) is not None and first[0] <= now:
            yield self._order.pop()[2]
