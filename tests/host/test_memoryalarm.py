"""The memory alarm, with a simulated memory and a test clock."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from gloom.host.memoryalarm import (
    DATA,
    INTERVAL_SECONDS,
    RESIDENT,
    SIZE,
    Bound,
    MemoryAlarm,
    find_bounds,
    find_kept,
    find_usage,
)
from gloom.settings import MIB
from gloom.testing import MemoryGloom
from tests.support.logged import logged
from tests.support.wire import OK, submit

MOST = 64 * MIB


class Daemon:
    """
    A broker with an alarm, and a connected master.

    Attributes:
        taken: The memory of the process, in bytes.
        kept: The free part of it that glibc keeps.
    """

    def __init__(self, column: int = RESIDENT) -> None:
        self.gloom = MemoryGloom()
        self.clock = self.gloom.clock
        self.master = self.gloom.master()
        self.taken, self.kept, self.trims, self.jobs = 10 * MIB, 0, 0, 0
        self.alarm = MemoryAlarm(
            self.clock,
            self.gloom.masters.around.broker,
            [Bound("a test", MOST, column), Bound("much", 1 << 50, RESIDENT)],
            self._trim,
            lambda: [self.taken if place == column else 0 for place in range(7)],
            lambda: self.kept,
        )
        self.alarm.startService()

    def _trim(self) -> None:
        self.trims += 1

    def submits(self, body: str = "x") -> Any:
        """Submit one job; return the reply."""
        self.jobs += 1
        (answer,) = self.master.ask(submit(self.jobs, body=body))
        return answer

    def holds_jobs(self) -> Daemon:
        """Submit jobs beyond the part of the memory that jobs may always take."""
        for _ in range(3):
            assert self.submits("x" * MIB) == OK
        return self

    def takes(self, taken: int) -> list[str]:
        """Set the memory of the process; return the log lines of the measurement."""
        self.taken = taken
        with logged("gloom.host.memoryalarm") as events:
            for _ in range(3):
                self.gloom.advance(INTERVAL_SECONDS)
        return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]


BUSY = {"error": "busy", "reason": "the memory of the broker is nearly full (--max-memory-bytes)"}


def test_jobs_are_refused_before_memory_ends() -> None:
    """Near the bound a submit is refused as busy; jobs in flight go on, and the log says so once."""
    daemon = Daemon().holds_jobs()
    assert daemon.takes(MOST - 2 * MIB) == []
    assert daemon.submits() == OK
    assert daemon.takes(MOST) == [
        f"warn memory is nearly full, {MOST} of {MOST} bytes (a test): jobs are refused as busy"
    ]
    assert daemon.submits() == BUSY
    assert daemon.takes(MOST + 1) == []


def test_it_is_over_when_a_good_part_is_free_again() -> None:
    """The alarm ends when a good part of the memory is free, not at the first free byte; the log says so."""
    daemon = Daemon().holds_jobs()
    daemon.takes(MOST)
    assert daemon.takes(MOST - 2 * MIB) == []
    assert daemon.submits() == BUSY
    assert daemon.takes(MOST - 8 * MIB) == [
        f"info memory is free again, {MOST - 8 * MIB} of {MOST} bytes (a test): jobs are accepted"
    ]
    assert daemon.submits() == OK


def test_memory_is_given_back_while_it_is_nearly_full() -> None:
    """While memory is short, freed memory is returned, so that it does not count as taken."""
    daemon = Daemon().holds_jobs()
    daemon.takes(20 * MIB)
    assert daemon.trims == 0
    daemon.takes(MOST)
    assert daemon.trims > 0


@pytest.mark.parametrize(("column", "answer"), [(SIZE, OK), (DATA, OK), (RESIDENT, BUSY)])
def test_what_the_allocator_keeps_is_there_for_jobs(column: int, answer: Any) -> None:
    """Memory that glibc keeps counts as free, except under a bound on resident memory: there it was returned."""
    daemon = Daemon(column).holds_jobs()
    daemon.takes(MOST)
    daemon.kept = 20 * MIB
    for _ in range(3):
        daemon.takes(MOST)
        assert daemon.submits() == answer


def test_a_broker_without_jobs_accepts_some() -> None:
    """A broker without jobs accepts some, even if other allocations fill the memory or none is returned."""
    daemon = Daemon()
    assert daemon.takes(2 * MOST) == []
    assert daemon.submits() == OK


def test_jobs_may_not_take_what_is_free_twice_between_two_measurements() -> None:
    """Many large jobs in one turn trigger a measurement: no job is accepted that does not fit."""
    daemon = Daemon()
    daemon.takes(MOST - 8 * MIB)
    taken = daemon.taken
    daemon.alarm._usage = lambda: [0, taken + daemon.gloom.broker.used_bytes, 0, 0, 0, 0, 0]
    answers = [daemon.submits("x" * (MIB // 2)) for _ in range(30)]
    accepted = answers.index(BUSY)
    assert 4 < accepted < 16
    assert answers[accepted:] == [BUSY] * (30 - accepted)


def test_it_leaves_no_timer_behind() -> None:
    """The timer runs only while the service does."""
    daemon = Daemon()
    daemon.alarm.stopService()
    daemon.alarm.stopService()
    assert not daemon.clock.getDelayedCalls()


@pytest.mark.parametrize("bounds", [[], [Bound("a test", 1, RESIDENT)]])
def test_nothing_is_measured_where_nothing_can_be(bounds: list[Bound]) -> None:
    """Without a bound, or without a measure, there is no alarm."""
    clock = Clock()
    alarm = MemoryAlarm(clock, MemoryGloom().broker, bounds, lambda: None, None, lambda: 0)
    alarm.startService()
    alarm.stopService()
    assert not clock.getDelayedCalls()


# The limits of the system


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty system without limits."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_the_option_is_taken_whole(root: Path) -> None:
    """An explicit number is used in full."""
    assert find_bounds(100 * MIB, root) == [Bound("--max-memory-bytes", 100 * MIB, RESIDENT)]


def test_without_any_limit_there_is_no_bound(root: Path) -> None:
    """Without any limit of the system, memory is not bounded."""
    assert find_bounds(0, root) == []


def test_the_machine_is_a_bound(root: Path) -> None:
    """Without other limits, the bound is three quarters of the machine's memory."""
    write(root, proc__meminfo="MemTotal:        4096 kB\nMemFree:  1 kB\n")
    assert find_bounds(0, root) == [Bound("the machine", 3 * MIB, RESIDENT)]


