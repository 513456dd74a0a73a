"""Peers that read slowly, never, or too late: a real broker with the buffers of a real system."""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from time import monotonic

from tests.support.daemon import STOPPING_SECONDS, Daemon
from tests.support.peer import OK, Peer

StartDaemon = Callable[..., Daemon]
MIB = 1 << 20
# Far more than the socket buffers of both ends hold.
LARGE = "x" * (12 * MIB)


def frame_of(message: object) -> bytes:
    payload = json.dumps(message).encode()
    return struct.pack(">I", len(payload)) + payload


def test_a_master_that_only_reads_has_all_its_answers(daemon: StartDaemon) -> None:
    """With answers far beyond --max-unread-bytes at once, a master that reads receives every byte."""
    broker = daemon("--max-unread-bytes=4000000")
    answer = frame_of({"action": "respond", "body": LARGE})
    with ExitStack() as open_peers:
        slaves = [open_peers.enter_context(Peer.tcp(broker.slave_port)) for _ in range(8)]
        for slave in slaves:
            assert slave.ask({"action": "join", "type": "t"}) == OK
        master = open_peers.enter_context(Peer.tcp(broker.master_port))
        for n, slave in enumerate(slaves):
            assert master.ask({"action": "submit", "id": n, "type": "t", "body": n}) == OK
            assert slave.receive()["id"] == n
        senders = [Thread(target=slave.socket.sendall, args=(answer,)) for slave in slaves]
        for sender in senders:
            sender.start()
        ids = {master.receive()["id"] for _ in slaves}
        for sender in senders:
            sender.join()
    assert ids == set(range(8))
    assert broker.stop() == 0
    assert "dropped" not in "".join(broker.lines)


def test_a_slave_reads_large_jobs_at_its_own_pace(daemon: StartDaemon) -> None:
    """A slave with ten slots receives ten large jobs, each once it has read the last; none is lost or retried."""
    broker = daemon("--max-unread-bytes=4000000")
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        assert master.ask({"action": "hello", "version": 1})["ok"]
        assert slave.ask({"action": "hello", "version": 1})["ok"]
        assert slave.ask({"action": "join", "type": "t", "slots": 10}) == OK
        submit = [frame_of({"action": "submit", "id": n, "type": "t", "body": LARGE, "retries": 0}) for n in range(10)]
        sender = Thread(target=master.socket.sendall, args=(b"".join(submit),))
        sender.start()
        for n in range(10):
            assert slave.receive()["id"] == n
        for n in range(10):
            assert slave.ask({"action": "respond", "id": n, "body": n}) == OK
        sender.join()
        told = [master.receive() for _ in range(20)]
    assert [message for message in told if "id" in message] == [{"id": n, "body": n} for n in range(10)]


STOPPED_SLAVE = """
import sys, threading, time
from tests.support.peer import Peer
slave = Peer.tcp(int(sys.argv[1]))
assert slave.ask({"action": "hello", "version": 1, "heartbeat": 1})["ok"]
assert slave.ask({"action": "join", "type": "t", "slots": 8}) == {"ok": True}
print("joined", flush=True)
while True:
    slave.send({"action": "ping"})
    time.sleep(0.1)
"""


def test_a_stopped_slave_is_dropped_by_its_heartbeat(daemon: StartDaemon) -> None:
    """With any amount of unread output, a stopped slave's job goes to another about a heartbeat later."""
    broker = daemon()
    with stopped_slave(broker), Peer.tcp(broker.master_port) as master:
        begun = monotonic()
        for n in range(3):
            assert master.ask({"action": "submit", "id": n, "type": "t", "body": LARGE}) == OK
        with Peer.tcp(broker.slave_port) as other:
            assert other.ask({"action": "hello", "version": 1})["ok"]
            assert other.ask({"action": "join", "type": "t", "slots": 8}) == OK
            assert {other.receive()["id"] for _ in range(3)} == {0, 1, 2}
            assert monotonic() - begun < 8


@contextmanager
def stopped_slave(broker: Daemon) -> Iterator[None]:
    """Have a slave with a heartbeat of 1 s that pings, and is then stopped as by SIGSTOP."""
    program = [sys.executable, "-c", STOPPED_SLAVE, str(broker.slave_port)]
    with subprocess.Popen(program, env={"PYTHONPATH": ":".join(sys.path)}, stdout=subprocess.PIPE, text=True) as slave:
        try:
            assert slave.stdout is not None
            assert slave.stdout.readline() == "joined\n"
            slave.send_signal(signal.SIGSTOP)
            yield
        finally:
            slave.kill()


