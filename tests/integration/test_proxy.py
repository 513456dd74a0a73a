"""Behind a balancer: the documented ``haproxy:`` endpoint, with the headers that a balancer sends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from tests.support.daemon import Daemon
from tests.support.peer import OK, Peer, do_jobs

# As docs/operations.md has it, with a port that the system chooses.
ENDPOINT = "haproxy:tcp:0:interface=127.0.0.1"
V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5678 9998\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n"
    + bytes([0x21, 0x11])
    + struct.pack(">H4s4sHH", 12, socket.inet_aton("192.0.2.7"), socket.inet_aton("192.0.2.1"), 5678, 9998)
)


@pytest.mark.parametrize("header", [V1, V2], ids=["version 1", "version 2"])
def test_jobs_go_through_a_balancer(daemon: Callable[..., Daemon], header: bytes) -> None:
    """Jobs and large bodies work, the log names the client and not the balancer, and the stop is clean."""
    broker = daemon(f"--master-port={ENDPOINT}", f"--slave-port={ENDPOINT}", "--verbose")
    with behind_balancer(broker.master_port, header) as master, behind_balancer(broker.slave_port, header) as slave:
        do_jobs(master, slave, 3)
        body = "x" * 5_000_000
        assert master.ask({"action": "submit", "id": "large", "type": "double", "body": body}) == OK
        assert slave.receive()["body"] == body
        slave.send({"action": "respond", "body": body})
        assert slave.receive() == OK
        assert master.receive() == {"id": "large", "body": body}
        assert master.ask({"action": "sing"})["error"] == "unknown_action"
        assert broker.stop() == 0
    log = "".join(broker.lines)
    assert "192.0.2.7:5678: unknown_action" in log
    assert "Traceback" not in log


def test_an_error_that_closes_is_read_behind_a_balancer(daemon: Callable[..., Daemon]) -> None:
    """A client that is still sending reads the error that closes it, and then the end, not a reset."""
    broker = daemon(f"--master-port={ENDPOINT}")
    with behind_balancer(broker.master_port, V1) as master:
        master.socket.sendall(b"\xff\xff\xff\xff" + bytes(2_000_000))
        assert master.receive()["error"] == "size_error"
        assert master.receive() is None


def test_without_a_header_nothing_is_heard(daemon: Callable[..., Daemon]) -> None:
    """A connection that bypasses the balancer is closed."""
    broker = daemon(f"--master-port={ENDPOINT}")
    with Peer.tcp(broker.master_port) as stranger:
        stranger.send({"action": "submit", "id": 1, "body": 1})
        assert stranger.receive() is None


def behind_balancer(port: int, header: bytes) -> Peer:
    """Return a connection with the balancer's header already sent."""
    peer = Peer.tcp(port)
    peer.socket.sendall(header)
    return peer
