"""A broker after a pause, and a wall clock that is set forward and back: no well-behaved peer is dropped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.peer import OK, Peer

HELLO = {"action": "hello", "version": 1}
HOUR = 3600.0

# The wall clock of a process, for all of its Python code, set forward by the number in a file.
WALL = """
import os, runpy, sys, time
real, file = time.time, sys.argv[1]
def wall():
    with open(file) as ahead:
        return real() + float(ahead.read() or 0)
time.time = wall
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def stand_still(broker: Daemon, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Stop the process, as a debugger or a suspended machine does, and resume it."""
    os.kill(broker.pid, signal.SIGSTOP)
    # SIGSTOP takes effect a moment later: messages sent before that would be read in time.
    while Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    try:
        meanwhile()
        time.sleep(seconds)
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_a_broker_that_stood_still_reads_before_it_judges(daemon: Callable[..., Daemon]) -> None:
    """After a pause, a slave that pinged meanwhile stays, and an answer that lies in the socket is no timeout."""
    broker = daemon()
    with (
        Peer.tcp(broker.master_port) as master,
        Peer.tcp(broker.slave_port) as slave,
        Peer.tcp(broker.slave_port) as other,
    ):
        assert master.ask(HELLO | {"heartbeat": 2.0})["ok"]
        for one in (slave, other):
            assert one.ask(HELLO | {"heartbeat": 2.0})["ok"]
        assert slave.ask({"action": "join", "type": "t"}) == OK
        for id, terms in (("held", {"timeout": 2.0, "retries": 0}), ("queued", {"expires": 2.0})):
            assert master.ask({"action": "submit", "id": id, "type": "t", "body": 1, **terms}) == OK
        assert slave.receive()["id"] == "held"

        def meanwhile() -> None:
            slave.send({"action": "respond", "id": "held", "body": 2})
            for one in (master, slave, other):
                one.send({"action": "ping"})

        stand_still(broker, 3.0, meanwhile)
        heard = [master.receive() for _ in range(2)]
        assert OK in heard and {"id": "held", "body": 2} in heard, heard
        heard = [slave.receive() for _ in range(3)]
        assert heard.count(OK) == 2 and "queued" in [message.get("id") for message in heard], heard
        assert other.receive() == OK
        assert slave.ask({"action": "respond", "id": "queued", "body": 3}) == OK
        assert master.receive() == {"id": "queued", "body": 3}
        for one in (master, other):
            assert one.ask({"action": "ping"}) == OK


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have daemons run on their own wall clock, which is ahead by the number in this file."""
    ahead, program = tmp_path / "ahead", tmp_path / "program.py"
    ahead.write_text("0")
    program.write_text(WALL)
    start = subprocess.Popen

    def on_that_wall(command: list[str], *arguments: object, **more: object) -> object:
        return start([sys.executable, str(program), str(ahead), *command], *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("tests.support.daemon.subprocess.Popen", on_that_wall)
    return ahead


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_step_of_the_wall_clock_is_not_noticed(daemon: Callable[..., Daemon], wall: Path, ahead: float) -> None:
    """After a step of the wall clock, peers stay, timeouts keep their lengths, and receipts show the real seconds."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        assert master.ask(HELLO | {"accept": ["receipt"]})["ok"]
        assert slave.ask(HELLO | {"heartbeat": 5.0})["ok"]
        assert slave.ask({"action": "join", "type": "t"}) == OK
        assert master.ask({"action": "submit", "id": 1, "type": "t", "body": 1, "timeout": 600}) == OK
        assert slave.receive()["id"] == 1
        assert master.ask({"action": "submit", "id": 2, "type": "t", "body": 1, "expires": 0.5}) == OK
        begun = time.monotonic()
        wall.write_text(str(ahead))
        assert master.ask({"action": "ping"}) == OK
        assert master.receive()["error"] == "expired"
        assert 0.3 < time.monotonic() - begun < 5.0
        assert slave.ask({"action": "respond", "id": 1, "body": 2}) == OK
        outcome = master.receive()
        assert outcome["body"] == 2
        assert 0 < outcome["receipt"]["ran"] < 10
        assert slave.ask({"action": "ping"}) == OK
