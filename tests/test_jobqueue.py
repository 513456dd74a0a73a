"""The queue against the plainest model of one: a list that is sorted when somebody looks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.jobqueue import JobQueue, first_of


@dataclass(eq=False)
class Item:
    priority: int
    sequence: int
    queued: bool = False


def queue_of(*priorities: int) -> tuple[JobQueue[Item], list[Item]]:
    queue: JobQueue[Item] = JobQueue()
    items = [Item(priority, sequence) for sequence, priority in enumerate(priorities)]
    for item in items:
        queue.push(item)
    return queue, items


def drain(queue: JobQueue[Item]) -> list[Item]:
    return [queue.pop() for _ in range(len(queue))]


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
    assert queue.pop() is first
    queue.push(first)
    assert drain(queue) == [first, second, third]


def test_peek_shows_what_pop_takes() -> None:
    """Looking at the first item takes nothing, also when those before it were removed."""
    queue, (first, second, third) = queue_of(0, 0, 0)
    queue.remove(first)
    assert queue.peek() is second
    assert len(queue) == 2
    assert queue.pop() is second
    assert queue.peek() is third


def test_an_empty_queue_has_nothing() -> None:
    """A queue whose items all went has length 0, no first item, and refuses to give one."""
    queue, (first, second) = queue_of(1, 2)
    queue.remove(second)
    queue.remove(first)
    assert len(queue) == 0
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.pop()
    assert len(queue) == 0


def test_pop_skips_what_was_removed() -> None:
    """A removed item is never served, wherever it stood."""
    queue, items = queue_of(3, 2, 1)
    queue.remove(items[0])
    assert queue.pop() is items[1]
    assert [item.queued for item in items] == [False, False, True]


def test_an_item_knows_whether_it_is_queued() -> None:
    """An item says that it is queued from push until pop or remove."""
    queue, (popped, removed) = queue_of(1, 0)
    assert popped.queued and removed.queued
    queue.pop()
    queue.remove(removed)
    assert not popped.queued and not removed.queued


def test_removed_items_do_not_add_up() -> None:
    """When most of a long queue is removed, its memory goes with it and the order stays."""
    queue, items = queue_of(*range(10_000))
    for item in items[:-10]:
        queue.remove(item)
    assert len(queue) == 10
    assert len(queue.entries) + len(queue._old) <= 100
    assert drain(queue) == items[:-11:-1]


def test_removals_from_anywhere_cost_little() -> None:
    """Removing all of 100,000 queued jobs, as when their master goes, walks the heap a few times, not 100,000."""
    queue, items = queue_of(*[0] * 100_000)
    compactions = 0
    heap = queue.entries
    for item in items:
        queue.remove(item)
        compactions += queue.entries is not heap
        heap = queue.entries
    assert compactions <= 15
    assert queue.peek() is None


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
    """Whatever is pushed, popped, removed and pushed again, the queue serves what a sorted list would."""
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
            assert queue.pop() is item
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
def test_compaction_keeps_the_order(priorities: list[int], random: object) -> None:
    """Many removals, which compact the heap, change nothing in the order of what is left."""
    queue, items = queue_of(*priorities)
    removed = random.sample(items, k=len(items) * 4 // 5)  # type: ignore[attr-defined]
    for item in removed:
        queue.remove(item)
    assert drain(queue) == in_order([item for item in items if item not in removed])
