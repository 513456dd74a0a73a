"""
The processes of one system: start them, wait for them, read their CPU time, end them by their ids.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

STARTING_SECONDS = 20
STOPPING_SECONDS = 10
_TOLD_LINES = 5
_TICKS = os.sysconf("SC_CLK_TCK")


class FarmBroken(Exception):
    """A process did not start; the text has its last output."""


class Farm:
    """
    Processes that end when the farm's context ends.

    Args:
        directory: Their working directory, which also holds their logs.

    Attributes:
        directory: The same.
        redis_port: Port of `start_redis`; known beforehand, for modules that name it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.redis_port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            print(self.last_words(), file=sys.stderr)
        self.stop()

    def start(self, name: str, *command: str) -> None:
        """Start *command*; *name* labels its CPU time and its log."""
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def start_python(self, name: str, *arguments: str) -> None:
        """Start this interpreter with *arguments*; as `start`."""
        self.start(name, sys.executable, *arguments)

    def start_redis(self) -> None:
        """Start Redis with its default persistence, and wait until it listens."""
        port = str(self.redis_port)
        self.start("redis", "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", str(self.directory))
        self.wait_for_port(self.redis_port)

    def wait_for_port(self, port: int) -> None:
        """
        Wait until something listens on *port*.

        Raises:
            FarmBroken: A process has ended, or it takes too long.
        """
        deadline = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            self._check()
            time.sleep(0.02)
        raise FarmBroken(f"nothing listens on port {port} after {STARTING_SECONDS} s")

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time of each process with its descendants, and of this process ("client")."""
        times = os.times()
        used = {"client": times.user + times.system}
        table = _process_table()
        for name, process in self._processes.items():
            used[name] = sum(table[pid][1] for pid in _tree(table, process.pid)) / _TICKS
        return used

    def stop(self) -> None:
        """End every process, the last one first, with SIGTERM; kill slow ones with all their descendants."""
        while self._processes:
            _, process = self._processes.popitem()
            tree = list(_tree(_process_table(), process.pid))
            process.terminate()
            try:
                process.wait(STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                for pid in tree:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()

    def last_words(self) -> str:
        """Return the end of each process's log."""
        said = []
        for name in self._processes:
            lines = self._log(name).read_text(errors="replace").splitlines()[-_TOLD_LINES:]
            said += [f"{name}: {line}" for line in lines]
        return "\n".join(said)

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _check(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise FarmBroken(f"{name} has ended with status {process.returncode}")


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _process_table() -> dict[int, tuple[int, int]]:
    """Return, by process id, the parent's id and the ticks used by a process and its ended children."""
    table = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            with suppress(OSError):  # it has just ended
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                table[int(directory.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    return table


def _tree(table: dict[int, tuple[int, int]], root: int) -> Iterator[int]:
    if root in table:
        yield root
    for pid, (parent, _) in table.items():
        if parent == root:
            yield from _tree(table, pid)
