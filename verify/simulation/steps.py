"""Step sizes of the broker's bounded work: drawn anew for each broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from gloom.broker import crews, pairing
from gloom.broker import memory as broker
from gloom.server import protocols
from gloom.wire import framereader

# Messages are small here, so the steps must be.
_STEPS: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
    (framereader, "STEP_BYTES", (20, 20, 1024)),
    (protocols, "JOBS_A_STEP", (1, 1, 4)),
    (broker, "MOST_A_STEP", (1, 3, 1000)),
    (pairing, "MOST_DROPPED", (1, 2, 1000)),
    (pairing, "_MOST_WALKS", (1, 20)),
    (crews, "MOST_CLEARED", (1, 7, 1000)),
)


@contextmanager
def kept() -> Iterator[None]:
    """Restore all sizes in the end."""
    before = [getattr(module, name) for module, name, _ in _STEPS]
    try:
        yield
    finally:
        for (module, name, _), value in zip(_STEPS, before, strict=True):
            setattr(module, name, value)


def draw(random: Random) -> None:
    """Draw the step sizes of the next broker."""
    for module, name, values in _STEPS:
        setattr(module, name, random.choice(values))
