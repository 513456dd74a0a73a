"""A broker in an unusual environment, well-behaved peers of every kind at work, and a fault that hits them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.daemon import TWISTD
from tests.support.peer import Peer
from verify.reliability.crowd import MASTERS, SLAVES, Member
from verify.reliability.figures import show

HEARTBEAT_SECONDS = 2.0
WARM_SECONDS = 0.5
STARTING_SECONDS = 30.0
# Attempts that faults may take from one job. By default a job fails after four; that is specified, not an error.
RETRIES = "--retries=100"


class NotPossible(Exception):
    """This system lacks a feature that the fault needs; the text names it."""


class FaultyBroker:
    """
    A broker in an unusual environment; use it as a context manager.

    Args:
        directory: Its working directory, which also holds its log.
        options: Options of ``twistd gloom``, without ports.
        prefix: Start of the command line, before the interpreter.
        names: Additions to its environment.
        log: The log file; a file of *directory* by default.

    Attributes:
        master_port: Port for masters, on this host.
        slave_port: Port for slaves, on this host.
        process: The process.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        prefix: Sequence[str] = (),
        names: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.master_port, self.slave_port = _free_ports(2)
        self.log = directory / f"broker-{self.master_port}.log" if log is None else log
        ports = [f"--master-port={self.master_port}", f"--slave-port={self.slave_port}"]
        self._command = [*prefix, str(TWISTD), "--nodaemon", "--pidfile=", f"--logfile={self.log}", "gloom"]
        self._command += [*ports, *options]
        self._directory, self._names = directory, names or {}

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=self._directory,
            env=os.environ | self._names,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: is_heard(self.slave_port) and is_heard(self.master_port), "the broker does not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def dropped(self) -> list[str]:
        """Return the log lines about dropped peers and about bugs."""
        if not self.log.is_file():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[:300] for line in lines if ": dropped: " in line or "a bug in gloom" in line]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def is_heard(port: int) -> bool:
    try:
        with Peer.tcp(port) as peer:
            return bool(peer.ask({"action": "no"})["error"] == "unknown_action")
    except OSError:
        return False


def until(holds: Callable[[], object], what: str, seconds: float = STARTING_SECONDS) -> None:
    """
    Wait until a condition holds.

    Raises:
        AssertionError: The condition did not hold in time; *what* is the text.
    """
    late = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < late, what
        time.sleep(0.02)


class Crowd:
    """
    Well-behaved peers of every kind, at work; use it as a context manager.

    Args:
        master_port: Port for masters, on this host.
        slave_port: Port for slaves, on this host.
        kinds: A selection of `MASTERS` and `SLAVES`; all by default.
        heartbeat_seconds: Heartbeat of the peers that have one.
        prefix: Start of each command line, before the interpreter.
        names: Additions to each environment.

    Attributes:
        members: The peers, by kind.
    """

    def __init__(
        self,
        master_port: int,
        slave_port: int,
        *,
        kinds: Sequence[str] = (*MASTERS, *SLAVES),
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        prefix: Sequence[str] = (),
        names: dict[str, str] | None = None,
    ) -> None:
        self._ports, self._kinds, self._heartbeat_seconds = (master_port, slave_port), kinds, heartbeat_seconds
        self._prefix, self._names = prefix, names
        self.members: dict[str, Member] = {}

    def __enter__(self) -> Self:
        for kind in self._kinds:
            port = self._ports[kind in SLAVES]
            self.members[kind] = Member(kind, port, self._heartbeat_seconds, self._prefix, self._names)
        for member in self.members.values():
            member.wait_until_ready()
        time.sleep(WARM_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members.values():
            with member:
                member.kill()

    def finish(self, name: str) -> list[str]:
        """Stop the masters, print their reports, and return the failures."""
        seen = {kind: self.members[kind].finish() for kind in self._kinds if kind in MASTERS}
        show(f"{name}: " + ", ".join(f"{one['submitted']} jobs of a {kind}" for kind, one in seen.items()))
        failures = [f"{name}: {kind}: {what}" for kind, one in seen.items() for what in one["failures"]]
        few = [
            f"{name}: a {kind} did only {one['submitted']} jobs" for kind, one in seen.items() if one["submitted"] < 20
        ]
        return failures + few


def among(
    name: str, broker: FaultyBroker, crowd: Crowd, fault: Callable[[], object], gone: Sequence[str] = ()
) -> list[str]:
    """
    Apply *fault* to peers at work, stop them some time later, and return the failures.

    Args:
        name: Name of the fault, for the report.
        broker: The broker that the peers use.
        crowd: The peers, at work.
        fault: Applies the fault, and reverts it.
        gone: Names of the peers that the broker may drop because of the fault.
    """
    fault()
    time.sleep(WARM_SECONDS)
    failures = crowd.finish(name)
    wrong = [line for line in broker.dropped() if not any(f"{one}: dropped: " in line for one in gone)]
    return failures + [f"{name}: {line}" for line in wrong]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]
