"""The queues against the plainest model of one: a list that is sorted for each look."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.broker.jobqueue import JobQueue, MergedQueue, first_of


@dataclass(eq=False)
class Item:
    priority: int
    sequence: int
    queued: bool = False
    before: Item | None = field(default=None, repr=False)
    after: Item | None = field(default=None, repr=False)


def queue_of(*priorities: int) -> tuple[JobQueue[Item], list[Item]]:
    queue: JobQueue[Item] = JobQueue()
    items = [Item(priority, sequence) for sequence, priority in enumerate(priorities)]
    for item in items:
        queue.push(item)
    return queue, items


def pop(queue: JobQueue[Item]) -> Item:
    item = queue.peek()
    assert item is not None
    queue.remove(item)
    return item


def drain(queue: JobQueue[Item]) -> list[Item]:
    return [pop(queue) for _ in range(len(queue))]


def in_order(items: list[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (-item.priority, item.sequence))


def test_larger_priorities_come_first() -> None:
    """A job of larger priority is served before one that was submitted earlier."""
    queue, (low, high, middle) = queue_of(-5, 2**63 - 1, 0)
    assert drain(queue) == [high, middle, low]


def test_equal_priorities_come_in_the_order_of_submission() -> None:
    """Jobs of the same priority are served oldest first."""
    queue, items = queue_of(*[7] * 50)
    assert drain(queue) == items


def test_an_item_that_comes_back_gets_its_old_place() -> None:
    """A job that went to a slave and came back stands again before those that were submitted after it."""
    queue, (first, second, third) = queue_of(0, 0, 0)
    assert pop(queue) is first
    queue.push(first)
    assert drain(queue) == [first, second, third]


def test_peek_removes_nothing() -> None:
    """`peek` removes nothing, also when the items before the first one were removed."""
    queue, (first, second, third) = queue_of(0, 0, 0)
    queue.remove(first)
    assert queue.peek() is second
    assert len(queue) == 2
    assert pop(queue) is second
    assert queue.peek() is third


def test_an_emptied_queue_has_no_first_item() -> None:
    """After the removal of all items a queue has length 0 and no first item."""
    queue, (first, second) = queue_of(1, 2)
    queue.remove(second)
    queue.remove(first)
    assert len(queue) == 0
    assert queue.peek() is None


def test_a_removed_item_is_never_served() -> None:
    """A removed item is never served, wherever it stood."""
    queue, items = queue_of(3, 2, 1)
    queue.remove(items[0])
    assert pop(queue) is items[1]
    assert [item.queued for item in items] == [False, False, True]


def test_queued_says_whether_an_item_is_in_a_queue() -> None:
    """`queued` is true from push until remove, in the run or beside it, and nothing but a bool."""
    queue, items = queue_of(1, 1, 2, 0)
    assert [item.queued for item in items] == [True] * 4
    assert all(type(item.queued) is bool for item in items)
    for item in items:
        queue.remove(item)
        assert item.queued is False


@pytest.mark.parametrize("priorities", [range(1000), [0] * 1000], ids=["each its own", "all the same"])
def test_a_removed_item_is_freed(priorities: Sequence[int]) -> None:
    """The queue keeps no reference to a removed item, wherever it stood, and the order of the rest stays."""
    queue, items = queue_of(*priorities)
    stay = {0, 500, *range(992, 1000)}
    for place, item in enumerate(items):
        if place not in stay:
            queue.remove(item)
            assert item.before is item.after is None
    left = [weakref.ref(item) for place, item in enumerate(items) if place not in stay]
    items = [items[place] for place in sorted(stay)]
    del item
    assert not any(removed() for removed in left)
    assert drain(queue) == in_order(items)


def test_items_of_one_priority_stand_in_the_run() -> None:
    """Items of one priority are in the run, without a comparison; others are beside it."""
    queue, items = queue_of(*[3] * 100)
    assert queue._others is None
    queue.push(Item(4, 100))
    assert queue._others is not None
    assert [item.priority for item in drain(queue)] == [4, *[3] * 100]
    queue.push(items[0])
    assert queue._others is None


class Counting(Item):
    """An item that counts attribute reads, for all items together."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        Counting.looks += 1
        return super().__getattribute__(name)


