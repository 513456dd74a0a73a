"""
Instructions of the broker for a job: a count, not a time.

``python -m bench.instructions`` runs a fixed series of jobs under callgrind, at
two lengths, and divides the difference: the same number on a quiet and on a busy
machine, to about half a percent. It needs valgrind, and takes about a minute.

The peers are raw sockets in the same process, so the number includes their work
and the socket reads: compare two versions, not gloom with another system.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Any

from bench.machine import machine

BODY = b'"' + b"x" * 98 + b'"'
#: Jobs that each of four masters submits in one piece, and the slaves that answer them.
WINDOWS = {1: 4, 16: 8}
MASTERS = 4
#: Rounds of the two runs.
SHORT, LONG = 64, 576


def frame(payload: bytes) -> bytes:
    """Return *payload* as one frame."""
    return struct.pack(">I", len(payload)) + payload


class Farm:
    """A broker without a running reactor: it reads on request."""

    def __init__(self, slaves: int) -> None:
        from twisted.internet import reactor

        from gloom.server.protocols import MasterProtocol, PeerFactory, SlaveProtocol
        from gloom.server.service import memory_surroundings
        from gloom.settings import Settings

        self._reactor: Any = reactor
        around = memory_surroundings(Settings(), self._reactor)
        assert around.poll is not None
        self._poll = around.poll
        # Under valgrind everything is slow, and every time slice would be exceeded.
        around.turns.seconds = (0.0).__abs__
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.masters = [self._connect(PeerFactory(MasterProtocol, around)) for _ in range(MASTERS)]
        self.slaves = [self._connect(PeerFactory(SlaveProtocol, around)) for _ in range(slaves)]
        for slave in self.slaves:
            slave.sendall(frame(b'{"action":"join","type":"up"}'))
        self.turn()
        for slave in self.slaves:
            received(slave)

    def _connect(self, factory: Any) -> socket.socket:
        near = socket.create_connection(self._listener.getsockname())
        far, _ = self._listener.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setblocking(False)
        self._reactor.adoptStreamConnection(far.fileno(), socket.AF_INET, factory)
        far.close()
        return near

    def turn(self) -> None:
        """Let the broker read its sockets, and run the due calls."""
        self._poll.doRead()
        self._reactor.runUntilCurrent()


def received(peer: socket.socket) -> bytes:
    """Return the data received by *peer*."""
    with suppress(BlockingIOError):
        return peer.recv(1 << 20)
    return b""


def run(rounds: int, window: int) -> int:
    """Submit and answer jobs, *window* of each master in a round; return their number."""
    farm = Farm(WINDOWS[window])
    answer = frame(b'{"action":"respond","body":' + BODY + b"}")
    for number in range(rounds // window):
        for master, peer in enumerate(farm.masters):
            ids = (b"%08d-%d-%d" % (number, master, one) for one in range(window))
            peer.sendall(
                b"".join(frame(b'{"action":"submit","id":"%s","type":"up","body":%s}' % (i, BODY)) for i in ids)
            )
        farm.turn()
        left = MASTERS * window
        while left:
            for slave in farm.slaves:
                if b'"job"' in received(slave):
                    slave.sendall(answer)
            farm.turn()
            left -= sum(received(master).count(b'"body"') for master in farm.masters)
    return rounds // window * window * MASTERS


class CannotCount(Exception):
    """valgrind is missing, or it fails; the text says which."""


def instructions_per_job(window: int) -> int:
    """
    Return the instructions of a job, with *window* jobs of each master at once.

    Raises:
        CannotCount: valgrind is missing, or it fails.
    """
    return (instructions(LONG, window) - instructions(SHORT, window)) // ((LONG - SHORT) * MASTERS)


def instructions(rounds: int, window: int) -> int:
    """Return the number of instructions of `run` in a separate process."""
    # By module name, because bench.check counts too.
    program = [sys.executable, "-m", "bench.instructions"]
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *program]
    try:
        done = subprocess.run(
            [*command, str(rounds), str(window)],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise CannotCount("there is no valgrind: apt install valgrind") from None
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None or done.returncode:
        raise CannotCount(f"valgrind ended with {done.returncode}: {done.stderr}")
    return int(found[1])


def main() -> int:
    """Count, print a line for each window, return the exit status."""
    if sys.argv[1:]:
        run(*map(int, sys.argv[1:]))
        return 0
    print("{processor}, Python {python}, {build}".format(**machine()))
    for window in WINDOWS:
        try:
            count = instructions_per_job(window)
        except CannotCount as error:
            print(f"cannot count: {error}", file=sys.stderr)
            return 1
        print(f"{count:,} instructions a job, {window} at once of each of {MASTERS} masters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
