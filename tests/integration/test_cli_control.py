"""Jobs under control from the command line: terms, progress, and cancels that reach the process at work."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import SECONDS, Ended, pipe_of, run_gloom, running_gloom
from tests.support.daemon import Daemon
from tests.support.terminals import read_to_end

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One broker with two workers: a function that reports progress, and a program that marks its start and waits."""
    one = Daemon(tmp_path_factory.mktemp("broker")).start("--max-frame-bytes=1048576")
    slave = ("--slave", f"127.0.0.1:{one.slave_port}", "-c", "1")
    begin = "read path; echo $$ > $path; sleep 600"
    with ExitStack() as workers:
        for work in (
            ("worker_functions:tell", "--type", "tell"),
            ("--type", "wait", "--type", "wait-too", "--", "sh", "-c", begin),
        ):
            worker = workers.enter_context(running_gloom("work", *slave, *work, cwd=SUPPORT))
            line = pipe_of(worker.stderr).readline()
            assert " joined " in line, line
        yield one
    one.kill()


def gloom(broker: Daemon, verb: str, *arguments: str, input: str = "") -> Ended:
    return run_gloom(verb, "--master", f"127.0.0.1:{broker.master_port}", *arguments, input=input)


def test_a_program_may_serve_several_types(broker: Daemon, tmp_path: Path) -> None:
    """`--type` may be given more than once for a program."""
    ended = gloom(broker, "submit", "wait-too", "--require-slave", "--timeout", "0.5", str(tmp_path / "began"))
    assert (ended.returncode, ended.stderr) == (124, "gloom: no answer within 0.5 s\n")


def test_progress_is_printed_as_lines_of_json(broker: Daemon) -> None:
    """Progress is printed on standard error, so that a program can read it beside the answer."""
    ended = gloom(broker, "submit", "tell", '["half", {"done": 1}]', "--progress", "--id", "a")
    assert [json.loads(line) for line in ended.stderr.splitlines()] == [
        {"id": "a", "progress": "half"},
        {"id": "a", "progress": {"done": 1}},
    ]
    assert ended.stdout.startswith("the progress has")


def test_progress_is_shown_on_a_terminal_alone(broker: Daemon) -> None:
    """Progress is shown on a terminal, and by default not in a log file."""
    assert gloom(broker, "submit", "tell", '["half"]').stderr == ""
    ours, theirs = pty.openpty()
    address = f"127.0.0.1:{broker.master_port}"
    with running_gloom("submit", "--master", address, "tell", '["half", 5]', stderr=theirs) as process:
        os.close(theirs)
        said = read_to_end(ours).decode().split("\r\n")
        assert process.wait(SECONDS) == 0
    assert said[:2] == ["gloom: progress: half", "gloom: progress: 5"]


@pytest.mark.parametrize("verb", ["submit", "map"])
def test_ctrl_c_ends_the_process_at_work(broker: Daemon, tmp_path: Path, verb: str) -> None:
    """On Ctrl-C the broker cancels the job, and the worker kills the program and takes the next job."""
    fifo = tmp_path / "began"
    os.mkfifo(fifo)
    address = f"127.0.0.1:{broker.master_port}"
    with running_gloom(verb, "--master", address, "wait", stdin=subprocess.PIPE) as process:
        stdin = pipe_of(process.stdin)
        stdin.write(f"{fifo}\n")
        stdin.flush()
        if verb == "submit":
            stdin.close()
        program = os.pidfd_open(int(fifo.read_text()))
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    assert select.select([program], [], [], SECONDS)[0], "the program still runs"
    os.close(program)


def test_an_attempt_may_be_limited(broker: Daemon, tmp_path: Path) -> None:
    """A program that exceeds the limit of an attempt is ended, and the job fails as timed out."""
    arguments = ("wait", str(tmp_path / "began"), "--job-timeout", "0.5", "--retries", "0", "--json")
    ended = gloom(broker, "submit", *arguments)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"] == "timeout"


def test_what_no_slave_can_do_may_be_refused_or_expire(broker: Daemon) -> None:
    """A job that no slave can do may be refused at once or expire later, in submit and for each line of map."""
    refused = gloom(broker, "submit", "nothing", "1", "--require-slave")
    assert (refused.returncode, refused.stderr[:37]) == (1, "gloom: the job was refused: no_slaves")
    expired = gloom(broker, "submit", "nothing", "1", "--expires", "0.2")
    assert (expired.returncode, expired.stderr) == (1, "gloom: the job failed: no slave took it within 0.2 s\n")
    lines = gloom(broker, "map", "nothing", "--expires", "0.2", "--quiet", input="1\n2\n")
    assert [json.loads(line)["error"] for line in lines.stdout.splitlines()] == ["expired"] * 2
    every = gloom(broker, "map", "nothing", "--require-slave", "--quiet", input="1\n2\n")
    assert every.stderr.startswith("gloom: the broker refuses the jobs: no_slaves")
    delayed = gloom(broker, "submit", "tell", "[]", "--delay", "0.2")
    assert delayed.stdout.startswith("the progress has")
