"""
The broker's processor time and memory for a job with a large body, with and without memory maps.

``python -m bench.largeframes`` starts a broker per round and variant, echoes
jobs one at a time, and prints medians: CPU and wall time of a job, the broker's
peak memory, and its memory afterwards, both less that of the idle
broker. ``never`` is a broker without maps (`gloom.wire.largebytes`).
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.machine import machine

MIB = 1 << 20
#: Sizes of a body in MiB, and the number of measured jobs.
SIZES = {1: 100, 6: 20, 16: 10, 64: 4}
#: Variants: the payload size above which a map is used.
OVER_BYTES = {"4 MiB": 4 * MIB, "8 MiB": 8 * MIB, "never": 1 << 40}
ROUNDS = 3
WARM_UP_JOBS = 2

BROKER = """
import sys
from gloom.wire import encoding, largebytes
largebytes.MAPPED_OVER_BYTES = encoding.MAPPED_OVER_BYTES = int(sys.argv.pop(1))
from twisted.scripts.twistd import run
run()
"""
OPTIONS = ["--nodaemon", "--pidfile=", "gloom", "--master-port=0", "--slave-port=0", f"--max-frame-bytes={128 * MIB}"]

JOIN = b'{"action":"join","type":"t"}'
Figures = tuple[float, ...]


class Broker:
    """A broker in a process of its own; a context manager."""

    def __init__(self, over_bytes: int) -> None:
        self.ports: dict[str, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BROKER, str(over_bytes), *OPTIONS], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            listens = re.search(r"(masters|slaves) on 127\.0\.0\.1:(\d+)", line)
            if listens is not None:
                self.ports[listens[1]] = int(listens[2])
            if "is up" in line:
                break

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self, key: str) -> float:
        found = re.search(rf"{key}:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024


class Peer:
    """A blocking socket that writes and reads frames; a context manager, with one buffer for all frames."""

    def __init__(self, port: int, largest_bytes: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._buffer = memoryview(bytearray(largest_bytes + 1000))

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, payload: bytes) -> None:
        self._socket.sendall(len(payload).to_bytes(4, "big") + payload)

    def receive(self) -> int:
        """Read one frame; return its size."""
        self._fill(4)
        size = int.from_bytes(self._buffer[:4], "big")
        self._fill(size)
        return size

    def _fill(self, size: int) -> None:
        got = 0
        while got < size:
            got += self._socket.recv_into(self._buffer[got:size])


def measured(over_bytes: int, size: int, jobs: int) -> Figures:
    """Return CPU and wall milliseconds of a job, and the MiB at the peak and afterwards."""
    body = b'"' + b"x" * (size - 2) + b'"'
    submit = b'{"action":"submit","id":1,"type":"t","body":' + body + b"}"
    respond = b'{"action":"respond","body":' + body + b"}"
    with (
        Broker(over_bytes) as broker,
        Peer(broker.ports["masters"], size) as master,
        Peer(broker.ports["slaves"], size) as slave,
    ):
        idle_mib = broker.memory_mib("VmHWM")
        began = cpu_began = 0.0
        for job in range(-WARM_UP_JOBS, jobs):
            if job == 0:
                began, cpu_began = time.perf_counter(), broker.cpu_seconds()
            slave.send(JOIN)
            slave.receive()
            master.send(submit)
            master.receive()
            slave.receive()
            slave.send(respond)
            slave.receive()
            assert master.receive() > size
        cpu_seconds, seconds = broker.cpu_seconds() - cpu_began, time.perf_counter() - began
        peak_mib, left_mib = broker.memory_mib("VmHWM") - idle_mib, broker.memory_mib("VmRSS") - idle_mib
    return 1000 * cpu_seconds / jobs, 1000 * seconds / jobs, peak_mib, left_mib


def main() -> None:
    print(machine())
    print("| body | map over | CPU, ms | wall, ms | peak, MiB | afterwards, MiB |\n|---|---|---|---|---|---|")
    for size_mib, jobs in SIZES.items():
        rounds: dict[str, list[Figures]] = {variant: [] for variant in OVER_BYTES}
        for _ in range(ROUNDS):
            for variant, over_bytes in OVER_BYTES.items():
                rounds[variant].append(measured(over_bytes, size_mib * MIB, jobs))
        for variant, figures in rounds.items():
            cpu, wall, peak, left = map(median, zip(*figures, strict=True))
            print(f"| {size_mib} MiB | {variant} | {cpu:.1f} | {wall:.0f} | {peak:.0f} | {left:.0f} |", flush=True)


if __name__ == "__main__":
    main()
