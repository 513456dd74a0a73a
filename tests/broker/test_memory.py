"""The memory of the in-memory broker: it keeps nothing of jobs and types that have ended."""

from __future__ import annotations

import sys

import pytest

from tests.support.floor import MemoryFloor


@pytest.fixture
def floor() -> MemoryFloor:
    return MemoryFloor()


def test_a_dropped_job_keeps_no_memory(floor: MemoryFloor) -> None:
    """The memory of a queued job is freed when its master is lost, also while its type has other jobs."""
    floor.master("stays").queue("s")
    gone = floor.master("gone").queue("g")
    job = floor.broker._jobs["g"]
    gone.lost()
    assert sys.getrefcount(job) == 2  # this one, and the argument


def test_types_are_forgotten_when_unused(floor: MemoryFloor) -> None:
    """A broker that has seen 10,000 job types is no larger than one that has seen none."""
    slave = floor.slave()
    for number in range(10_000):
        master = floor.master()
        slave.join(f"type {number}")
        master.submit(number, f"type {number}")
        slave.respond()
        master.submit("gone", f"nobody takes {number}")
        master.lost()
    assert len(floor.broker._lines) == 2  # of untyped jobs, and of the type that the slave has joined last
    slave.lost()
    assert floor.is_empty()


def test_a_cancelled_job_keeps_no_memory(floor: MemoryFloor) -> None:
    """The memory of a queued job is freed when it is cancelled, also while its type has other jobs."""
    master = floor.master().queue("first", "j")
    job = floor.broker._jobs["j"]
    master.cancel("j")
    assert sys.getrefcount(job) == 2  # this one, and the argument


def test_the_memory_of_many_jobs_comes_back(floor: MemoryFloor) -> None:
    """A large dict is small again when it is empty, which deletions alone do not do."""
    slave = floor.slave()
    master = floor.master().queue(*range(5000))
    large = floor.broker._jobs.__sizeof__()
    slave.join(slots=1000)
    while slave.record.hand:
        slave.respond(id=next(iter(slave.record.hand)))
    assert floor.broker._jobs.__sizeof__() * 100 < large
    assert master.record.jobs.__sizeof__() * 100 < large
