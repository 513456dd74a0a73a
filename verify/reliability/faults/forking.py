"""Jobs that fork: the forked processes send no answer, hold no slot, and do not keep a worker from exiting."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.commands import GLOOM
from verify.reliability.crowd import MASTERS
from verify.reliability.faults.scene import RETRIES, Crowd, FaultyBroker, among, children, until
from verify.reliability.figures import show
from verify.reliability.nursery import environment

# One job in this many leaves a daemon, which outlives the test.
_JOBS_A_DAEMON = 40
_DAEMON_SECONDS = 20.0
_MOST_END_SECONDS = 5.0
#: Output of a forked process in place of the answer. A master that receives it counts a wrong answer.
WRONG = -1


def forks(directory: Path, seconds: float) -> list[str]:
    """Let all jobs of `gloom work` fork: each answer is correct, and daemons with open pipes block nothing."""
    name = f"jobs that fork, for {seconds:g} s"
    with FaultyBroker(directory, RETRIES) as broker:
        command = [str(GLOOM), "work", "-c", "2", "--slave", f"127.0.0.1:{broker.slave_port}"]
        with subprocess.Popen(
            [*command, "verify.reliability.faults.forking:increment"],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as work:
            try:
                until(lambda: len(children(work.pid)) >= 2, "gloom work has no children")
                with Crowd(broker.master_port, broker.slave_port, kinds=MASTERS) as crowd:
                    failures = among(name, broker, crowd, lambda: time.sleep(seconds))
                return failures + _ended(name, work)
            finally:
                work.kill()


def _ended(name: str, work: subprocess.Popen[bytes]) -> list[str]:
    work.terminate()
    begun = time.monotonic()
    try:
        status = work.wait(_MOST_END_SECONDS)
    except subprocess.TimeoutExpired:
        return [f"{name}: gloom work has not ended {_MOST_END_SECONDS:g} s after SIGTERM"]
    show(f"{name}: gloom work ended {time.monotonic() - begun:.1f} s after SIGTERM, with its daemons alive")
    return [] if status == 0 else [f"{name}: gloom work ended with status {status}"]


def increment(body: int) -> int:
    """Fork in one of several ways, and do the job."""
    if body % _JOBS_A_DAEMON == 0:
        _leave_a_daemon()
        return body + 1
    process_id = os.fork()
    if process_id == 0:
        if body % 2:
            sys.exit(0)
        return WRONG
    os.waitpid(process_id, 0)
    return body + 1


def _leave_a_daemon() -> None:
    process_id = os.fork()
    if process_id == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(_DAEMON_SECONDS)
        os._exit(0)
    os.waitpid(process_id, 0)
