"""The systems compared, each started as a child on loopback ports of its own."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from bench.wire.programs import compiled

START_SECONDS = 30
STOP_SECONDS = 10
LARGEST_BODY_BYTES = 2_000_000


class CannotStart(Exception):
    """A system did not begin to listen; the text has its output."""


@dataclass(frozen=True)
class System:
    """One of the systems, and how to start it."""

    name: str
    wire: str  # its name in the load generator
    command: Callable[[int], list[str]]  # from a free port
    version_command: tuple[str, ...] = ()
    program: str | None = None  # the program to install; None: comes with the checkout
    package: str | None = None  # the Debian package of the program
    has_two_ports: bool = False  # chosen by the system, and printed
    slots: int = 1

    def missing(self) -> str | None:
        """Return the reason why it cannot be started here, or None if it can."""
        if self.program is None or shutil.which(self.program):
            return None
        return f"{self.name} is left out: {self.program} is not installed (Debian package {self.package})"

    def version(self) -> str:
        """Return its name and version, in one line."""
        if not self.version_command:
            return f"gloom {version('gloom')}" if self.wire == "gloom" else "of this checkout"
        result = subprocess.run(self.version_command, capture_output=True, text=True)
        lines = (result.stdout + result.stderr).strip().splitlines()
        return lines[0].split(" - ")[0] if lines else "unknown"


@dataclass
class Running:
    """A system that listens."""

    system: System
    pid: int
    port: int
    slave_port: int

    def peak_bytes(self) -> int:
        """Return its peak resident memory so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0


def _gloom(_port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "twisted", "--log-format=text"),
        *("gloom", "--master-port", "0", "--slave-port", "0"),
    ]


def _gearmand(port: int) -> list[str]:
    return ["gearmand", "--listen", "127.0.0.1", "--port", str(port), "--log-file", "stderr", "--pid-file", ""]


def _beanstalkd(port: int) -> list[str]:
    return ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-z", str(LARGEST_BODY_BYTES)]


SYSTEMS = {
    system.name: system
    for system in (
        System("relay", "relay", lambda _port: [str(compiled("relay"))], has_two_ports=True),
        System("gloom", "gloom", _gloom, has_two_ports=True),
        System("gloom-slots", "gloom", _gloom, has_two_ports=True, slots=16),
        System("gearmand", "gearmand", _gearmand, ("gearmand", "--version"), "gearmand", "gearman-job-server"),
        System("beanstalkd", "beanstalkd", _beanstalkd, ("beanstalkd", "-v"), "beanstalkd", "beanstalkd"),
        System(
            "nats",
            "nats",
            lambda port: ["nats-server", "-a", "127.0.0.1", "-p", str(port)],
            ("nats-server", "-v"),
            "nats-server",
            "nats-server",
        ),
    )
}


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def started(system: System) -> Iterator[Running]:
    """Start *system*, wait until it listens, and stop it at the end. Raises CannotStart."""
    port = free_port()
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(system.command(port), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            ports = _wait_until_it_listens(system, process, port, log)
            yield Running(system, process.pid, *ports)
        finally:
            _stop(process)


def _wait_until_it_listens(
    system: System, process: subprocess.Popen[bytes], port: int, log: IO[str]
) -> tuple[int, int]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        ports = _printed_ports(log) if system.has_two_ports else _is_open(port)
        if ports:
            return ports
        time.sleep(0.02)
    log.seek(0)
    raise CannotStart(f"{system.name} did not start: {log.read()[-500:].strip()}")


def _printed_ports(log: IO[str]) -> tuple[int, int] | None:
    log.seek(0)
    ports = dict(re.findall(r"(masters|slaves) on 127\.0\.0\.1:(\d+)", log.read()))
    return (int(ports["masters"]), int(ports["slaves"])) if len(ports) == 2 else None


def _is_open(port: int) -> tuple[int, int] | None:
    with socket.socket() as probe:
        return (port, port) if probe.connect_ex(("127.0.0.1", port)) == 0 else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
