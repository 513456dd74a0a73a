"""Returning memory to the system: gloom.host.malloc, on a test clock."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.task import Clock

from gloom.broker.records import Job, Line, Master, Slave
from gloom.broker.values import BASE_TERMS
from gloom.host.malloc import INTERVAL_SECONDS, MUCH_BYTES, MemoryService, find_trim, keep_freed_blocks, let_be
from gloom.testing import MemoryGloom
from gloom.transport.collector import CollectorTime
from tests.support.recording import RecordingMaster
from tests.support.wire import extended, join, join_types, respond, slave_of, submit


class Daemon:
    """
    A started service.

    Attributes:
        used_bytes: The reported memory of the jobs.
        trims: The number of times that it has returned memory.
    """

    def __init__(self) -> None:
        self.used_bytes = self.trims = 0
        self.clock = Clock()
        self.service = MemoryService(self.clock, lambda: self.used_bytes, self._trim)
        self.service.startService()

    def _trim(self) -> None:
        self.trims += 1

    def uses(self, used_bytes: int) -> int:
        """Report that much memory in use for a while; return how often memory was returned."""
        self.used_bytes = used_bytes
        for _ in range(3):
            self.clock.advance(INTERVAL_SECONDS)
        return self.trims


def test_memory_is_given_back_once_when_most_is_free() -> None:
    """After a large queue has drained, its memory is returned once; an idle daemon does nothing more."""
    daemon = Daemon()
    assert daemon.uses(MUCH_BYTES) == 0
    assert daemon.uses(MUCH_BYTES // 2) == 0
    assert daemon.uses(MUCH_BYTES // 4) == 1
    assert daemon.uses(0) == 1


def test_little_is_not_worth_it() -> None:
    """If the jobs never took much memory, none is returned."""
    daemon = Daemon()
    assert daemon.uses(MUCH_BYTES - 1) == 0
    assert daemon.uses(0) == 0


def test_each_large_queue_is_given_back() -> None:
    """After each large queue, its memory is returned again."""
    daemon = Daemon()
    for trims in (1, 2):
        assert daemon.uses(10 * MUCH_BYTES) == trims - 1
        assert daemon.uses(0) == trims


def test_it_leaves_no_timer_behind() -> None:
    """The timer runs with the service, and may be stopped more than once."""
    daemon = Daemon()
    daemon.service.stopService()
    daemon.service.stopService()
    assert daemon.clock.getDelayedCalls() == []


def test_glibc_gives_back() -> None:
    """With glibc there is a function to call, and the call does no harm."""
    find_trim()()


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_library_is_let_be(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """With another C library, which cannot return memory, nothing happens."""

    def cdll(name: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    find_trim()()
    keep_freed_blocks()


FAULTS = """
import resource, sys
from gloom.host.malloc import keep_freed_blocks
from gloom.wire.largebytes import LargePayload
if sys.argv[1] == "keep":
    keep_freed_blocks()

def receive():
    payload = LargePayload(1 << 20)
    payload.add(bytes(1 << 19))
    payload.add(bytes(1 << 19))
    payload.whole()

receive()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    receive()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Return the page faults of twenty frames of 1 MiB in a new process, with malloc's default settings."""
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True, timeout=30)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")
def test_only_the_daemon_has_malloc_keep_blocks() -> None:
    """Large frames cause no page faults in the daemon; in a user's process malloc keeps the user's settings."""
    assert faults("keep") < 500
    assert faults("leave") > 1000


def test_the_broker_tells_about_what_its_jobs_take() -> None:
    """The broker reports the memory of its jobs: their bodies, and a fixed part for each job."""
    gloom = MemoryGloom()
    broker = gloom.masters.around.broker
    assert broker.used_bytes == 0
    gloom.master().send(submit(1, body="x" * 100_000))
    assert 100_000 < broker.used_bytes < 102_000


def test_the_collector_does_not_follow_jobs() -> None:
    """Python's garbage collector does not traverse queued jobs, so a million of them cause no pause."""
    job = Job("a", Line("t"), 0, 0, b"{}", Master(RecordingMaster("m")).alone, BASE_TERMS, 0.0)
    job.deadline = MemoryGloom().masters.around.broker._deadlines.set(1.0, job)  # type: ignore[attr-defined]
    assert not gc.is_tracked(job)
    assert not gc.is_tracked(job.line)
    assert not gc.is_tracked(job.line.queue)
    # The collector untracks a tuple of untracked values.
    gc.collect()
    assert not gc.is_tracked(job.deadline)


def test_the_collector_does_not_follow_joined_types() -> None:
    """The collector does not traverse joined types: a full collection beside 100,000 of them takes a moment."""
    gloom = MemoryGloom()
    slave = extended(gloom.slave())
    gc.collect()
    before = len(gc.get_objects())
    slave.send(join_types(*(f"type {number}" for number in range(1000))))
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_the_collector_lets_be_what_was_there_at_the_start() -> None:
    """The collector ignores the daemon's modules, since they live as long; traversing them took 25 ms each time."""
    try:
        let_be()
        assert len(gc.get_objects()) < 1000
    finally:
        gc.unfreeze()


def test_the_time_of_full_collections_is_counted() -> None:
    """Full collections are timed; the short ones are not."""
    collector = CollectorTime()
    gc.callbacks.append(collector)
    try:
        gc.collect(0)
        gc.collect(1)
        assert collector.seconds == 0
        gc.collect()
        assert collector.seconds > 0
    finally:
        gc.callbacks.remove(collector)


def test_a_connection_that_has_ended_leaves_no_garbage() -> None:
    """A disconnected peer's objects are freed at once, without the garbage collector."""
    gloom = MemoryGloom()

    def come_and_go() -> None:
        slave, master = slave_of(gloom), gloom.master()
        for id in range(3):
            master.send(submit(id))
        slave.send(respond())
        slave.send(join("other"))
        for peer in (master, slave):
            peer.drop()
        gloom.advance(60)

    def records() -> int:
        # The simulation's census counts lines, which the collector does not track.
        return sum(isinstance(thing, Master | Slave) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = records()
        for _ in range(20):
            come_and_go()
        assert records() == before
    finally:
        gc.enable()
