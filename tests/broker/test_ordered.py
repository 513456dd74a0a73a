"""Ordered entries against the plainest model of them: a sorted list."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.broker import ordered
from gloom.broker.ordered import Ordered


class Key(int):
    """A number that counts comparisons, for all keys together."""

    compared = 0

    def __lt__(self, other: Any) -> bool:
        Key.compared += 1
        return int(self) < int(other)


def chunks_of(entries: Ordered[Any]) -> list[int]:
    """Return the lengths of the chunks, and check the list of their last entries."""
    assert entries._lasts == [chunk[-1] for chunk in entries._chunks]
    return [len(chunk) for chunk in entries._chunks]


@pytest.fixture(params=[4, 8, 512])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The largest chunk: also so small that few entries need many chunks."""
    monkeypatch.setattr(ordered, "MOST_IN_CHUNK", request.param)
    return int(request.param)


STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "pop"]), st.integers(0, 30)), max_size=200)


@settings(deadline=None)
@given(steps=STEPS, most=st.sampled_from([4, 8, 512]))
def test_any_use_agrees_with_a_sorted_list(steps: list[tuple[str, int]], most: int) -> None:
    """After any entries were put and removed, at the front or anywhere, the rest is in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "MOST_IN_CHUNK", most)
        entries: Ordered[Any] = Ordered()
        model: list[tuple[int, int, object]] = []
        for tie, (step, number) in enumerate(steps):
            if step == "put":
                model.append((number, tie, object()))
                model.sort(key=lambda entry: entry[:2])
                entries.put(next(entry for entry in model if entry[1] == tie))
            elif step == "remove" and model:
                entries.remove(model.pop(number % len(model)))
            elif step == "pop" and model:
                assert entries.pop() is model.pop(0)
            assert list(entries) == model
            assert entries.first() == (model[0] if model else None)
            assert (len(entries), bool(entries)) == (len(model), bool(model))
            assert all(0 < length <= most for length in chunks_of(entries))


def test_pop_of_no_entry_is_an_error() -> None:
    """A caller of `pop` must know that there is an entry."""
    with pytest.raises(IndexError):
        Ordered[int]().pop()


def test_no_step_compares_more_than_a_search(most: int) -> None:
    """With 20,000 entries, put and taken in any order, no step compares more than a few dozen times."""
    random = Random(1)
    entries: Ordered[None] = Ordered()
    every = [(Key(random.randrange(10**9)), tie, None) for tie in range(20_000)]
    removed = random.sample(every, 15_000)
    for act, order in ((entries.put, every), (entries.remove, removed)):
        for entry in order:
            Key.compared = 0
            act(entry)
            assert Key.compared < 60
    while entries:
        Key.compared = 0
        entries.first()
        entries.pop()
        assert Key.compared == 0


def test_chunks_do_not_become_many_and_small() -> None:
    """When most entries were removed, from either end or from anywhere, the rest is in few chunks."""
    every = [(number, 0, None) for number in range(100_000)]
    for order in (every, every[::-1], Random(1).sample(every, len(every))):
        entries: Ordered[None] = Ordered()
        for entry in every:
            entries.put(entry)
        for entry in order[:99_900]:
            entries.remove(entry)
        assert len(chunks_of(entries)) <= 4