def looks_of(act: Callable[[], Any]) -> int:
    """Return the number of attribute reads of *act*."""
    before = Counting.looks
    act()
    return Counting.looks - before


@pytest.mark.parametrize("front", [0, 1], ids=["all removed from the front", "the last one first"])
def test_no_step_looks_at_many_items(front: int) -> None:
    """While the first 10,000 of 20,000 items are removed, no call reads more than a few attributes."""
    queue: JobQueue[Counting] = JobQueue()
    items = [Counting(0, sequence) for sequence in range(20_000)]
    for item in items:
        assert looks_of(partial(queue.push, item)) < 20
    for item in items[front:10_000] + items[:front]:
        assert looks_of(partial(queue.remove, item)) < 20
    assert looks_of(queue.peek) < 20
    assert queue.peek() is items[10_000]


def test_iteration_is_in_order_and_removes_nothing() -> None:
    """Iterating over a queue yields all items in order, and leaves them there."""
    queue, items = queue_of(0, 0, 5, 0, -1, 5)
    assert list(queue) == in_order(items)
    assert drain(queue) == in_order(items)


@pytest.mark.parametrize(
    ("one", "other"),
    [(Item(1, 5), Item(0, 1)), (Item(0, 1), Item(0, 2)), (Item(0, 1), Item(-(2**63), 0))],
)
def test_the_order_of_two_items(one: Item, other: Item) -> None:
    """Of two items the one of larger priority is first, or the older one, whichever way they are compared."""
    assert first_of(one, other) is one
    assert first_of(other, one) is one


PRIORITIES = st.one_of(st.integers(-2, 2), st.integers(-(2**63), 2**63 - 1))


@settings(deadline=None)
@given(st.data())
def test_any_use_agrees_with_a_sorted_list(data: st.DataObject) -> None:
    """After any pushes and removals, also of the same item again, the queue serves the items of a sorted list."""
    queue: JobQueue[Item] = JobQueue()
    model: list[Item] = []
    popped: list[Item] = []
    for sequence in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["push", "push", "pop", "remove", "push again", "peek"]))
        if step == "push":
            item = Item(data.draw(PRIORITIES), sequence)
            queue.push(item)
            model.append(item)
        elif step == "push again" and popped:
            item = popped.pop()
            queue.push(item)
            model.append(item)
        elif step == "pop" and model:
            item = in_order(model)[0]
            assert pop(queue) is item
            model.remove(item)
            popped.append(item)
        elif step == "remove" and model:
            queue.remove(model.pop(data.draw(st.integers(0, len(model) - 1))))
        elif step == "peek":
            assert queue.peek() is (in_order(model)[0] if model else None)
        assert len(queue) == len(model)
    assert drain(queue) == in_order(model)