def test_cgroups_of_version_2_are_bounds(root: Path) -> None:
    """The limits of the process's own cgroup and of its parents count."""
    write(root, proc__self__cgroup="0::/system.slice/gloom.service\n")
    top = root / "sys/fs/cgroup"
    for folder, text in (("system.slice/gloom.service", "4194304\n"), ("system.slice", "max\n"), ("", "8388608\n")):
        (top / folder).mkdir(parents=True, exist_ok=True)
        (top / folder / "memory.max").write_text(text)
    assert find_bounds(0, root) == [Bound("its cgroup", 3 * MIB, RESIDENT), Bound("its cgroup", 6 * MIB, RESIDENT)]


def test_cgroups_of_version_1_are_bounds(root: Path) -> None:
    """Cgroups of version 1, on older systems, count too, also in a container that sees only the top one."""
    write(root, proc__self__cgroup="9:cpu,cpuacct:/a\n4:memory:/docker/abc\n")
    top = root / "sys/fs/cgroup/memory"
    top.mkdir(parents=True)
    (top / "memory.limit_in_bytes").write_text("4194304")
    assert find_bounds(0, root) == [Bound("its cgroup", 3 * MIB, RESIDENT)]


def test_limits_of_the_process_are_bounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit of the process applies to its own measure: address space, or data."""
    limits = {resource.RLIMIT_AS: (4 * MIB, 9 * MIB), resource.RLIMIT_DATA: (8 * MIB, 9 * MIB)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert find_bounds(0, root) == [Bound("ulimit -v", 3 * MIB, SIZE), Bound("ulimit -d", 6 * MIB, DATA)]


def test_this_process_can_be_measured() -> None:
    """The real measure reports address space, and more than a MiB of resident memory and of data."""
    usage = find_usage()
    assert usage is not None
    taken = usage()
    assert taken[SIZE] > taken[RESIDENT] > MIB
    assert taken[DATA] > MIB
    assert find_kept()() >= 0


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_library_keeps_nothing(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """With another C library, which reports no free memory, none is counted as free."""

    def cdll(name: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    assert find_kept()() == 0