def test_a_master_that_reads_has_all_outcomes_of_a_shutdown(daemon: StartDaemon) -> None:
    """A master that needs over a second to read 30,000 draining outcomes receives each, and then the end."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master:
        master.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        assert master.ask({"action": "hello", "version": 1})["ok"]
        for first in range(0, 30_000, 1000):
            jobs = [{"id": n, "type": "t", "body": n} for n in range(first, first + 1000)]
            assert master.ask({"action": "submit_many", "jobs": jobs})["ok"]
        broker.process.send_signal(signal.SIGTERM)
        begun, count, data = monotonic(), 0, bytearray()
        # Slowly enough: about 3.5 MB in about 2 s, and never a second without a read.
        while piece := master.socket.recv(16 * 1024):
            data += piece
            pause_until(begun + len(data) / 1_500_000)
        assert monotonic() - begun > 1.5
    while data:
        (length,) = struct.unpack_from(">I", data)
        count += b'"draining"' in data[4 : 4 + length]
        del data[: 4 + length]
    assert count == 30_000
    broker.process.wait(STOPPING_SECONDS)
    assert broker.stop() == 0


def pause_until(when: float) -> None:
    """Wait between two reads, as a busy program does."""
    while monotonic() < when:
        pass


def test_without_time_to_drain_a_reader_has_a_second(daemon: StartDaemon) -> None:
    """With --drain-seconds 0 a peer that reads nothing is dropped after a second, and the broker ends."""
    broker = daemon("--drain-seconds=0")
    with Peer.tcp(broker.master_port) as master:
        assert master.ask({"action": "submit", "id": 1, "type": "t", "body": 1}) == OK
        begun = monotonic()
        assert broker.stop() == 0
        assert monotonic() - begun < 6
        assert master.receive()["error"] == "draining"


def test_a_client_that_tries_again_is_served_when_there_is_room(daemon: StartDaemon) -> None:
    """Refused connections that the client never closes take no place."""
    broker = daemon("--max-connections=2")
    with ExitStack() as refused, Peer.tcp(broker.master_port) as first, Peer.tcp(broker.master_port) as second:
        for peer in (first, second):
            assert peer.ask({"action": "submit", "id": id(peer), "type": "t", "body": 1}) == OK
        for _ in range(5):
            assert refused.enter_context(Peer.tcp(broker.master_port)).receive()["error"] == "busy"
        second.close()
        # Twisted accepts up to 100 connections before it looks at the socket that has closed.
        for _ in range(500):
            peer = refused.enter_context(Peer.tcp(broker.master_port))
            # A refused connection may be gone before its request.
            with suppress(ConnectionError):
                if peer.ask({"action": "submit", "id": "in", "type": "t", "body": 1}) == OK:
                    break
        else:
            raise AssertionError("it is refused though there is room")


def test_connections_beyond_the_limit_cost_no_descriptors(daemon: StartDaemon) -> None:
    """300 connections above a limit of 100 are each told busy, even with few descriptors, which suffice."""
    with descriptors(170):
        broker = daemon("--max-connections=100")
    with ExitStack() as open_peers:
        good = [open_peers.enter_context(Peer.tcp(broker.master_port)) for _ in range(100)]
        for peer in good:
            peer.send({"action": "submit", "id": 1, "type": "t", "body": 1})
            peer.receive()
        more = [open_peers.enter_context(Peer.tcp(broker.slave_port)) for _ in range(300)]
        told = sum(is_told_busy(peer) for peer in more)
        for peer in good:
            assert peer.ask({"action": "submit", "id": 1, "type": "t", "body": 1})["error"] == "id_exists"
    assert broker.stop() == 0
    assert "EMFILE" not in "".join(broker.lines)
    # A reset may overtake earlier bytes, though not on a host's own network.
    assert told == 300


def is_told_busy(peer: Peer) -> bool:
    try:
        return bool(peer.receive()["error"] == "busy")
    except (OSError, TypeError):
        return False


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """Set the soft descriptor limit of a broker that is started in the block to *limit*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
