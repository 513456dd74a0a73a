"""`gloom broker` as a user meets it: real processes, real ports."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

import gloom
from tests.support.commands import SECONDS, Command, pipe_of, run_gloom, running_gloom
from tests.support.peer import OK, Peer, do_jobs

FREE_PORTS = ("--master-port=0", "--slave-port=0")
IN_USE = os.strerror(errno.EADDRINUSE)


class Started:
    """
    A `gloom broker` that is up.

    Args:
        process: Just started.

    Attributes:
        lines: Its output up to then, without the times.
        ports: Of masters and slaves.
    """

    def __init__(self, process: Command) -> None:
        self._process = process
        self.lines: list[str] = []
        while not self.lines or "stop with" not in self.lines[-1]:
            self.lines.append(self.line())
        found = [re.search(r" on .*?:(\d+)", line) for line in self.lines]
        self.ports = [int(one[1]) for one in found if one is not None]

    def line(self) -> str:
        """Return the next line, without the time."""
        line = pipe_of(self._process.stderr).readline()
        assert re.match(r"\d\d:\d\d:\d\d gloom broker: ", line), line
        return line.rstrip("\n")[9:].removeprefix("gloom broker: ")


def few_files() -> None:
    """Allow this process, a child before its program, 256 files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_its_first_lines_say_where_to_connect_and_how_to_stop(tmp_path: Path) -> None:
    """A start prints four lines, none of them a warning, and writes no file into the folder."""
    with running_gloom("broker", *FREE_PORTS, cwd=tmp_path, preexec_fn=few_files) as process:
        broker = Started(process)
        masters, slaves = broker.ports
        note = "(this host only; --interface ADDR opens it to others)"
        assert broker.lines == [
            f"masters on 127.0.0.1:{masters} {note}",
            f"slaves on 127.0.0.1:{slaves} {note}",
            f"gloom {gloom.__version__} is up",
            "stop with Ctrl-C or SIGTERM: running jobs finish first; a second one ends at once",
        ]
        with Peer.tcp(masters) as master, Peer.tcp(slaves) as slave:
            do_jobs(master, slave)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_a_second_one_ends(number: signal.Signals) -> None:
    """The first signal lets the running job finish, a second one ends at once; the status is 0 both times."""
    with running_gloom("broker", *FREE_PORTS) as process:
        broker = Started(process)
        with Peer.tcp(broker.ports[0]) as master, Peer.tcp(broker.ports[1]) as slave:
            assert slave.ask({"action": "join", "type": "t"}) == OK
            assert master.ask({"action": "submit", "id": "1", "type": "t", "body": 1}) == OK
            slave.receive()
            process.send_signal(number)
            assert broker.line() == f"{number.name}: stopping"
            broker.line()
            assert broker.line().startswith("draining: 1 job")
            process.send_signal(number)
            assert broker.line() == f"{number.name} again: ending now"
        assert process.wait(SECONDS) == 0
        assert pipe_of(process.stderr).read().endswith(f"gloom {gloom.__version__} is down\n")
        assert pipe_of(process.stdout).read() == ""


def test_hang_up_reloads() -> None:
    """SIGHUP reads the files again, and the broker goes on."""
    with running_gloom("broker", *FREE_PORTS) as process:
        broker = Started(process)
        process.send_signal(signal.SIGHUP)
        assert broker.line() == "SIGHUP: there is nothing to read again without --access and --tls-cert"
        assert process.poll() is None


@pytest.mark.parametrize(("role", "option"), [("masters", "--master-port"), ("slaves", "--slave-port")])
def test_a_port_that_is_taken_is_one_line_with_its_option(role: str, option: str) -> None:
    """Status 1, and the line names the option that chooses another port."""
    given = [one for one in FREE_PORTS if not one.startswith(option)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run_gloom("broker", *given, f"{option}={port}")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith(
        f"gloom broker: cannot listen for {role} on 127.0.0.1:{port}: {IN_USE} ({option} chooses another)"
    )
    assert ended.stderr.count("cannot listen") == 1
    assert "Traceback" not in ended.stderr


def test_a_warning_is_left_where_more_was_asked_for() -> None:
    """With --max-connections beyond the system's limit, the same warning appears as with twistd gloom."""
    with running_gloom("broker", *FREE_PORTS, "--max-connections=1000", preexec_fn=few_files) as process:
        assert any(line.startswith("1000 connections need 1064 descriptors") for line in Started(process).lines)
