"""
Nothing is lost while processes die, stop and are cut off: short versions of `verify.reliability.chaos`.

The figures are in the output of ``pytest -s tests/integration/test_chaos.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet import reactor

from tests.support.daemon import Daemon
from verify.reliability import chaos
from verify.reliability.faults.clocks import clock_jumps
from verify.reliability.faults.forking import forks
from verify.reliability.faults.networks import bad_network
from verify.reliability.faults.scarcity import few_descriptors, full_disk
from verify.reliability.faults.scene import NotPossible
from verify.reliability.faults.sizes import large_answers, mapped_large_answers
from verify.reliability.faults.standing import (
    answered_meanwhile,
    stopped_child,
    stopped_member,
    stopped_slave_with_large_jobs,
)
from verify.reliability.load import Load
from verify.reliability.network import NotPermitted

pytestmark = [pytest.mark.faults, pytest.mark.deferred_timeout(60), pytest.mark.usefixtures("untraced")]


async def test_slaves_that_are_killed_all_the_time_lose_no_job(daemon: Callable[..., Daemon]) -> None:
    """A slave is killed every 100 ms for three seconds: every job has one outcome, the right answer."""
    assert await chaos.storm(reactor, daemon("--retries=100"), seconds=3) == []


async def test_a_broker_that_is_killed_loses_no_job(daemon: Callable[..., Daemon]) -> None:
    """Killed twice under load and started again on the same ports: every job has one outcome, the right answer."""
    assert await chaos.restarts(reactor, daemon(), times=2, pause_seconds=0.3) == []


async def test_a_stopped_slave_loses_its_job_within_the_heartbeat(daemon: Callable[..., Daemon]) -> None:
    """A slave stopped by SIGSTOP answers no ping; after the agreed heartbeat another slave has its job."""
    assert await chaos.stopped(reactor, daemon(), heartbeat_seconds=1.0) == []


async def test_a_slave_that_is_cut_off_loses_its_job_within_the_heartbeat(tmp_path: Path) -> None:
    """A slave whose cable is cut says no farewell; after the agreed heartbeat another slave has its job."""
    try:
        assert await chaos.half_open(reactor, tmp_path, heartbeat_seconds=1.0) == []
    except NotPermitted as error:
        pytest.skip(f"no network of our own: {error}")


def test_a_broker_that_stood_still_hears_first_and_judges_then(tmp_path: Path) -> None:
    """After a pause longer than heartbeat and timeout, the broker drops no pinging peer and accepts timely answers."""
    assert answered_meanwhile(tmp_path, 1.0) == []


@pytest.mark.parametrize("kind", ["deferred-master", "raw-slave"])
def test_a_peer_that_is_stopped_loses_no_job(tmp_path: Path, kind: str) -> None:
    """A peer stopped for longer than its heartbeat is dropped, and no other peer; every job has one outcome."""
    assert stopped_member(tmp_path, kind, 2.5) == []


def test_a_stopped_process_of_gloom_work_loses_no_job(tmp_path: Path) -> None:
    """A stopped child of `gloom work`, or the stopped command itself, makes its jobs late, and loses none."""
    assert stopped_child(tmp_path, 1.0) == []


def test_a_slave_that_takes_no_byte_is_dropped_by_its_heartbeat(tmp_path: Path) -> None:
    """A slave that reads nothing is dropped at its heartbeat, even with a large backlog; another gets its jobs."""
    assert stopped_slave_with_large_jobs(tmp_path, 3.0) == []


def test_a_bad_network_loses_no_job(tmp_path: Path) -> None:
    """With bytes one by one, late or all at once, and with resets, every job has one outcome, the right answer."""
    assert bad_network(tmp_path, 0.7) == []


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """With the wall clock set by hours, no peer is dropped, no job expires too early or too late, none is lost."""
    try:
        assert clock_jumps(tmp_path, 0.6) == []
    except NotPossible as error:
        pytest.skip(str(error))


def test_a_broker_without_descriptors_serves_those_that_it_has(tmp_path: Path) -> None:
    """With ``ulimit -n 64`` and 128 more connections, the existing ones are served, and later there is room again."""
    assert few_descriptors(tmp_path, 0.5) == []


def test_a_full_disk_under_the_log_stops_nobody(tmp_path: Path) -> None:
    """With a full disk, log lines are lost, but no job is."""
    assert full_disk(tmp_path, 0.5) == []


def test_a_master_that_reads_all_the_time_has_its_large_answers(tmp_path: Path) -> None:
    """A master that reads twelve answers of 8 MiB at once, above the limit on unread bytes, is not dropped."""
    assert large_answers(tmp_path) == []


def test_gloom_map_has_its_large_answers(tmp_path: Path) -> None:
    """`gloom map` reads answers of 8 MiB as they arrive, and the broker drops neither it nor `gloom work`."""
    assert mapped_large_answers(tmp_path, 12) == []


async def test_a_job_that_nobody_answers_is_reported(daemon: Callable[..., Daemon]) -> None:
    """The checker of these tests reports a lost job: without slaves, it counts every job as lost."""
    load = Load(reactor, f"127.0.0.1:{daemon().master_port}", masters=1, window=3)
    await load.start()
    assert await load.finish(within_seconds=0.1) == ["3 jobs have no outcome"]


def test_jobs_that_fork_are_answered_by_their_own_process(tmp_path: Path) -> None:
    """With forks that exit, forks that return, and daemons that keep pipes open, each job has its one right answer."""
    assert forks(tmp_path, 1.0) == []
