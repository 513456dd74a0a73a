"""
Attacks that want as much of the broker's time as they can have, for some seconds each.

They run in a process of their own, on plain sockets. They say things that are
prepared before, and throw away the replies, so that they cost the broker much
and the attacker little.
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

#: Integers whose Python hash is 0 are the multiples of this.
HASH_MODULUS = 2**61 - 1
_LARGE_BYTES = 256 * 1024
# Slaves that wait for their replies act so many at a time.
WAVE = 16

Script = Iterator[bytes]


def framed(message: Any) -> bytes:
    """Return *message*, which is bytes or will be JSON, as a frame."""
    payload = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
    return struct.pack(">I", len(payload)) + payload


HELLO = framed({"action": "hello", "version": 1})


@dataclass(frozen=True)
class Flood:
    """
    An attack on the broker's time. To do it for 0 seconds is to prepare it.

    Attributes:
        name: What it is called.
        connections: How many of its connections want to be served at the same time.
        act: Does it for so many seconds; returns what it did.
    """

    name: str
    connections: int
    act: Callable[[Target, float], str]


class Blaster:
    """
    Connections that say what their scripts say, as fast as the broker takes it, and read every reply.

    A connection whose script has ended, or that the broker has closed, is followed by another.

    Args:
        target: The broker.
        port: 0 for masters' connections, 1 for slaves'.
        count: How many connections at a time.
        script: Returns what the connection of a number says, piece by piece; after an empty piece it only reads.
    """

    def __init__(self, target: Target, port: int, count: int, script: Callable[[int], Iterable[bytes]]) -> None:
        self._target, self._port, self._count, self._script = target, port, count, script
        self._selector = selectors.DefaultSelector()
        self.sent_bytes = self.heard_bytes = self.connections = 0

    def run(self, seconds: float) -> str:
        """Do it for so long, close all, and return the figures."""
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
        """Read, and return whether the broker has closed the connection."""
        heard = key.fileobj.recv(_LARGE_BYTES)  # type: ignore[union-attr]
        self.heard_bytes += len(heard)
        return not heard

    def _write(self, key: selectors.SelectorKey) -> None:
        """Say more."""
        piece, script, _ = key.data
        if not piece:
            said = next(script, None)
            if said is None:
                # The broker closes when it has heard all of it: not before there is another.
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


# What they say


@cache
def colliding_batches(batches: int = 12, jobs: int = 5_000) -> list[bytes]:
    """Return jobs whose ids all have one hash, some thousands in a frame."""
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
    """Return jobs that have a new type each."""
    names = (f"new type {number}" for number in range(batches * jobs))
    return [
        framed({"action": "submit_many", "jobs": [{"id": f"of {name}", "type": name, "body": 0} for name in few]})
        for few in zip(*repeat(names, jobs), strict=True)
    ]


@cache
def bombs(kind: int) -> bytes:
    """Return JSON that is costly to read: 0 an object of a million keys, 1 brackets, 2 a deep value of objects."""
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
    """Return a submission of 10,000 jobs without anything."""
    return framed({"action": "submit_many", "jobs": [{}] * 10_000})


@cache
def joins_of_many_types(slaves: int = 3_000, types: int = 100) -> list[bytes]:
    """Return what each slave says to join types of its own, leave them and join them again."""
    joins = [framed({"action": "join", "types": [f"type {n} of {one}" for n in range(types)]}) for one in range(slaves)]
    return [HELLO + join + framed({"action": "leave"}) + join for join in joins]


@cache
def joins_of_long_types(slaves: int = 400, types: int = 1_000) -> list[bytes]:
    """Return what each slave says to join types of its own, of 200 characters each."""
    return [
        HELLO + framed({"action": "join", "types": [f"{one} {n} ".ljust(200, "x") for n in range(types)]})
        for one in range(slaves)
    ]


def then_again(first: bytes, *pieces: bytes) -> Callable[[int], Script]:
    """Return a script that says *first*, and then *pieces* again and again."""

    def script(_: int) -> Script:
        yield first
        yield from cycle(pieces)

    return script


def once(first: bytes, pieces: Iterable[bytes]) -> Callable[[int], Script]:
    """Return a script that says *first* and *pieces*, and ends."""

    def script(_: int) -> Script:
        yield first
        yield from pieces

    return script


def _many(message: Any, times: int) -> bytes:
    return framed(message) * times


# What they do


def colliding_ids(target: Target, seconds: float) -> str:
    """Submit batches of 5,000 jobs, whose ids all have one hash in a dict of Python."""
    batches = colliding_batches()
    return Blaster(target, 0, 1, once(HELLO, batches)).run(seconds)


def lorises_now_and_then(target: Target, seconds: float) -> str:
    """Hold 2,000 connections that send a byte of a long frame each fifth of a second: 10,000 reads a second."""
    return _drip(target, seconds, 0.2)


def lorises_without_pause(target: Target, seconds: float) -> str:
    """Hold 2,000 connections that send a byte of a long frame as soon as they can."""
    return _drip(target, seconds, 0.0)


def _drip(target: Target, seconds: float, pause_seconds: float, connections: int = 2_000) -> str:
    """Send a byte on each connection, round after round: of a first frame, which is long."""
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
    """Submit 1,000 jobs of new types with one frame, and again."""
    batches = new_types()
    return Blaster(target, 0, 1, once(HELLO, batches)).run(seconds)


def junk_responds(target: Target, seconds: float) -> str:
    """Answer jobs that were never given, without pause."""
    return Blaster(target, 1, 1, then_again(HELLO, _many({"action": "respond", "body": 1}, 5_000))).run(seconds)


def many_pings(target: Target, seconds: float) -> str:
    """Send 100,000 pings in one write, and again."""
    return Blaster(target, 0, 1, then_again(HELLO, _many({"action": "ping"}, 100_000))).run(seconds)


def json_bombs(target: Target, seconds: float) -> str:
    """Have three connections send a million keys, 16 MiB of brackets, and a thousand values of 900 levels."""
    kinds = [bombs(kind) for kind in range(3)]
    return Blaster(target, 0, 3, lambda number: repeat(kinds[number])).run(seconds)


def unknown_actions(target: Target, seconds: float) -> str:
    """Have 64 connections ask for what there is not, and read the errors."""
    return Blaster(target, 0, 64, then_again(HELLO, _many({"action": "x"}, 1_000))).run(seconds)


def empty_jobs(target: Target, seconds: float) -> str:
    """Submit 10,000 jobs that are empty objects with one frame, and again."""
    return Blaster(target, 0, 1, then_again(HELLO, empty_batch())).run(seconds)


def long_accepts(target: Target, seconds: float) -> str:
    """Have eight connections say hello with 15 MiB of names to accept, and stay."""
    hello = long_hello()

    def script(_: int) -> Script:
        yield hello
        # What was kept of it stays with the connection.
        yield b""

    return Blaster(target, 0, 8, script).run(seconds)


def slaves_of_many_types(target: Target, seconds: float) -> str:
    """Have 3,000 slaves of 100 types join, leave, join and close, some at a time."""
    return Waves(target, joins_of_many_types(), 4).run(seconds)


def slaves_of_long_types(target: Target, seconds: float) -> str:
    """Have 400 slaves join 1,000 types of 200 characters each, and close."""
    return Waves(target, joins_of_long_types(), 2).run(seconds)


class Waves:
    """
    Slaves that say one thing each, wait for its replies and stay; then all of them close, and it begins anew.

    Args:
        target: The broker.
        said: What each says.
        replies: How many replies that has.
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
            # With Python's time limit, recv would not wait for all that it is asked for.
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
    Allow this process so many connections.

    Raises:
        OSError: The system does not.
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
