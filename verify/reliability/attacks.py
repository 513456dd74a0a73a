"""
The attacks of hostile peers, one function each; it raises if the broker does not answer correctly.

The attacks run in a separate process, on plain sockets, beside well-behaved masters and slaves.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.peer import OK, Peer, do_jobs
from verify.reliability.figures import MIB, descriptors, resident_bytes

HELLO = {"action": "hello", "version": 1}
WAIT_SECONDS = 10.0
NOT_UTF8 = b'{"action":"submit","id":"a","type":"t","body":"\xff"}'
DEEP = b'{"action":"submit","id":"a","type":"t","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


class Unharmed(AssertionError):
    """The broker did not respond to an attack as specified."""


def demand(holds: bool, what: str) -> None:
    """
    Check a condition.

    Raises:
        Unharmed: The condition is false.
    """
    if not holds:
        raise Unharmed(what)


@dataclass(frozen=True)
class Target:
    """
    The broker under attack.

    Attributes:
        master_port: Port for masters, on this host.
        slave_port: Port for slaves, on this host.
        pid: The broker's process id.
        stall_seconds: Its ``--stall-seconds``.
        max_unread_bytes: Its ``--max-unread-bytes``, and ``--max-total-unread-bytes``.
    """

    master_port: int
    slave_port: int
    pid: int
    stall_seconds: float = 30.0
    max_unread_bytes: int = 64 * MIB

    @property
    def ports(self) -> tuple[int, int]:
        return self.master_port, self.slave_port

    def connect(self, number: int) -> socket.socket:
        """Return a connection to one of the two ports."""
        return socket.create_connection(("127.0.0.1", self.ports[number % 2]), WAIT_SECONDS)


def slow_loris(target: Target, connections: int = 200) -> str:
    """Send a first frame byte by byte and never finish it: the broker drops each connection at its deadline."""
    sockets = [target.connect(number) for number in range(connections)]
    begun = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
            one.sendall(struct.pack(">I", 1000))
        while selector.get_map() and time.monotonic() < begun + 10 * target.stall_seconds:
            for key, _ in selector.select(target.stall_seconds / 5):
                selector.unregister(key.fileobj)
            for key in list(selector.get_map().values()):
                _trickle(key.fileobj)
        left = len(selector.get_map())
    seconds = time.monotonic() - begun
    for one in sockets:
        one.close()
    demand(not left, f"{left} of {connections} slow connections are still open after {seconds:.1f} s")
    demand(seconds > 0.9 * target.stall_seconds, f"they were dropped after {seconds:.1f} s already")
    return f"{connections} first frames that never end: all dropped {seconds:.2f} s after they began"


def _trickle(connection: Any) -> None:
    try:
        connection.sendall(b"{")
    except OSError:
        return  # the broker is dropping it


def oversize(target: Target, times: int = 100) -> str:
    """Announce 4 GiB: the broker replies with the typed error before the payload arrives, and closes."""
    _refused(target, times, struct.pack(">I", 2**32 - 1) + b"x" * 1000, "size_error")
    return f"{times} frames of 4 GiB announced: size_error and closed"


def deep_json(target: Target, times: int = 20) -> str:
    """Nest 100,000 lists: the broker replies with a typed error, and the connection stays usable."""
    with Peer(target.connect(0)) as peer:
        for _ in range(times):
            peer.socket.sendall(struct.pack(">I", len(DEEP)) + DEEP)
            reply = peer.receive()
            demand(
                reply is not None and reply.get("error") == "invalid_type", f"the reply is {reply}, not invalid_type"
            )
    return f"{times} bodies nested 100,000 deep: invalid_type"


def invalid_utf8(target: Target, times: int = 100) -> str:
    """Put invalid UTF-8 in a body, where it would break a slave."""
    _refused(target, times, struct.pack(">I", len(NOT_UTF8)) + NOT_UTF8, "invalid_json")
    return f"{times} bodies that are not UTF-8: invalid_json and closed"


def tls_on_a_plain_port(target: Target, times: int = 20) -> str:
    """Start TLS on a plain port: the handshake fails at once."""
    context = ssl.create_default_context()
    for number in range(times):
        connection = target.connect(number)
        try:
            context.wrap_socket(connection, server_hostname="localhost").close()
        except OSError:
            continue
        finally:
            connection.close()
        raise Unharmed("a TLS handshake with a plain port succeeded")
    return f"{times} TLS handshakes with a plain port: each failed at once"


def plain_on_a_tls_port(target: Target, trusting: ssl.SSLContext, times: int = 20) -> str:
    """Send plain frames, half a handshake and noise to a TLS port: the broker closes without a reply.

    TLS peers keep working meanwhile.
    """

    def secure(number: int) -> Peer:
        return Peer(trusting.wrap_socket(target.connect(number), server_hostname="localhost"))

    with secure(0) as master, secure(1) as slave:
        do_jobs(master, slave, 10)
        submit = json.dumps({"action": "submit", "id": 1, "type": "t", "body": 1}).encode()
        for number in range(times):
            with target.connect(number) as connection:
                connection.settimeout(WAIT_SECONDS)
                connection.sendall((struct.pack(">I", len(submit)) + submit, b"\x80" * 600)[number % 2])
                heard = _until_closed(connection)
                demand(b"{" not in heard, f"plain bytes had an answer: {heard!r}")
        with target.connect(0) as connection:
            connection.settimeout(WAIT_SECONDS)
            begun = time.monotonic()
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
            _until_closed(connection)
            seconds = time.monotonic() - begun
        do_jobs(master, slave, 10)
    return f"{times} times plain bytes on a TLS port: closed; half a handshake: dropped after {seconds:.2f} s"


def _until_closed(connection: socket.socket) -> bytes:
    heard = b""
    try:
        while data := connection.recv(1000):
            heard += data
    except ConnectionError:
        pass  # the broker closes that one, too
    except TimeoutError:
        raise Unharmed("the connection stays open") from None
    return heard


def _refused(target: Target, times: int, data: bytes, code: str) -> None:
    for number in range(times):
        with Peer(target.connect(number)) as peer:
            peer.socket.sendall(data)
            reply = peer.receive()
            demand(reply is not None and reply.get("error") == code, f"the reply is {reply}, not {code}")
            demand(_is_closed(peer.socket), f"the connection is open after {code}")


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def collisions(target: Target, times: int = 1000) -> str:
    """Resubmit an id in flight: the broker refuses it each time and leaves the first job untouched."""
    job = {"action": "submit", "id": "one of two", "type": "collide", "body": 1}
    with ExitStack() as peers:
        first, second, slave = (peers.enter_context(Peer(target.connect(number))) for number in (0, 0, 1))
        demand(first.ask(job) == OK, "the first job was refused")
        demand(second.ask(HELLO)["ok"], "hello was refused")
        for _ in range(times):
            for again in (job, job | {"type": "other"}, job | {"type": "other", "attach": True}):
                reply = second.ask(again)
                demand(reply.get("error") == "id_exists", f"the same id again: {reply}")
        demand(second.ask(job | {"id": "one of two "}) == OK, "another id was refused")
        demand(slave.ask({"action": "join", "type": "collide"}) == OK, "join was refused")
        served = [_served(slave)["id"] for _ in range(2)]
        demand(served == ["one of two", "one of two "], f"the slave had {served}")
        outcomes = [first.receive(), second.receive()]
        wanted = [{"id": id, "body": 2} for id in served]
        demand(outcomes == wanted, f"the outcomes are {outcomes}")
    return f"{3 * times} submits of an id in flight, also as another type: each id_exists, one outcome each"


def _served(slave: Peer) -> Any:
    job = slave.receive()
    demand(slave.ask({"action": "respond", "body": 2}) == OK, "an answer was refused")
    return job


def many_types(target: Target, types: int = 100_000) -> str:
    """Use 100,000 job types, twice: the second round reuses the memory of the first."""
    begun = resident_bytes(target.pid)
    grown = []
    for turn in range(2):
        _use_types(target, types, turn)
        grown.append(resident_bytes(target.pid) - begun)
    demand(grown[1] < grown[0] * 1.2 + 4 * MIB, f"memory grew by {grown} bytes in two rounds of {types} types")
    return f"{types} job types, twice: memory +{grown[0] / MIB:.0f} MiB, then +{grown[1] / MIB:.0f} MiB"


def _use_types(target: Target, types: int, turn: int) -> None:
    with Peer(target.connect(0)) as master, Peer(target.connect(1)) as slave:
        demand(master.ask(HELLO)["ok"] and slave.ask(HELLO)["ok"], "hello was refused")
        for first in range(0, types, 1000):
            names = [f"{turn} {number}" for number in range(first, min(first + 1000, types))]
            jobs = [{"id": f"type {name}", "type": name, "body": 0} for name in names]
            reply = master.ask({"action": "submit_many", "jobs": jobs})
            demand(all(one == OK for one in reply["jobs"]), "a job was refused")
        demand(slave.ask({"action": "join", "types": ["of nobody"] * 999}) == OK, "join was refused")


def many_connections(target: Target, connections: int = 10_000) -> str:
    """Open 10,000 connections, send a request on each, and close them: the broker closes every descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before, memory = descriptors(target.pid), resident_bytes(target.pid)
    try:
        with _open(target, connections) as sockets:
            open_ones, grown = descriptors(target.pid) - before, resident_bytes(target.pid) - memory
            for one in sockets[:: max(1, connections // 500)]:
                demand(Peer(one).ask(HELLO)["ok"], "hello was refused on one of many")
        demand(open_ones >= connections, f"the broker has only {open_ones} of {connections} connections")
        _await(lambda: descriptors(target.pid) <= before, "descriptors are not given back")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return f"{connections} connections: {grown / connections / 1024:.1f} KiB each, all descriptors given back"


@contextmanager
def _open(target: Target, count: int) -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            sockets.append(target.connect(number))
        # The kernel accepts before the broker does. A reply on the last connection proves that the broker has them all.
        demand(Peer(sockets[-1]).ask({"action": "no"})["error"] == "unknown_action", "the last is not heard")
        demand(Peer(sockets[-2]).ask({"action": "no"})["error"] == "unknown_action", "the last is not heard")
        yield sockets
    finally:
        for one in sockets:
            one.close()


def too_many_connections(target: Target, allowed: int) -> str:
    """Exceed ``--max-connections``: each excess connection gets an error and is closed; capacity returns later."""
    refused = 0
    with ExitStack() as peers:
        for number in range(2 * allowed):
            peer = peers.enter_context(Peer(target.connect(number)))
            peer.send({"action": "no"})
            reply = peer.receive()
            refused += reply is not None and reply["error"] == "busy"
            demand(reply is not None and reply["error"] in ("busy", "unknown_action"), f"the reply is {reply}")
            if reply["error"] == "busy":
                demand(_is_closed(peer.socket), "a connection too many stays open")
    demand(allowed <= refused < 2 * allowed, f"{refused} of {2 * allowed} were refused")

    def is_heard() -> bool:
        with Peer(target.connect(0)) as peer:
            return bool(peer.ask({"action": "no"})["error"] == "unknown_action")

    _await(is_heard, "there is no room again")
    return f"{2 * allowed} connections where {allowed} may be: {refused} told busy and closed, room again afterwards"


def _await(holds: Any, what: str) -> None:
    late = time.monotonic() + WAIT_SECONDS
    while not holds():
        demand(time.monotonic() < late, what)
        time.sleep(0.02)


def slow_reader(target: Target, seconds: float = 5.0, answer_bytes: int = 64 * 1024, drip_bytes: int = 0) -> str:
    """Submit and read nothing, or a few bytes per answer: dropped at the bound, repeatedly; memory is bounded."""
    ending, dropped, grown, before = time.monotonic() + seconds, 0, 0, resident_bytes(target.pid)
    with Peer(target.connect(1)) as slave:
        demand(slave.ask({"action": "join", "type": "slow"}) == OK, "join was refused")
        while time.monotonic() < ending:
            with Peer(_deaf(target)) as master:
                grown = max(grown, _pile_up(target, master, slave, answer_bytes, dropped, drip_bytes) - before)
                slave.socket.settimeout(WAIT_SECONDS)
                dropped += 1
    bound = target.max_unread_bytes + 16 * MIB
    demand(grown < bound, f"memory grew by {grown / MIB:.0f} MiB beside a master that does not read")
    kind = f"reads {drip_bytes} bytes now and then" if drip_bytes else "never reads"
    return f"a master that {kind}, {dropped} times: dropped at the bound, memory +{grown / MIB:.0f} MiB at most"


def _deaf(target: Target) -> socket.socket:
    """Return a master's connection with a small receive buffer in the kernel."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.connect(("127.0.0.1", target.master_port))
    return connection


def _pile_up(target: Target, master: Peer, slave: Peer, answer_bytes: int, turn: int, drip_bytes: int) -> int:
    """Let answers pile up for *master* until the broker drops it; return the broker's peak memory."""
    respond = json.dumps({"action": "respond", "body": "x" * answer_bytes}).encode()
    frame = struct.pack(">I", len(respond)) + respond
    # Submit everything at once: the broker stops reading from this master later.
    jobs = 2 * (target.max_unread_bytes + 8 * MIB) // answer_bytes
    for number in range(jobs):
        master.send({"action": "submit", "id": f"slow {turn} {number}", "type": "slow", "body": 0})
    most, answered = 0, 0
    try:
        while answered < jobs:
            slave.receive()
            # Dropping the master removes its queued jobs, so the slave receives no other.
            slave.socket.settimeout(0.5)
            slave.socket.sendall(frame)
            demand(slave.receive() == OK, "an answer was refused")
            answered += 1
            if drip_bytes:
                master.socket.recv(drip_bytes)
            most = max(most, resident_bytes(target.pid))
            time.sleep(0.005)
    except (TimeoutError, ConnectionError):
        pass
    demand(answered * answer_bytes > target.max_unread_bytes, f"it had only {answered} answers when it was dropped")
    demand(answered < jobs, f"{answered} answers of {answer_bytes} bytes piled up, and it was not dropped")
    _until_closed(master.socket)
    return most
