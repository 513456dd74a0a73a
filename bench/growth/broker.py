"""The broker that `bench.growth` measures, as a process, and raw connections to it."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"
STARTING_SECONDS = 30
OK = b'{"ok":true}'
READ_BYTES = 1 << 18


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def _cpu_clock_of(pid: int) -> int:
    """Return the id of a process's CPU clock, as clock_getcpuclockid(3) computes it on Linux."""
    return (~pid << 3) | 2


class Broker:
    """
    A ``twistd gloom`` in a separate process, on free ports; use it as a context manager.

    At its end it closes the connections opened to it.

    Attributes:
        counted_us: The processor time of each ended broker, counted in both ways.
    """

    counted_us: ClassVar[list[tuple[float, float]]] = []

    def __init__(self, *options: str) -> None:
        command = [str(TWISTD), "--nodaemon", "--pidfile=", "gloom", "--master-port=0", "--slave-port=0", *options]
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (lives as long as the broker)
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._of_system = Path("/proc") / str(self._process.pid)
        self._connections: list[Connection] = []
        try:
            self.master_port, self.slave_port = self._ports()
        except BaseException:
            self._end()
            raise

    def connect_master(self) -> Connection:
        """Return a new connection to the master port."""
        return self._connect(self.master_port)

    def connect_slave(self) -> Connection:
        """Return a new connection to the slave port."""
        return self._connect(self.slave_port)

    def _connect(self, port: int) -> Connection:
        self._connections.append(Connection(port))
        return self._connections[-1]

    def _ports(self) -> tuple[int, int]:
        deadline = time.monotonic() + STARTING_SECONDS
        log = ""
        while time.monotonic() < deadline and self._process.poll() is None:
            self._log.seek(0)
            log = self._log.read()
            if " is up" in log:
                ports = dict(re.findall(r"(masters|slaves) on 127\.0\.0\.1:(\d+)", log))
                return int(ports["masters"]), int(ports["slaves"])
            time.sleep(0.02)
        raise SystemExit(f"the broker did not start:\n{log}")

    def cpu_us(self) -> float:
        """Return its processor time, in microseconds."""
        # Its clock, not /proc/PID/schedstat: schedstat lags by up to a tick behind a running process, so that a few
        # jobs would seem to cost nothing.
        return time.clock_gettime(_cpu_clock_of(self._process.pid)) * 1e6

    def cpu_us_by_ticks(self) -> float:
        """Return the same from user and system time, which the system counts in ticks of 10 ms."""
        fields = (self._of_system / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6

    def resident_bytes(self) -> int:
        return int((self._of_system / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def rested_cpu_us(self) -> float:
        """Return `cpu_us` once the broker is idle."""
        before = -1.0
        while (now := self.cpu_us()) - before > 1000:
            before = now
            time.sleep(0.05)
        return now

    def settled_bytes(self, for_seconds: float) -> int:
        """Return `resident_bytes` once it has not changed for so long, or after ten times that."""
        ending, last = time.monotonic() + 10 * for_seconds, 2 + int(for_seconds / 0.1)
        seen = [self.resident_bytes()]
        while time.monotonic() < ending and (len(seen) < last or max(seen[-last:]) > min(seen[-last:]) * 1.002):
            time.sleep(0.1)
            seen.append(self.resident_bytes())
        return seen[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        Broker.counted_us.append((self.cpu_us(), self.cpu_us_by_ticks()))
        self._end()

    def _end(self) -> None:
        # A drain would send each waiting job an outcome.
        self._process.kill()
        self._process.wait(10)
        self._log.close()


class Connection:
    """One raw connection to the broker."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fileno = self.socket.fileno
        self.close = self.socket.close
        self.send = self.socket.sendall
        self._buffer = b""

    def frames(self) -> list[bytes]:
        """Wait for data once, and return the complete frames."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise SystemExit("the broker closed a connection")
        data = self._buffer + data
        offset, frames = 0, []
        while len(data) - offset >= 4:
            stop = offset + 4 + int.from_bytes(data[offset : offset + 4], "big")
            if stop > len(data):
                break
            frames.append(data[offset + 4 : stop])
            offset = stop
        self._buffer = data[offset:]
        return frames

    def ask(self, frames: bytes, replies: int) -> None:
        """Send *frames*, and wait for so many replies: all must be ok, and nothing else may arrive."""
        self.send(frames)
        heard: list[bytes] = []
        while len(heard) < replies:
            heard += self.frames()
        if refused := [reply for reply in heard if b'"error"' in reply]:
            raise SystemExit(f"the broker refused: {refused[0].decode()}")

    def swallow(self, body_bytes: int) -> None:
        """Read a frame with a body of so many bytes, and any small frames before it."""
        while True:
            (length,) = struct.unpack(">I", self._exactly(4))
            self._exactly(length)
            if length >= body_bytes:
                return

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while length:
            length -= self.socket.recv_into(view[-length:])
        return bytes(data)

    def ask_many(self, chunks: Iterable[bytes], replies: int) -> None:
        """Send all *chunks* while reading the replies, each of which must be ok."""
        expected, heard, to_send = replies * (4 + len(OK)), 0, b""
        source = iter(chunks)
        self.socket.setblocking(False)
        while heard < expected:
            to_send = to_send or next(source, b"")
            readable, writable, _ = select.select([self], [self] if to_send else [], [])
            if writable:
                to_send = to_send[self.socket.send(to_send) :]
            if readable:
                data = self.socket.recv(READ_BYTES)
                if not data or b'"error"' in data:
                    raise SystemExit(f"the broker refused: {data[:200]!r}")
                heard += len(data)
        self.socket.setblocking(True)
