"""Signals to real brokers: the drain of SIGTERM, the second one, and SIGHUP."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from gloom.server.access import hash_token
from tests.support.authority import Authority
from tests.support.daemon import STOPPING_SECONDS, Daemon
from tests.support.peer import OK, Peer

StartDaemon = Callable[..., Daemon]

HELLO = {"action": "hello", "version": 1, "accept": ["quiet"]}
QUIET = {"action": "quiet"}


def busy(broker: Daemon) -> tuple[Peer, Peer]:
    """Return a master and a slave that accept ``quiet``: the slave runs job 1, and job 2 waits."""
    master, slave = Peer.tcp(broker.master_port), Peer.tcp(broker.slave_port)
    for peer in (master, slave):
        assert peer.ask(HELLO)["ok"]
    assert slave.ask({"action": "join", "type": "t"}) == OK
    for id in (1, 2):
        assert master.ask({"action": "submit", "id": id, "type": "t", "body": id}) == OK
    assert slave.receive()["id"] == 1
    return master, slave


def messages(broker: Daemon) -> list[str]:
    """Return the broker's log messages, without times and namespaces."""
    return [line.partition("] ")[2].rstrip() for line in broker.lines if "[gloom." in line]


def test_sigterm_lets_the_job_in_hand_finish(daemon: StartDaemon) -> None:
    """On SIGTERM new connections and jobs are refused, waiting jobs end, the running job's answer arrives; status 0."""
    broker = daemon()
    master, slave = busy(broker)
    with master, slave:
        broker.process.send_signal(signal.SIGTERM)
        assert slave.receive() == QUIET
        assert master.receive() == QUIET
        outcome = master.receive()
        assert (outcome["id"], outcome["error"]) == (2, "draining")
        for port in (broker.master_port, broker.slave_port):
            with socket.socket() as late:
                assert late.connect_ex(("127.0.0.1", port)) != 0
        assert master.ask({"action": "submit", "id": 3, "type": "t", "body": 3})["error"] == "draining"
        assert slave.ask({"action": "respond", "body": "done"}) == OK
        assert master.receive() == {"id": 1, "body": "done"}
        assert master.receive() is None
        master.close()
        assert slave.receive() is None
        slave.close()
        assert broker.process.wait(STOPPING_SECONDS) == 0
    broker.stop()
    steps = messages(broker)
    assert [re.sub(r"gloom \S+", "gloom", step) for step in steps[steps.index("SIGTERM: stopping") :]] == [
        "SIGTERM: stopping",
        "stopping: no more connections; 1 masters and 1 slaves are connected",
        "draining: 1 jobs in hand may take 30 s more",
        "drained: every job has its outcome",
        "gloom is down",
    ]


def test_what_takes_longer_than_drain_seconds_ends_as_draining(daemon: StartDaemon) -> None:
    """A job over --drain-seconds gets its outcome, and the broker still ends with status 0."""
    broker = daemon("--drain-seconds=0.3")
    master, slave = busy(broker)
    with master, slave:
        broker.process.send_signal(signal.SIGTERM)
        heard = [master.receive() for _ in range(3)]
        assert heard[0] == QUIET
        assert [(one["id"], one["error"]) for one in heard[1:]] == [(2, "draining"), (1, "draining")]
        assert broker.process.wait(STOPPING_SECONDS) == 0
    broker.stop()
    assert "ending 1 jobs that are still in hand" in messages(broker)


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals, daemon: StartDaemon) -> None:
    """A second SIGTERM or Ctrl-C ends within a second, despite a running job and peers that do not close."""
    broker = daemon()
    master, slave = busy(broker)
    with master, slave:
        broker.process.send_signal(number)
        assert slave.receive() == QUIET
        begun = monotonic()
        broker.process.send_signal(number)
        assert broker.process.wait(STOPPING_SECONDS) == 0
        assert monotonic() - begun < 1
    broker.stop()
    assert f"{number.name} again: ending now" in messages(broker)
    assert not any("Traceback" in line for line in broker.lines)


