"""`gloom demo` as a user runs it: its output, and no process left behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as untyped
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gloom.cli.demo.counting import source_files
from gloom.cli.demo.farm import Farm, FarmBroken
from gloom.errors import TransportError
from tests.support.commands import SECONDS, pipe_of, running_gloom
from tests.support.terminals import read_to_end

reactor: Any = untyped

LIBRARY = Path(sysconfig.get_path("stdlib"))


def test_the_demo_counts_the_standard_library_and_leaves_nothing_running() -> None:
    """Every source file is one job, both workers take part, and no process is left afterwards."""
    files = sum(1 for _ in source_files(LIBRARY, {"site-packages", "dist-packages"}))
    with running_gloom("demo", "--json") as process:
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert process.left_running() == []
    totals = json.loads(stdout)
    assert totals["files"] == files > 100
    assert totals["words"] > totals["lines"] > totals["definitions"] > files
    assert totals["jobs_per_second"] > 0
    workers = re.findall(r"^worker  process (\d+): gloom work gloom.cli.demo.job:count$", stderr, re.MULTILINE)
    assert sorted(totals["workers"]) == sorted(workers)
    assert sum(totals["workers"].values()) == files
    assert re.search(r"^broker  process \d+: masters on 127.0.0.1:\d+, slaves on 127.0.0.1:\d+$", stderr, re.MULTILINE)
    assert f"{files:,} Python source files of {LIBRARY}" in stderr
    assert re.search(rf"^[\d,]+ of {files:,} jobs, [\d,]+ jobs/s$", stderr, re.MULTILINE)


def test_the_demo_draws_on_a_terminal() -> None:
    """A terminal shows a bar during the run, and a table at the end."""
    ours, theirs = pty.openpty()
    with running_gloom("demo", stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = read_to_end(ours).decode()
        assert process.wait(SECONDS) == 0
    bar, _, table = said.partition("The standard library, counted")
    assert "jobs/s" in bar
    assert re.search(r"│ definitions +│ +[\d,]+ │", re.sub(r"\x1b\[[0-9;]*m", "", table))


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [("broker ", signal.SIGTERM, 143), ("jobs ", signal.SIGHUP, 129)],
)
def test_a_signal_ends_the_demo_and_every_process_of_it(moment: str, number: signal.Signals, status: int) -> None:
    """A signal at any time, or a closed terminal, ends every process of the demo."""
    # Under nohup a program rightly ignores SIGHUP, and so may these tests; the demo must not.
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with running_gloom("demo") as process:
        signal.signal(signal.SIGHUP, inherited)
        for line in pipe_of(process.stderr):
            if moment in line:
                break
        process.send_signal(number)
        rest = pipe_of(process.stderr).read()
        assert process.wait(SECONDS) == status
        assert process.left_running() == []
    assert "Traceback" not in rest


def test_ctrl_c_at_the_terminal_ends_the_demo() -> None:
    """At Ctrl-C every process of the terminal gets the signal and ends; the demo reports no broken farm."""
    with running_gloom("demo") as process:
        for line in pipe_of(process.stderr):
            if " of " in line and "jobs/s" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = pipe_of(process.stderr).read()
        assert process.wait(SECONDS) == 130
        assert process.left_running() == []
    assert "Traceback" not in rest
    assert "ended by itself" not in rest


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_the_demo_says_when_a_process_of_it_dies(name: str) -> None:
    """If a process dies, the demo prints its last words as an error, and ends the other processes."""
    with running_gloom("demo") as process:
        for line in pipe_of(process.stderr):
            victim = re.match(rf"{name}  process (\d+):", line)
            if victim is not None:
                os.kill(int(victim[1]), signal.SIGKILL)
                break
        rest = pipe_of(process.stderr).read()
        assert process.wait(SECONDS) == 1
        assert process.left_running() == []
    assert f"gloom: the {name} ended by itself" in rest
    assert "Traceback" not in rest


async def test_a_dead_broker_is_named_though_its_socket_refuses_first() -> None:
    """The system closes a dead process's port before the parent learns of its death; the demo reports the death."""
    farm = Farm(reactor)
    try:
        pid = await farm.start_broker()

        async def refused() -> None:
            os.kill(pid, signal.SIGKILL)
            raise TransportError("cannot reach the broker: Connection refused")

        with pytest.raises(FarmBroken, match="the broker ended by itself"):
            await farm.during(refused())
    finally:
        await farm.stop()


async def test_a_broker_that_refuses_and_lives_is_no_broken_farm() -> None:
    """A refusal by a live broker is reported as itself, not as a broken farm."""

    async def refused() -> None:
        raise TransportError("cannot reach the broker: Connection refused")

    clock: Any = Clock()
    running = Deferred.fromCoroutine(Farm(clock).during(refused()))
    clock.advance(1.0)
    with pytest.raises(TransportError, match="Connection refused"):
        await running
