"""docs/protocol.md against a broker that runs: its transcripts and its programs, over real sockets."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.specification import CLOSED, Act, Transcript, replay, specification

SPEC = specification()
#: The transcripts without passing time (a running broker has only real time) that leave the broker running.
TRANSCRIPTS = [one for one in SPEC.transcripts if not one.has("passes") and not one.has("stops")]
SECONDS = 10.0


class Connection:
    """A peer on plain sockets."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.address = "{}:{}".format(*self.socket.getsockname())

    def send(self, payload: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(payload)) + payload)

    def receive(self) -> str:
        """Return the next payload, or `CLOSED`."""
        header = self._read(4)
        return self._read(*struct.unpack(">I", header)).decode() if header else CLOSED

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (piece := self.socket.recv(length - len(data))):
            data += piece
        return data

    def leave(self) -> None:
        """Close, and wait until the broker has noticed."""
        self.socket.shutdown(socket.SHUT_WR)
        assert self.receive() == CLOSED


class SocketWire:
    """A broker behind sockets, for `specification.replay`."""

    def __init__(self, daemon: Daemon) -> None:
        self.connections: dict[str, Connection] = {}
        self._daemon = daemon
        self._gone: set[str] = set()

    def act(self, act: Act) -> None:
        if act.peer not in self.connections:
            daemon = self._daemon
            port = daemon.master_port if act.peer.startswith("M") else daemon.slave_port
            self.connections[act.peer] = Connection(port)
        connection = self.connections[act.peer]
        if act.kind == "closes":
            connection.leave()
            self._gone.add(act.peer)
        elif act.kind == "sends":
            connection.send(act.data)
        else:
            connection.socket.sendall(act.data)

    def hear(self, peer: str, expected: int) -> list[str]:
        heard = [self.connections[peer].receive() for _ in range(expected)]
        if CLOSED in heard:
            self._gone.add(peer)
        return heard

    def address(self, peer: str) -> str:
        return self.connections[peer].address

    def assert_silence(self) -> None:
        """Fail if any peer received more: the next message must be the reply to this request."""
        for peer, connection in self.connections.items():
            if peer not in self._gone:
                connection.send(b'{"action":"anything else"}')
                assert json.loads(connection.receive())["error"] == "unknown_action", peer

    def leave(self) -> None:
        """Disconnect all masters, then all slaves, so that the broker is empty."""
        for peer, connection in sorted(self.connections.items()):
            if peer not in self._gone:
                connection.leave()

    def close(self) -> None:
        for connection in self.connections.values():
            connection.socket.close()


def by_options() -> dict[str, list[Transcript]]:
    groups: dict[str, list[Transcript]] = {}
    for transcript in TRANSCRIPTS:
        groups.setdefault(" ".join(transcript.options), []).append(transcript)
    return groups


@pytest.mark.parametrize("options", by_options())
def test_every_transcript_goes_message_for_message(options: str, daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Each transcript of the document matches a running broker message for message."""
    if "--access" in options:
        (tmp_path / "access.toml").write_text(SPEC.programs["toml"])
    broker = daemon(*options.split())
    for transcript in by_options()[options]:
        wire = SocketWire(broker)
        try:
            replay(transcript, wire)
            wire.assert_silence()
            wire.leave()
        finally:
            wire.close()
    assert broker.stop() == 0


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program; end it with the block if it has not ended by itself."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_slave_in_javascript_serves(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The slave of section 6 answers jobs, unchanged as it is printed, and ends with the broker."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the slave of docs/protocol.md, section 6.1, cannot run")
    program = tmp_path / "slave.js"
    program.write_text(SPEC.programs["javascript"])
    broker = daemon()
    master = Connection(broker.master_port)
    with running([node, str(program), "127.0.0.1", str(broker.slave_port)]) as slave, closing(master.socket):
        for id, body in (("a", '"straße"'), ("b", "[1,2]"), ("c", json.dumps("x" * 100_000))):
            master.send(f'{{"action":"submit","id":"{id}","type":"up","body":{body}}}'.encode())
        answers = [json.loads(master.receive()) for _ in range(6)]
        assert [one["body"] for one in answers if "id" in one] == ["STRASSE", "1,2", "X" * 100_000]
        broker.stop()
        output, _ = slave.communicate(timeout=SECONDS)
        assert output == ""
        assert slave.returncode == 1


def test_the_master_in_python_submits(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The master of section 6 prints its answers and failures, unchanged as it is printed, and ends."""
    program = tmp_path / "master.py"
    program.write_text(SPEC.programs["python"])
    broker = daemon("--retries=0")
    slave = Connection(broker.slave_port)
    with running([sys.executable, str(program), "127.0.0.1", str(broker.master_port), "one", "two"]) as master:
        slave.send(b'{"action":"join","type":"up"}')
        assert slave.receive() == '{"ok":true}'
        assert json.loads(slave.receive())["body"] == "one"
        slave.send(b'{"action":"respond","body":"ONE"}')
        assert slave.receive() == '{"ok":true}'
        assert json.loads(slave.receive())["body"] == "two"
        slave.leave()
        output, _ = master.communicate(timeout=SECONDS)
    slave.socket.close()
    assert sorted(output.splitlines()) == ["ONE", f"job_failed the slave {slave.address} disappeared (1 attempt)"]
    assert master.returncode == 0


def test_a_slave_that_is_told_to_go_gets_no_job(daemon: Callable[..., Daemon]) -> None:
    """After an error that closes, a slave that keeps its side open loses its job at once and gets no other."""
    broker = daemon("--retries=0")
    master, slave, other = Connection(broker.master_port), Connection(broker.slave_port), Connection(broker.slave_port)
    with closing(master.socket), closing(slave.socket), closing(other.socket):
        slave.send(b'{"action":"join","type":"up"}')
        assert slave.receive() == '{"ok":true}'
        slave.send(b"nonsense")
        assert json.loads(slave.receive())["error"] == "invalid_json"
        master.send(b'{"action":"submit","id":1,"type":"up","body":1}')
        assert master.receive() == '{"ok":true}'
        other.send(b'{"action":"join","type":"up"}')
        assert other.receive() == '{"ok":true}'
        assert other.receive() == '{"action":"job","id":1,"type":"up","body":1}'