def test_twist_drains_too(tmp_path: Path) -> None:
    """python -m twisted gloom drains on SIGTERM, and ends at once on a second one."""
    command = [sys.executable, "-m", "twisted", "--log-format=text", "gloom", "--master-port=0", "--slave-port=0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports: list[int] = []
            for line in process.stdout:
                ports += map(int, re.findall(r"(?:masters|slaves) on 127.0.0.1:(\d+)", line))
                if "is up" in line:
                    break
            broker = Daemon(tmp_path)
            broker.master_port, broker.slave_port = ports
            master, slave = busy(broker)
            with master, slave:
                process.send_signal(signal.SIGHUP)
                process.send_signal(signal.SIGTERM)
                assert slave.receive() == QUIET
                process.send_signal(signal.SIGTERM)
                rest = process.stdout.read()
                assert process.wait(STOPPING_SECONDS) == 0
        finally:
            process.kill()
    assert "SIGHUP: there is nothing to read again" in rest
    assert "SIGTERM again: ending now" in rest
    assert "is down" in rest
    assert "Traceback" not in rest


def test_peers_on_tls_drain_too(daemon: StartDaemon, authority: Authority) -> None:
    """Over TLS the outcome arrives before the connection closes."""
    certificate, key = authority.issue("broker.test", "server")
    broker = daemon(f"--tls-cert={certificate}", f"--tls-key={key}", "--drain-seconds=0.2")
    context = ssl.create_default_context(cafile=authority.file)

    def over_tls(port: int) -> Peer:
        return Peer(context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost"))

    with over_tls(broker.master_port) as master, over_tls(broker.slave_port) as slave:
        assert slave.ask({"action": "join", "type": "t"}) == OK
        assert master.ask({"action": "submit", "id": 1, "type": "t", "body": 1}) == OK
        assert slave.receive()["id"] == 1
        broker.process.send_signal(signal.SIGTERM)
        assert master.receive()["error"] == "draining"
        assert broker.process.wait(STOPPING_SECONDS) == 0
    assert broker.stop() == 0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# SIGHUP


def access(token: str) -> str:
    return f'[[identity]]\nname = "shop"\ntoken_sha256 = "{hash_token(token)}"\nroles = ["master"]\ntypes = ["*"]\n'


def greeting(broker: Daemon, token: str) -> Any:
    with Peer.tcp(broker.master_port) as master:
        return master.ask({**HELLO, "token": token}).get("error", "ok")


def hang_up(broker: Daemon, line: str) -> None:
    """Send SIGHUP, and wait for a log line that contains *line*."""
    known = len(broker.lines)
    broker.process.send_signal(signal.SIGHUP)
    late = monotonic() + STOPPING_SECONDS
    while not any(line in one for one in broker.lines[known:]):
        assert monotonic() < late, broker.lines


def test_sighup_reads_the_access_file_again(daemon: StartDaemon, tmp_path: Path) -> None:
    """New connections need the new token; admitted connections stay; a wrong file changes nothing."""
    file = tmp_path / "access.toml"
    file.write_text(access("old"))
    broker = daemon(f"--access={file}")
    with Peer.tcp(broker.master_port) as known:
        assert known.ask({**HELLO, "token": "old"})["ok"]
        file.write_text(access("new"))
        hang_up(broker, "SIGHUP: access rules and certificates are read again")
        assert [greeting(broker, token) for token in ("new", "old")] == ["ok", "unauthorized"]
        file.write_text("[[identity]]\n")
        hang_up(broker, f"SIGHUP: nothing is changed: access: {file}")
        assert greeting(broker, "new") == "ok"
        assert known.ask({"action": "ping"}) == OK
    assert broker.stop() == 0


def serial_number(broker: Daemon, authority: Authority) -> Any:
    """Return the serial number of the certificate that the broker shows to a new connection."""
    context = ssl.create_default_context(cafile=authority.file)
    with (
        socket.create_connection(("127.0.0.1", broker.master_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as shown,
    ):
        assert shown.version() == "TLSv1.3"
        certificate: Any = shown.getpeercert()
        return certificate["serialNumber"]


def test_sighup_reads_the_certificate_again(daemon: StartDaemon, authority: Authority) -> None:
    """A renewed certificate is shown to new connections; one that does not match its key changes nothing."""
    certificate, key = authority.issue("broker.test", "server")
    broker = daemon(f"--tls-cert={certificate}", f"--tls-key={key}")
    first = serial_number(broker, authority)
    authority.issue("broker.test", "server")
    hang_up(broker, "SIGHUP: access rules and certificates are read again")
    second = serial_number(broker, authority)
    assert second != first
    other, _ = authority.issue("broker.test", "other")
    certificate.write_bytes(other.read_bytes())
    hang_up(broker, "SIGHUP: nothing is changed: tls-key: ")
    assert serial_number(broker, authority) == second


# Warnings


def test_a_broker_open_to_others_warns_unless_it_is_protected(daemon: StartDaemon, authority: Authority) -> None:
    """--interface 0.0.0.0 causes a warning each for missing TLS and missing access rules, and none with both."""
    bare = daemon("--interface=0.0.0.0")
    assert len([line for line in messages(bare) if line.startswith("open to other hosts")]) == 2
    file = authority.file.with_name("access.toml")
    file.write_text(access("a"))
    certificate, key = authority.issue("broker.test", "server")
    safe = daemon("--interface=0.0.0.0", f"--access={file}", f"--tls-cert={certificate}", f"--tls-key={key}")
    assert not [line for line in messages(safe) if "open to other hosts" in line]