@settings(deadline=None, max_examples=20)
@given(st.lists(PRIORITIES, min_size=150, max_size=400), st.randoms(use_true_random=False))
def test_many_removals_keep_the_order(priorities: list[int], random: object) -> None:
    """Removing most of the items does not change the order of the rest."""
    queue, items = queue_of(*priorities)
    removed = random.sample(items, k=len(items) * 4 // 5)  # type: ignore[attr-defined]
    for item in removed:
        queue.remove(item)
    assert drain(queue) == in_order([item for item in items if item not in removed])


# Many queues


class Merged:
    """Queues under two merged ones, used as the broker uses them: each push is followed by `expect`."""

    def __init__(self, count: int) -> None:
        self.queues: list[JobQueue[Item]] = [JobQueue() for _ in range(count)]
        # The second merges only some of the queues.
        self.merged = [MergedQueue(self.queues), MergedQueue(self.queues[1:])]
        self.items: list[list[Item]] = [[] for _ in range(count)]
        self.sequence = 0

    def push(self, which: int, priority: int = 0) -> Item:
        item = Item(priority, self.sequence)
        self.sequence += 1
        self.push_again(which, item)
        return item

    def push_again(self, which: int, item: Item) -> None:
        queue = self.queues[which]
        queue.push(item)
        self.items[which].append(item)
        if queue.peek() is item:
            for merged in self.merged[: 1 + (which > 0)]:
                merged.expect(item, queue)

    def pop(self, which: int) -> Item:
        item = pop(self.queues[which])
        self.items[which].remove(item)
        return item

    def remove(self, which: int, item: Item) -> None:
        self.queues[which].remove(item)
        self.items[which].remove(item)

    def firsts(self) -> list[Item | None]:
        """Return the first items of the merged queues, and compare both queues with all their items sorted."""
        walked = [list(merged) for merged in self.merged]
        firsts = [merged.peek() for merged in self.merged]
        ordered = [in_order(list(chain.from_iterable(self.items[part:]))) for part in (0, 1)]
        assert walked == ordered
        assert firsts == [items[0] if items else None for items in ordered]
        return firsts


def test_merged_queues_are_one_order() -> None:
    """The first of all queues is by priority and then by submission, as if all their items stood in one."""
    merged = Merged(3)
    merged.push(1)
    merged.push(2)
    high = merged.push(0, priority=1)
    assert merged.firsts()[0] is high
    for which in (0, 1, 2):
        merged.pop(which)
        merged.firsts()


def test_items_queued_before_the_merge_are_seen() -> None:
    """A merged queue finds items that were queued before it was made."""
    queue, (first, second) = queue_of(0, 1)
    merged = MergedQueue([JobQueue(), queue])
    assert merged.peek() is second
    pop(queue)
    assert merged.peek() is first


def test_a_queue_may_bid_the_same_again() -> None:
    """After an item of larger priority has come and gone, its queue makes the former bid again."""
    merged = Merged(3)
    low, _, high = merged.push(1), merged.push(2), merged.push(1, priority=1)
    assert merged.firsts() == [high, high]
    merged.pop(1)
    assert merged.firsts() == [low, low]


def test_only_the_queue_of_the_first_bid_is_examined() -> None:
    """The first item of 10,000 queues is found with a few calls of `peek`, while items come and go."""
    looks = 0

    class Watched(JobQueue[Item]):
        def peek(self) -> Item | None:
            nonlocal looks
            looks += 1
            return super().peek()

    merged = Merged(0)
    merged.queues = [Watched() for _ in range(10_000)]
    merged.items = [[] for _ in merged.queues]
    merged.merged = [MergedQueue(merged.queues)] * 2
    for which in range(10_000):
        merged.push(which)
    looks = 0
    for which in range(5000):
        merged.merged[0].peek()
        merged.pop(which)
        merged.push(which)
    assert looks < 5 * 5000


def test_replaced_bids_do_not_add_up() -> None:
    """A merged queue keeps one bid of a queue, however often an item of larger priority comes there."""
    merged = Merged(2)
    for priority in range(10_000):
        merged.push(1, priority)
    for one in merged.merged:
        assert len(one._order) == 1


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_use_of_merged_queues_agrees_with_a_sorted_list(data: st.DataObject) -> None:
    """After any pushes and removals in any of the queues, the merged queue has the first item of all."""
    merged = Merged(3)
    popped: list[tuple[int, Item]] = []
    steps = st.tuples(
        st.sampled_from(["push", "push", "pop", "pop", "remove", "push again", "push again", "peek", "peek"]),
        st.integers(0, 2),
        st.integers(-1, 1),
    )
    for step, which, number in data.draw(st.lists(steps, max_size=60)):
        items = merged.items[which]
        if step == "push":
            merged.push(which, number)
        elif step == "push again" and popped:
            merged.push_again(*popped.pop(number % len(popped)))
        elif step == "pop" and items:
            popped.append((which, merged.pop(which)))
        elif step == "remove" and items:
            merged.remove(which, items[number % len(items)])
        elif step == "peek":
            merged.firsts()
    merged.firsts()
