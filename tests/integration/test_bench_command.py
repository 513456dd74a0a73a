"""`gloom bench` as a user runs it, with a broker and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gloom.server.access import hash_token
from tests.support.commands import SECONDS, Ended, pipe_of, run_gloom, running_gloom
from tests.support.daemon import Daemon
from tests.support.terminals import read_to_end

TOKEN = "may do both"
ACCESS = f"""
[[identity]]
name = "bench"
token_sha256 = "{hash_token(TOKEN)}"
roles = ["master", "slave"]
types = ["gloom-bench-*"]

[[identity]]
name = "shop"
token_sha256 = "{hash_token("may submit")}"
roles = ["master"]
types = ["*"]
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One broker for all harmless tests. At the end it must have no peer and no job left."""
    one = Daemon(tmp_path_factory.mktemp("broker")).start()
    yield one
    assert one.stop() == 0
    said = "".join(one.lines)
    assert "0 masters and 0 slaves are connected" in said
    assert "drained: no job was in hand" in said


def places(broker: Daemon) -> tuple[str, ...]:
    return ("--master", f"127.0.0.1:{broker.master_port}", "--slave", f"127.0.0.1:{broker.slave_port}")


def bench(broker: Daemon, *arguments: str) -> Ended:
    return run_gloom("bench", *places(broker), *arguments)


def test_a_bench_prints_json(broker: Daemon) -> None:
    """Both parts print their figures as JSON, on standard output alone."""
    ended = bench(broker, "--jobs", "200", "--masters", "2", "--slaves", "3", "--window", "8", "--slots", "2", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["masters"], told["slaves"], told["slots"], told["window"]) == (2, 3, 2, 8)
    for part in ("one_at_a_time", "closed_loop"):
        figures = told[part]
        assert (figures["jobs"], figures["failed"], figures["failures"]) == (200, 0, {})
        assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"] <= figures["latency_p99_9_ms"]
        assert figures["jobs_per_second"] == pytest.approx(200 / figures["seconds"], rel=0.05)
        assert 0 < figures["load_cpu_percent"] < 120
    assert f"jobs    of type {told['type']}: others are left alone" in ended.stderr
    assert re.search(r"^part 2  8 in flight a master, 200 jobs$", ended.stderr, re.MULTILINE)


def test_a_bench_offers_a_rate(broker: Daemon) -> None:
    """Jobs are submitted at a given rate for a given time; the table shows the offered rate and its punctuality."""
    ended = bench(broker, "--rate", "500", "--seconds", "0.4")
    assert ended.returncode == 0, ended.stderr
    answered = re.search(r"^jobs answered +([\d,]+) +(\d+)$", ended.stdout, re.MULTILINE)
    assert answered is not None, ended.stdout
    # Offering goes on a little longer if the end is noticed late.
    assert 195 <= int(answered[2]) <= 250
    assert re.search(r"^submitted late p99, ms +[\d.]+$", ended.stdout, re.MULTILINE)


def test_a_bench_draws_on_a_terminal(broker: Daemon) -> None:
    """A terminal shows the progress, and a table at the end."""
    ours, theirs = pty.openpty()
    with running_gloom(
        "bench", *places(broker), "--seconds", "0.3", stdout=theirs, stderr=theirs, env={"COLUMNS": "100"}
    ) as process:
        os.close(theirs)
        said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", read_to_end(ours).decode())
        assert process.wait(SECONDS) == 0
    bars, _, table = said.partition("┏")
    assert "jobs/s" in bars
    assert re.search(r"│ latency p99.9, ms +│ +[\d.]+ │ +[\d.]+ │", table)


def test_a_bench_of_jobs_has_a_bar_of_jobs(broker: Daemon) -> None:
    """A bench with a number of jobs shows its progress in jobs."""
    ours, theirs = pty.openpty()
    with running_gloom("bench", *places(broker), "--jobs", "100", stderr=theirs) as process:
        os.close(theirs)
        said = read_to_end(ours).decode()
        assert process.wait(SECONDS) == 0
    assert re.search(r"\d% [\d,]+ jobs [\d,]+ jobs/s", said)


@pytest.mark.parametrize("moment", ["part 1", "part 2"])
def test_ctrl_c_ends_a_bench_and_leaves_no_job(broker: Daemon, moment: str) -> None:
    """Ctrl-C ends with status 130, no table and no traceback; the broker's last lines show that no job was left."""
    with running_gloom("bench", *places(broker), "--seconds", "1") as process:
        for line in pipe_of(process.stderr):
            if line.startswith(moment):
                break
        process.send_signal(signal.SIGINT)
        stdout, stderr = pipe_of(process.stdout).read(), pipe_of(process.stderr).read()
        assert process.wait(SECONDS) == 130
    assert (stdout, stderr) == ("", "")


