"""Deadlines come in order, are dropped cheaply, and announce an earlier first one."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.broker.deadlines import Deadline, Deadlines


def deadlines_of(*moments: float) -> tuple[Deadlines[int], list[Deadline[int]], list[float]]:
    """Return deadlines for the items 0, 1, 2... at *moments*, each single one, and the times that were announced."""
    announced: list[float] = []
    deadlines: Deadlines[int] = Deadlines(announced.append)
    return deadlines, [deadlines.set(when, item) for item, when in enumerate(moments)], announced


def test_new_deadlines_are_empty() -> None:
    """Without a deadline there is no next one, and nothing is ever due."""
    deadlines, _, announced = deadlines_of()
    assert deadlines.next() is None
    assert list(deadlines.due(1e12)) == []
    assert len(deadlines) == 0
    assert announced == []


def test_deadlines_come_in_order() -> None:
    """The items that are due come out earliest first; later ones stay."""
    deadlines, _, _ = deadlines_of(3.0, 1.0, 2.0, 2.0)
    assert list(deadlines.due(0.999)) == []
    assert deadlines.next() == 1.0
    assert list(deadlines.due(2.0)) == [1, 2, 3]
    assert deadlines.next() == 3.0
    assert len(deadlines) == 1


def test_equal_deadlines_come_in_the_order_of_their_setting() -> None:
    """Of equal deadlines the one that was set first comes first; items are never compared."""
    deadlines: Deadlines[object] = Deadlines(lambda when: None)
    items = [object() for _ in range(20)]
    for item in items:
        deadlines.set(1.0, item)
    assert list(deadlines.due(1.0)) == items


def test_an_earlier_first_deadline_is_announced() -> None:
    """Each deadline that is set before all others is announced to the timer, and no other."""
    deadlines, _, announced = deadlines_of(5.0, 7.0, 5.0, 3.0)
    assert announced == [5.0, 3.0]
    assert list(deadlines.due(6.0)) == [3, 0, 2]
    deadlines.set(6.5, 9)
    assert announced == [5.0, 3.0, 6.5]


def test_a_dropped_deadline_never_comes() -> None:
    """A dropped deadline is not due, is not next, and is not counted, wherever it stood."""
    deadlines, (first, second, third), _ = deadlines_of(1.0, 2.0, 3.0)
    deadlines.drop(second)
    assert len(deadlines) == 2
    deadlines.drop(first)
    assert deadlines.next() == 3.0
    assert list(deadlines.due(2.5)) == []
    deadlines.drop(third)
    assert list(deadlines.due(9.0)) == []
    assert (len(deadlines), deadlines.next()) == (0, None)


def test_a_dropped_item_is_released() -> None:
    """A dropped deadline does not keep its item alive, wherever it stood."""
    deadlines: Deadlines[object] = Deadlines(lambda when: None)
    items = [object() for _ in range(9)]
    moments = [deadlines.set(float(place), item) for place, item in enumerate(items)]
    references = [sys.getrefcount(item) for item in items]
    for place in (5, 0, 8):
        deadlines.drop(moments[place])
        moments[place] = (0.0, 0, None)
        assert sys.getrefcount(items[place]) == references[place] - 1


def test_deadlines_may_be_set_and_dropped_between_due_items() -> None:
    """A deadline that is set for now between two due items still comes, and one that is dropped does not."""
    deadlines, (_, second, third, _), _ = deadlines_of(1.0, 2.0, 3.0, 9.0)
    seen = []
    for item in deadlines.due(5.0):
        seen.append(item)
        if item == 0:
            deadlines.drop(second)
            deadlines.set(2.5, 7)
        if item == 7:
            deadlines.drop(third)
    assert seen == [0, 7]
    assert (len(deadlines), deadlines.next()) == (1, 9.0)


def test_drop_and_next_are_cheap() -> None:
    """With 100,000 deadlines, no drop and no `next` compares more than a few dozen."""
    compared = 0

    class Moment(float):
        def __lt__(self, other: float) -> bool:
            nonlocal compared
            compared += 1
            return float(self) < other

        __gt__ = lambda self, other: float(self) > other  # noqa: E731

    deadlines: Deadlines[int] = Deadlines(lambda when: None)
    every = [deadlines.set(Moment(n), n) for n in range(100_000)]
    for deadline in every[1:-1]:
        compared = 0
        deadlines.drop(deadline)
        assert compared < 60
    assert list(deadlines.due(0.0)) == [0]
    compared = 0
    assert deadlines.next() == 99_999.0
    assert compared == 0
    assert len(deadlines._order._chunks) == 1


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 10**6), min_size=150, max_size=400), st.randoms(use_true_random=False))
def test_joining_chunks_keeps_the_order(moments: list[int], random: Any) -> None:
    """Dropping most of the deadlines, which joins chunks, does not change the order of the rest."""
    deadlines, all_of_them, _ = deadlines_of(*map(float, moments))
    dropped = set(random.sample(range(len(moments)), k=len(moments) * 4 // 5))
    for item in dropped:
        deadlines.drop(all_of_them[item])
    left = [item for item in range(len(moments)) if item not in dropped]
    assert list(deadlines.due(1e9)) == sorted(left, key=lambda item: (moments[item], item))


STEPS = st.lists(st.tuples(st.sampled_from(["set", "set", "drop", "due", "next"]), st.integers(0, 40)), max_size=80)


@settings(deadline=None)
@given(STEPS)
def test_any_use_agrees_with_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    """After any calls, the deadlines come as from a sorted list."""
    deadlines: Deadlines[int] = Deadlines(lambda when: None)
    model: dict[int, Deadline[int]] = {}
    for item, (step, number) in enumerate(steps):
        if step == "set":
            model[item] = deadlines.set(float(number), item)
        elif step == "drop" and model:
            deadlines.drop(model.pop(list(model)[number % len(model)]))
        elif step == "due":
            due = sorted((one[0], item) for item, one in model.items() if one[0] <= number)
            assert list(deadlines.due(float(number))) == [item for _, item in due]
            for _, item in due:
                del model[item]
        else:
            assert deadlines.next() == min((one[0] for one in model.values()), default=None)
        assert len(deadlines) == len(model)
