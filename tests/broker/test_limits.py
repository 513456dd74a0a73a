"""The limits, on numbers that a test gives them."""

from __future__ import annotations

from typing import Any

import pytest

from gloom.broker.limits import Limits
from gloom.errors import Busy, Draining
from gloom.settings import MIB, Settings


class Measured(Limits):
    """Limits with a given free memory, which count their measurements."""

    __slots__ = ("asked", "free_bytes")

    def __init__(self, free_bytes: int, **settings: Any) -> None:
        super().__init__(Settings(**settings))
        self.free_bytes = free_bytes
        self.asked = 0
        self.measure = self._measure

    def _measure(self) -> None:
        self.asked += 1
        if self.free_bytes > 0:
            self.allow(0, 0, self.free_bytes)
        else:
            self.refuse()

    def refused(self, jobs: int, used_bytes: int, size: int = 1) -> bool:
        """Whether one more job of *size* bytes is refused as `Busy` for the memory."""
        refusal = self.refusal(jobs, used_bytes, 0, 0, size)
        assert refusal is None or (isinstance(refusal, Busy) and "--max-memory-bytes" in refusal.reason)
        return refusal is not None


def test_nothing_is_checked_below_the_share_of_one_master() -> None:
    """While all masters together are below the share of one, and memory was never measured, no limit is checked."""
    limits = Limits(Settings(max_jobs=10, max_queued_bytes=MIB, master_share=0.5))
    assert (limits.unchecked_jobs, limits.unchecked_bytes) == (5, MIB // 2)


def test_memory_is_measured_again_when_the_grant_is_used_up() -> None:
    """Between two measurements jobs may take a part of the free memory, their own cost included."""
    limits = Measured(10 * MIB)
    limits.measure()
    assert limits.unchecked_bytes == 5 * MIB
    assert limits.unchecked_jobs * 1000 <= 5 * MIB
    assert not limits.refused(limits.unchecked_jobs - 1, 5 * MIB - 1)
    assert limits.asked == 1
    limits.free_bytes = 0
    assert limits.refused(1, 5 * MIB)
    assert limits.asked == 2


def test_while_memory_is_full_nothing_is_measured_for_a_job() -> None:
    """A refusal measures nothing: the timer does, and the first job after that is accepted."""
    limits = Measured(0)
    limits.measure()
    assert all(limits.refused(0, 0) for _ in range(100))
    assert limits.asked == 1
    limits.free_bytes = 10 * MIB
    limits.measure()
    assert not limits.refused(0, 0)


def test_a_job_larger_than_the_free_memory_is_refused_alone() -> None:
    """Where a large job does not fit, smaller ones are accepted as before."""
    limits = Measured(10 * MIB)
    assert limits.refused(0, 0, 20 * MIB) or limits.asked == 0
    limits.measure()
    assert limits.refused(0, 0, 20 * MIB)
    assert not limits.refused(0, 0, 1)


def test_the_other_limits_hold_beside_the_memory() -> None:
    """Much free memory raises no other limit."""
    limits = Measured(1 << 40, max_jobs=10)
    limits.measure()
    assert limits.unchecked_jobs == 5
    refusal = limits.refusal(10, 0, 0, 0, 1)
    assert refusal is not None and "--max-jobs" in refusal.reason


@pytest.mark.parametrize("free_bytes", [0, 1 << 40])
def test_a_drain_is_not_ended_by_a_measurement(free_bytes: int) -> None:
    """A broker that shuts down refuses jobs, with much or no free memory."""
    limits = Measured(free_bytes)
    limits.drain()
    limits.measure()
    assert limits.unchecked_jobs == 0
    assert isinstance(limits.refusal(0, 0, 0, 0, 1), Draining)
