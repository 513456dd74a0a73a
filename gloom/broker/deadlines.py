"""
When jobs must be looked at next: moments in order with one timer outside.

Knows no states: a deadline is set, dropped, or due. One that was dropped is gone
at once, and to drop any of a million takes two microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from gloom.broker.ordered import Ordered

Item = TypeVar("Item")

#: A moment in seconds of the caller's clock, a number that orders equal moments, and the entry that is due then.
Deadline = tuple[float, int, Item]


class Deadlines(Generic[Item]):
    """
    The moments that lie ahead.

    Args:
        sooner: Called with the first moment whenever it has become an earlier one.
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
        """Add a moment for *item*."""
        deadline = (when, next(self._ties), item)
        self._order.put(deadline)
        if self._order.first() is deadline:
            self._sooner(when)
        return deadline

    def drop(self, deadline: Deadline[Item]) -> None:
        """Forget a moment that was set and is not due yet."""
        self._order.remove(deadline)

    def next(self) -> float | None:
        """Return the first moment, or None."""
        first = self._order.first()
        return None if first is None else float(first[0])

    def due(self, now: float) -> Iterator[Item]:
        """Take out and yield what is due at *now*, earliest first; more may be set meanwhile."""
        while (first := self._order.first()) is not None and first[0] <= now:
            yield self._order.pop()[2]
