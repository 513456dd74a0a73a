"""What `bench.growth` does to a broker: its process, raw connections, jobs that wait, jobs in a closed loop."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"
STARTING_SECONDS = 30
BODY = b'"' + b"x" * 98 + b'"'
OK = b'{"ok":true}'
JOB = b'{"action":"job"'
READ_BYTES = 1 << 18
# What waits has ids of its own kind: a slave of the load that is given such a job knows it.
WAITING = b'"id":"waiting-'


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


RESPOND = frame(b'{"action":"respond","body":' + BODY + b"}")
HELLO = frame(b'{"action":"hello","version":1}')


def join(*types: str, slots: int = 1) -> bytes:
    """Return what an extended slave says first: hello, and that it takes jobs of *types*."""
    return HELLO + frame(json.dumps({"action": "join", "types": types, "slots": slots}).encode())


class Broker:
    """A ``twistd gloom`` in a process of its own, on free ports; use it as a context manager."""

    def __init__(self, *options: str) -> None:
        command = [str(TWISTD), "--nodaemon", "--pidfile=", "gloom", "--master-port=0", "--slave-port=0", *options]
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (lives as long as the broker)
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        self._of_system = Path("/proc") / str(self._process.pid)
        self.master_port, self.slave_port = self._ports()

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
        """Return the processor time that it has had, in microseconds."""
        return int((self._of_system / "schedstat").read_text().split()[0]) / 1000

    def cpu_us_by_ticks(self) -> float:
        """Return the same from user and system time, which the system counts in ticks of 10 ms."""
        fields = (self._of_system / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6

    def resident_bytes(self) -> int:
        return int((self._of_system / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def rested_cpu_us(self) -> float:
        """Return `cpu_us` once it has nothing to do any more."""
        before = -1.0
        while (now := self.cpu_us()) - before > 1000:
            before = now
            time.sleep(0.05)
        return now

    def settled_bytes(self, most_seconds: float = 15.0) -> int:
        """Return `resident_bytes` once it has been the same for a second and a half."""
        ending = time.monotonic() + most_seconds
        seen = [self.resident_bytes()]
        while time.monotonic() < ending and (len(seen) < 16 or max(seen[-16:]) > min(seen[-16:]) * 1.002):
            time.sleep(0.1)
            seen.append(self.resident_bytes())
        return seen[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A drain would tell each job that still waits.
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
        """Wait for bytes, once, and return the frames that are whole now."""
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
        """Send *frames*, and wait for so many replies, which must be all there is and no error."""
        self.send(frames)
        heard: list[bytes] = []
        while len(heard) < replies:
            heard += self.frames()
        if refused := [reply for reply in heard if b'"error"' in reply]:
            raise SystemExit(f"the broker refused: {refused[0].decode()}")

    def swallow(self, body_bytes: int) -> None:
        """Wait for a frame with a body of so many bytes, and for small ones before it."""
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
        """Send all *chunks* while the replies are read, each of which must be ok."""
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


def connections(port: int, first_words: Sequence[bytes], replies: int) -> list[Connection]:
    """Open a connection for each of *first_words*, say them, and wait for so many replies on each."""
    opened = []
    for words in first_words:
        one = Connection(port)
        one.send(words)
        opened.append(one)
    for one in opened:
        one.ask(b"", replies)
    return opened


def wait_in(broker: Broker, count: int, types: Sequence[str]) -> Connection:
    """Have *count* jobs wait in *broker*, of *types* in turn, with priority 0; return their master."""
    master = Connection(broker.master_port)
    master.ask_many(_chunks(count, types), count)
    return master


def _chunks(count: int, types: Sequence[str]) -> Iterator[bytes]:
    jobs = (
        frame(b'{"action":"submit",%b%d","type":"%b","body":%b}' % (WAITING, number, type, BODY))
        for number, type in zip(range(count), cycle([type.encode() for type in types]), strict=False)
    )
    while chunk := b"".join(islice(jobs, 500)):
        yield chunk


def answer_all(broker: Broker, master: Connection, type: str, count: int) -> None:
    """Answer all jobs of *type* from one slave with many slots, until *master* has had *count* outcomes."""
    slave = Connection(broker.slave_port)
    slave.send(join(type, slots=1000))
    while count > 0:
        for one in select.select([slave, master], [], [])[0]:
            if one is master:
                count -= len(master.frames())
            else:
                slave.send(b"".join(_answer(payload) for payload in slave.frames() if payload.startswith(JOB)))
    slave.close()


def _answer(job: bytes) -> bytes:
    id = job.split(b'"id":"', 1)[1].split(b'"', 1)[0]
    return frame(b'{"action":"respond","id":"%b","body":1}' % id)


class Load:
    """
    Masters and slaves in a closed loop; use it as a context manager.

    Args:
        broker: What it loads.
        slaves: What each slave says first, as `join` returns it.
        types: The types of the jobs, in turn.
        masters: How many masters there are.
        window: How many jobs each has unanswered.
    """

    WARM_UP_JOBS = 2000
    _numbers = 0

    def __init__(
        self, broker: Broker, slaves: Sequence[bytes], types: Sequence[str], masters: int = 4, window: int = 64
    ) -> None:
        self._broker = broker
        self._window = window
        self._types = cycle([type.encode() for type in types])
        self._slaves = [Connection(broker.slave_port) for _ in slaves]
        self._masters = [Connection(broker.master_port) for _ in range(masters)]
        self._answered = self._unanswered = self._replies = 0
        self._ending = False
        self._poll = select.epoll()
        self._peers: dict[int, tuple[Connection, bool]] = {}
        for peers, is_slave in ((self._slaves, True), (self._masters, False)):
            for peer in peers:
                self._peers[peer.fileno()] = peer, is_slave
                self._poll.register(peer, select.EPOLLIN)
        for slave, words in zip(self._slaves, slaves, strict=True):
            slave.send(words)
        while self._replies < 2 * len(self._slaves):
            self._turn()

    def cpu_us_a_job(self, jobs: int) -> float:
        """Return what each of *jobs* costs the broker, in microseconds, while the windows are full."""
        self._answered = 0
        self._ending = False
        for master in self._masters:
            self._submit(master, self._window)
        self._run_until(self.WARM_UP_JOBS)
        first, cpu = self._answered, self._broker.cpu_us()
        self._run_until(first + jobs)
        result = (self._broker.cpu_us() - cpu) / (self._answered - first)
        self._ending = True
        while self._unanswered:
            self._turn()
        return result

    def _run_until(self, answered: int) -> None:
        while self._answered < answered:
            self._turn()

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll():
            peer, is_slave = self._peers[descriptor]
            frames = peer.frames()
            if is_slave:
                jobs = [payload for payload in frames if payload.startswith(JOB)]
                self._replies += len(frames) - len(jobs)
                self._respond(peer, jobs)
            elif count := sum(payload != OK for payload in frames):
                self._answered += count
                self._unanswered -= count
                if not self._ending:
                    self._submit(peer, count)

    def _respond(self, slave: Connection, jobs: list[bytes]) -> None:
        waiting = sum(WAITING in job[:64] for job in jobs)
        if self._ending:
            # What waits behind the load is not for this: the slave keeps it until it closes.
            jobs = jobs[waiting:]
        else:
            self._answered += waiting
        if jobs:
            slave.send(RESPOND * len(jobs))

    def _submit(self, master: Connection, count: int) -> None:
        first = Load._numbers
        Load._numbers += count
        self._unanswered += count
        master.send(
            b"".join(
                frame(
                    b'{"action":"submit","id":"load-%d","type":"%b","priority":1,"body":%b}'
                    % (number, next(self._types), BODY)
                )
                for number in range(first, first + count)
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for peer in (*self._slaves, *self._masters):
            peer.close()
        self._poll.close()
