"""
What a job costs the broker: CPU seconds of its process, from the operating system.

    python bench/broker_cpu.py [--jobs N] [--rounds N] [SHAPE ...]

Starts ``twistd gloom`` on free loopback ports, loads it in a closed loop from
raw sockets (echo, 100-byte bodies) and prints one line a shape:

    A  4 masters,  8 slaves, 64 jobs in flight a master
    B  1 master,   4 slaves,  4 jobs in flight
    C  8 masters, 64 slaves, 64 jobs in flight a master

CPU per job is comparable within one run on one machine only.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

SHAPES = {"A": (4, 8, 64), "B": (1, 4, 4), "C": (8, 64, 64)}
BODY = b'"' + b"x" * 98 + b'"'
OK = b'{"ok":true}'


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


RESPOND = frame(b'{"action":"respond","body":' + BODY + b"}")
JOIN = frame(b'{"action":"join","type":"echo"}')


class Broker:
    """A broker in a process of its own."""

    def __init__(self) -> None:
        command = [
            sys.executable,
            "-m",
            "twisted",
            "--log-format=text",
            "gloom",
            "--master-port",
            "0",
            "--slave-port",
            "0",
        ]
        self.log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (lives as long as the broker)
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.master_port, self.slave_port = self._ports()

    def _ports(self) -> tuple[int, int]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.log.seek(0)
            ports = dict(re.findall(r"(masters|slaves) on 127\.0\.0\.1:(\d+)", self.log.read()))
            if len(ports) == 2:
                return int(ports["masters"]), int(ports["slaves"])
            time.sleep(0.02)
        raise SystemExit("the broker did not start")

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat") as stat:  # noqa: PTH123
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@dataclass
class Peer:
    """One raw connection of the load."""

    socket: socket.socket
    number: int
    is_slave: bool
    rest: bytes = b""
    sent: int = 0
    frames: list[bytes] = field(default_factory=list)

    def read(self) -> list[bytes]:
        data = self.socket.recv(1 << 18)
        if not data:
            raise SystemExit("the broker closed a connection")
        data = self.rest + data
        offset, frames = 0, []
        while len(data) - offset >= 4:
            stop = offset + 4 + int.from_bytes(data[offset : offset + 4], "big")
            if stop > len(data):
                break
            frames.append(data[offset + 4 : stop])
            offset = stop
        self.rest = data[offset:]
        return [payload for payload in frames if payload != OK]

    def submit(self, count: int, most: int) -> None:
        count = min(count, most - self.sent)
        first, self.sent = self.sent, self.sent + count
        jobs = (
            frame(b'{"action":"submit","id":"%d-%d","type":"echo","body":%b}' % (self.number, n, BODY))
            for n in range(first, first + count)
        )
        self.socket.sendall(b"".join(jobs))


def run(shape: str, jobs: int) -> tuple[float, float]:
    """Return microseconds of the broker's CPU a job, and jobs a second."""
    masters, slaves, window = SHAPES[shape]
    broker = Broker()
    poll, peers = select.epoll(), {}
    try:
        for number in range(slaves + masters):
            is_slave = number < slaves
            port = broker.slave_port if is_slave else broker.master_port
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peers[connection.fileno()] = Peer(connection, number, is_slave)
            poll.register(connection, select.EPOLLIN)
            if is_slave:
                connection.sendall(JOIN)
        each, done = jobs // masters, 0
        cpu, clock = broker.cpu_seconds(), time.perf_counter()
        for peer in peers.values():
            if not peer.is_slave:
                peer.submit(window, each)
        while done < each * masters:
            for descriptor, _ in poll.poll():
                peer = peers[descriptor]
                count = len(peer.read())
                if peer.is_slave and count:
                    peer.socket.sendall(RESPOND * count)
                elif count:
                    done += count
                    peer.submit(count, each)
        return (broker.cpu_seconds() - cpu) / done * 1e6, done / (time.perf_counter() - clock)
    finally:
        for peer in peers.values():
            peer.socket.close()
        broker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help="A, B or C; all when absent")
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if unknown := set(arguments.shapes) - set(SHAPES):
        parser.error(f"unknown shape {unknown.pop()!r}, choose from {', '.join(SHAPES)}")
    results: dict[str, list[tuple[float, float]]] = {shape: [] for shape in arguments.shapes or SHAPES}
    for _ in range(arguments.rounds):
        for shape in results:
            results[shape].append(run(shape, arguments.jobs))
    print("shape  CPU us/job: median (least-most)   jobs/s: median")
    for shape, figures in results.items():
        cpu = [figure[0] for figure in figures]
        rate = statistics.median(figure[1] for figure in figures)
        print(f"{shape:5}  {statistics.median(cpu):17.1f} ({min(cpu):.1f}-{max(cpu):.1f}) {rate:21,.0f}")


if __name__ == "__main__":
    main()