def test_ports_that_are_the_wrong_way_round_are_said(broker: Daemon) -> None:
    """If the two ports are swapped, the error says which port is which."""
    ports = broker.slave_port, broker.master_port
    wrong = ("--master", f"127.0.0.1:{ports[0]}", "--slave", f"127.0.0.1:{ports[1]}")
    ended = run_gloom("bench", *wrong)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"gloom: the broker at 127.0.0.1:{ports[1]} takes no slave: invalid_action -> join")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["--master", "--slave"])
def test_no_broker_is_said_at_once_and_in_one_line(broker: Daemon, place: str) -> None:
    """If either port is closed, the bench ends at once with one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = bench(broker, place, address)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"gloom: cannot reach the broker at {address}: Connection refused\n"


def test_jobs_that_the_broker_has_no_room_for_are_counted(daemon: Callable[..., Daemon]) -> None:
    """Refused jobs are counted, and the status is 1."""
    ended = bench(daemon("--max-jobs=4", "--master-share=1"), "--seconds", "0.2", "--json")
    figures = json.loads(ended.stdout)["closed_loop"]
    assert ended.returncode == 1
    assert figures["failures"] == {"busy": figures["failed"]}
    assert figures["failed"] > 0
    assert figures["jobs"] > 0


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (signal.SIGKILL, "connection_lost", "it has ended a connection"),
        (signal.SIGTERM, "draining", "it shuts down"),
    ],
)
def test_a_broker_that_ends_ends_the_bench(
    daemon: Callable[..., Daemon], number: signal.Signals, code: str, why: str
) -> None:
    """If the broker ends, the bench prints its figures so far, counts unanswered jobs as failed, and logs one line."""
    one = daemon()
    with running_gloom("bench", *places(one), "--jobs", "1000000000", "--json") as process:
        for line in pipe_of(process.stderr):
            if line.startswith("part 1"):
                break
        one.process.send_signal(number)
        stdout, stderr = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
    one.stop()
    told = json.loads(stdout)
    assert told["lost"] == why
    assert told["one_at_a_time"]["failures"] in ({}, {code: 1})
    assert "closed_loop" not in told
    # It may also log that this process had a busy CPU.
    (line,) = (line for line in stderr.splitlines() if "part 1: " not in line)
    assert line == f"gloom: the broker is lost, and that ended the bench: {why}"


@pytest.mark.parametrize(
    ("token", "status", "complaint"), [(TOKEN, 0, "broker  masters on "), ("may submit", 1, "gloom: the broker at ")]
)
def test_a_bench_shows_its_token(
    daemon: Callable[..., Daemon], tmp_path: Path, token: str, status: int, complaint: str
) -> None:
    """The token must allow both roles, since the bench's own slaves answer its jobs."""
    (tmp_path / "access.toml").write_text(ACCESS)
    one = daemon(f"--access={tmp_path / 'access.toml'}")
    ended = run_gloom("bench", *places(one), "--jobs", "10", env=os.environ | {"GLOOM_TOKEN": token})
    assert ended.returncode == status
    assert ended.stderr.startswith(complaint)
    assert ("refuses: " in ended.stderr) == bool(status)
