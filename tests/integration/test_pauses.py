"""Paused processes (SIGSTOP, a suspended machine): the clients lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import formatEvent

from gloom.client.deferred import Master
from tests.support.daemon import Daemon
from tests.support.logged import logged
from tests.support.peer import OK, Peer

_SCRIPT = """
import sys
from gloom.client.blocking import Master

with Master(sys.argv[1], timeout=1.5) as master:
    master.submit("mine", type="t", body="x" * 300_000)
    print("ready", flush=True)
    answers = master.do_many([{"type": "t", "body": 2}]) if sys.argv[2] == "many" else None
    job = next(answers) if answers else master.receive()
    print(len(job.body), flush=True)
"""


@pytest.mark.parametrize("call", ["receive", "many"])
def test_a_blocking_client_that_stood_still_reads_before_it_times_out(
    daemon: Callable[..., Daemon], tmp_path: Path, call: str
) -> None:
    """After a pause longer than its timeout, a client finds the answer, which came in time, in its socket."""
    broker = daemon()
    script = tmp_path / "client.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, str(script), f"127.0.0.1:{broker.master_port}", call]
    with Peer.tcp(broker.slave_port) as slave, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        sleep(0.2)  # it waits, for any time: nothing tells of that
        os.kill(client.pid, signal.SIGSTOP)
        try:
            assert slave.ask({"action": "join", "type": "t"}) == OK
            for _ in range(2 if call == "many" else 1):
                assert slave.receive()["action"] == "job"
                assert slave.ask({"action": "respond", "body": "y" * 300_000}) == OK
            sleep(2)
        finally:
            os.kill(client.pid, signal.SIGCONT)
        assert client.stdout.readline() == "300000\n"


@pytest.mark.deferred_timeout(30)
async def test_a_broker_that_stands_still_for_less_than_twice_the_heartbeat_is_kept(
    daemon: Callable[..., Daemon],
) -> None:
    """With a heartbeat of 2 s, a broker paused for 3 s keeps its client, and the client's job is answered."""
    broker = daemon()
    any_reactor: Any = reactor
    with logged("gloom.client") as events, Peer.tcp(broker.slave_port) as slave:
        master = Master(f"127.0.0.1:{broker.master_port}", reactor=any_reactor, heartbeat_seconds=2)
        master.startService()
        answer = master.submit("t", 1)
        await master.when_connected()
        os.kill(broker.pid, signal.SIGSTOP)
        await deferLater(any_reactor, 3)
        os.kill(broker.pid, signal.SIGCONT)
        await deferLater(any_reactor, 0.5)
        slave.send({"action": "join", "type": "t"})
        await deferLater(any_reactor, 1)
        assert slave.receive() == OK
        assert slave.receive()["body"] == 1
        slave.send({"action": "respond", "body": 2})
        assert await answer == 2
        await master.stopService()
    assert not [event for event in events if "silent" in str(formatEvent(event))]
