"""
Attacks that claim as much of the broker's time as they can get, for some seconds each.

They run in a separate process, on plain sockets. They send prepared messages
and discard the replies, so that an attack is expensive for the broker and cheap
for the attacker.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle, repeat
from typing import Any

from verify.reliability.attacks import Target
from verify.reliability.figures import MIB

#: Modulus of Python's integer hash: its multiples hash to 0.
HASH_MODULUS = 2**61 - 1
_LARGE_BYTES = 256 * 1024
# Number of slaves that act at the same time when they wait for their replies.
WAVE = 16

Script = Iterator[bytes]


def framed(message: Any) -> bytes:
    """Return *message* as a frame; a message other than bytes is encoded as JSON."""
    payload = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
    return struct.pack(">I", len(payload)) + payload


HELLO = framed({"action": "hello", "version": 1})


@dataclass(frozen=True)
class Flood:
    """
    An attack on the broker's time. A run of 0 seconds only prepares it.

    Attributes:
        name: Name of the attack.
        connections: Number of its connections that compete for service at the same time.
        act: Runs the attack for so many seconds; returns a summary.
    """

    name: str
    connections: int
    act: Callable[[Target, float], str]


class Blaster:
    """
    Connections that send their scripts as fast as the broker accepts them, and read every reply.

    A connection is replaced when its script has ended or the broker has closed it.

    Args:
        target: The broker.
        port: 0 for masters' connections, 1 for slaves'.
        count: Number of simultaneous connections.
        script: Returns the data of the connection with a given number, piece by piece;
            after an empty piece the connection only reads.
    """

    def __init__(self, target: Target, port: int, count: int, script: Callable[[int], Iterable[bytes]]) -> None:
        self._target, self._port, self._count, self._script = target, port, count, script
        self._selector = selectors.DefaultSelector()
        self.sent_bytes = self.heard_bytes = self.connections = 0

    def run(self, seconds: float) -> str:
        """Run for so many seconds, close all connections, and return the figures."""
        for number in range(self._count):
            self._open(number)
        ending = time.monotonic() + seconds
        while time.monotonic() < ending:
            for key, events in self._selector.select(0.1):
                self._serve(key, events)
        for key in list(self._selector.get_map().values()):
            _close(key.fileobj)
        self._selector.close()
        said, heard = self.sent_bytes / MIB, self.heard_bytes / MIB
        return f"{self.connections} connections, {said:.1f} MiB said and {heard:.1f} MiB heard"

    def _open(self, number: int) -> None:
        with suppress(OSError):
            connection = self._target.connect(self._port)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = [memoryview(b""), iter(self._script(number)), number]
            self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, data)
            self.connections += 1

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        try:
            ended = bool(events & selectors.EVENT_READ) and self._read(key)
            if events & selectors.EVENT_WRITE and not ended:
                self._write(key)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._selector.unregister(key.fileobj)
            _close(key.fileobj)
            self._open(key.data[2])

    def _read(self, key: selectors.SelectorKey) -> bool:
        """Read; return whether the broker has closed the connection."""
        heard = key.fileobj.recv(_LARGE_BYTES)  # type: ignore[union-attr]
        self.heard_bytes += len(heard)
        return not heard

    def _write(self, key: selectors.SelectorKey) -> None:
        """Send more data."""
        piece, script, _ = key.data
        if not piece:
            said = next(script, None)
            if said is None:
                # The broker closes after it has read everything, so not before the replacement connection exists.
                key.fileobj.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
                said = b""
            if not said:
                self._selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                return
            piece = memoryview(said)
        sent = key.fileobj.send(piece[:_LARGE_BYTES])  # type: ignore[union-attr]
        self.sent_bytes += sent
        key.data[0] = piece[sent:]


def _close(connection: Any) -> None:
    with suppress(OSError):
        connection.close()


# Messages


@cache
def colliding_batches(batches: int = 12, jobs: int = 5_000) -> list[bytes]:
    """Return jobs whose ids collide in one hash, thousands per frame."""
    ids = iter(range(1, batches * jobs + 1))
    return [
        framed(
            {
                "action": "submit_many",
                "jobs": [{"id": next(ids) * HASH_MODULUS, "type": "of nobody", "body": 0} for _ in range(jobs)],
            }
        )
        for _ in range(batches)
    ]


@cache
def new_types(batches: int = 40, jobs: int = 1_000) -> list[bytes]:
    """Return jobs with a new type each."""
    names = (f"new type {number}" for number in range(batches * jobs))
    return [
        framed({"action": "submit_many", "jobs": [{"id": f"of {name}", "type": name, "body": 0} for name in few]})
        for few in zip(*repeat(names, jobs), strict=True)
    ]


@cache
def bombs(kind: int) -> bytes:
    """Return JSON that is expensive to parse: 0 an object of a million keys, 1 brackets, 2 deeply nested objects."""
    if kind == 0:
        body = b"{" + b",".join(b'"%d":0' % number for number in range(1_000_000)) + b"}"
    elif kind == 1:
        body = b"[" * (16 * MIB - 100)
    else:
        body = b'{"a":' * 900 + b"0" + b"}" * 900
        body = b"[" + b",".join(repeat(body, 1_000)) + b"]"
    return framed(b'{"action":"submit","id":1,"type":"of nobody","body":' + body + b"}")


@cache
def long_hello() -> bytes:
    """Return a hello with 15 MiB of names to accept."""
    return framed(
        {"action": "hello", "version": 1, "accept": [f"{n} ".ljust(108, "x") for n in range(15 * MIB // 112)]}
    )


@cache
def empty_batch() -> bytes:
    """Return a submission of 10,000 empty jobs."""
    return framed({"action": "submit_many", "jobs": [{}] * 10_000})


@cache
def joins_of_many_types(slaves: int = 3_000, types: int = 100) -> list[bytes]:
    """Return the messages of slaves that join types of their own, leave them and rejoin."""
    joins = [framed({"action": "join", "types": [f"type {n} of {one}" for n in range(types)]}) for one in range(slaves)]
    return [HELLO + join + framed({"action": "leave"}) + join for join in joins]


@cache
def joins_of_long_types(slaves: int = 400, types: int = 1_000) -> list[bytes]:
    """Return the messages of slaves that join types of their own, of 200 characters each."""
    return [
        HELLO + framed({"action": "join", "types": [f"{one} {n} ".ljust(200, "x") for n in range(types)]})
        for one in range(slaves)
    ]


def then_again(first: bytes, *pieces: bytes) -> Callable[[int], Script]:
    """Return a script that sends *first*, then repeats *pieces* forever."""

    def script(_: int) -> Script:
        yield first
        yield from cycle(pieces)

    return script


def once(first: bytes, pieces: Iterable[bytes]) -> Callable[[int], Script]:
    """Return a script that sends *first* and *pieces*, and ends."""

    def script(_: int) -> Script:
        yield first
        yield from pieces

    return script


def _many(message: Any, times: int) -> bytes:
    return framed(message) * times


# Attacks


def colliding_ids(target: Target, seconds: float) -> str:
    """Submit batches of 5,000 jobs with ids that all collide in one hash of a Python dict."""
    batches = colliding_batches()
    return Blaster(target, 0, 1, once(HELLO, batches)).run(seconds)


def lorises_now_and_then(target: Target, seconds: float) -> str:
    """Hold 2,000 connections that send a byte of a long frame every 0.2 s: 10,000 reads a second."""
    return _drip(target, seconds, 0.2)


def lorises_without_pause(target: Target, seconds: float) -> str:
    """Hold 2,000 connections that send a byte of a long frame as soon as they can."""
    return _drip(target, seconds, 0.0)


def _drip(target: Target, seconds: float, pause_seconds: float, connections: int = 2_000) -> str:
    """Send one byte of a long first frame on each connection, round after round."""
    enough_descriptors(connections)
    sockets = [_first_byte(target) for _ in range(connections)]
    ending, rounds, ended = time.monotonic() + seconds, 0, 0
    while (now := time.monotonic()) < ending:
        for place, one in enumerate(sockets):
            try:
                one.send(b"{")
            except OSError:
                _close(one)
                sockets[place] = _first_byte(target)
                ended += 1
        rounds += 1
        if pause_seconds:
            time.sleep(max(0.0, now + pause_seconds - time.monotonic()))
    for one in sockets:
        _close(one)
    return f"{connections} connections sent {rounds} bytes each, one by one; {ended} were dropped"


def _first_byte(target: Target) -> socket.socket:
    connection = target.connect(0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    connection.sendall(struct.pack(">I", 1_000_000))
    return connection


def submits_of_new_types(target: Target, seconds: float) -> str:
    """Submit 1,000 jobs of new types per frame, repeatedly."""
    batches = new_types()
    return Blaster(target, 0, 1, once(HELLO, batches)).run(seconds)


def junk_responds(target: Target, seconds: float) -> str:
    """Answer jobs that were never assigned, without pause."""
    return Blaster(target, 1, 1, then_again(HELLO, _many({"action": "respond", "body": 1}, 5_000))).run(seconds)


def many_pings(target: Target, seconds: float) -> str:
    """Send 100,000 pings in one write, repeatedly."""
    return Blaster(target, 0, 1, then_again(HELLO, _many({"action": "ping"}, 100_000))).run(seconds)


def json_bombs(target: Target, seconds: float) -> str:
    """Let three connections send a million keys, 16 MiB of brackets, and a thousand values of 900 levels."""
    kinds = [bombs(kind) for kind in range(3)]
    return Blaster(target, 0, 3, lambda number: repeat(kinds[number])).run(seconds)


def unknown_actions(target: Target, seconds: float) -> str:
    """Let 64 connections send unknown actions, and read the errors."""
    return Blaster(target, 0, 64, then_again(HELLO, _many({"action": "x"}, 1_000))).run(seconds)


def empty_jobs(target: Target, seconds: float) -> str:
    """Submit 10,000 jobs that are empty objects per frame, repeatedly."""
    return Blaster(target, 0, 1, then_again(HELLO, empty_batch())).run(seconds)


def long_accepts(target: Target, seconds: float) -> str:
    """Let eight connections send a hello with 15 MiB of names to accept, and stay connected."""
    hello = long_hello()

    def script(_: int) -> Script:
        yield hello
        # The broker keeps the accepted names as long as the connection.
        yield b""

    return Blaster(target, 0, 8, script).run(seconds)


def slaves_of_many_types(target: Target, seconds: float) -> str:
    """Let 3,000 slaves of 100 types join, leave, rejoin and close, some at a time."""
    return Waves(target, joins_of_many_types(), 4).run(seconds)


def slaves_of_long_types(target: Target, seconds: float) -> str:
    """Let 400 slaves join 1,000 types of 200 characters each, and close."""
    return Waves(target, joins_of_long_types(), 2).run(seconds)


class Waves:
    """
    Slaves that each send one message, wait for its replies and stay; then all of them close, and the cycle repeats.

    Args:
        target: The broker.
        said: The message of each slave.
        replies: Number of replies to that message.
    """

    def __init__(self, target: Target, said: list[bytes], replies: int) -> None:
        enough_descriptors(len(said))
        self._target, self._said, self._replies = target, said, replies
        self.joined = 0

    def run(self, seconds: float) -> str:
        ending = time.monotonic() + seconds
        rounds = 0
        while time.monotonic() < ending:
            slaves: list[socket.socket] = []
            for first in range(0, len(self._said), WAVE):
                if time.monotonic() > ending:
                    break
                slaves += self._wave(self._said[first : first + WAVE])
            for one in slaves:
                _close(one)
            rounds += 1
        return f"{self.joined} slaves joined and closed, {rounds} times all of them"

    def _wave(self, said: list[bytes]) -> list[socket.socket]:
        slaves = [self._target.connect(1) for _ in said]
        for slave in slaves:
            # With a Python timeout, recv would not wait for all the bytes requested.
            slave.settimeout(None)
            slave.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
        for slave, data in zip(slaves, said, strict=True):
            with suppress(OSError):
                slave.sendall(data)
        for slave in slaves:
            with suppress(OSError):
                for _ in range(self._replies):
                    length = int.from_bytes(slave.recv(4, socket.MSG_WAITALL))
                    slave.recv(length, socket.MSG_WAITALL)
            self.joined += 1
        return slaves


def enough_descriptors(connections: int) -> None:
    """
    Raise this process's descriptor limit to allow so many connections.

    Raises:
        OSError: The system does not allow it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < connections + 100:
        raise OSError(f"the hard limit of descriptors is less than {connections + 100}: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


FLOODS = (
    Flood("colliding ids", 1, colliding_ids),
    Flood("2,000 slow lorises, 10,000 bytes a second", 2_000, lorises_now_and_then),
    Flood("2,000 slow lorises without pause", 2_000, lorises_without_pause),
    Flood("submit_many of new types", 1, submits_of_new_types),
    Flood("junk responds", 1, junk_responds),
    Flood("100,000 pings in one write", 1, many_pings),
    Flood("3,000 slaves of 100 types", WAVE, slaves_of_many_types),
    Flood("JSON bombs", 3, json_bombs),
    Flood("64 connections with unknown actions", 64, unknown_actions),
    Flood("submit_many of 10,000 {}", 1, empty_jobs),
    Flood("hello with 15 MiB of accept", 8, long_accepts),
    Flood("400 slaves of 1,000 long types", WAVE, slaves_of_long_types),
)
