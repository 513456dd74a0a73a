"""A broker whose surroundings are not as usual, good peers of every kind at work, and a fault that happens to them."""

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
# Attempts that faults may take from one job: that a job fails after four is a promise kept, and not counted here.
RETRIES = "--retries=100"


class NotPossible(Exception):
    """This system has not what a fault needs; the text says what."""


class FaultyBroker:
    """
    A broker whose surroundings are not as usual; use it as a context manager.

    Args:
        directory: Where it runs, and its log is.
        options: Of ``twistd gloom``, without ports.
        prefix: What the command begins with.
        names: Additions to its environment.
        log: Where it logs; a file of *directory* by default.

    Attributes:
        master_port: On this host.
        slave_port: On this host.
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
        """Return the lines of its log about peers that it dropped, and about its bugs."""
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
    Wait until something holds.

    Raises:
        AssertionError: It does not, in that time; *what* is the text.
    """
    late = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < late, what
        time.sleep(0.02)


class Crowd:
    """
    Good peers of every kind, at work; use it as a context manager.

    Args:
        master_port: Where masters connect, on this host.
        slave_port: Where slaves connect.
        kinds: Which of `MASTERS` and `SLAVES`; all by default.
        heartbeat_seconds: Of those that have one.
        prefix: What each command begins with.
        names: Additions to each environment.

    Attributes:
        members: By kind.
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
        """Have the masters end; show what they saw, and return what did not hold."""
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
    Have a *fault* happen to peers at work, some time later let them end, and return what did not hold.

    Args:
        name: What it is called.
        broker: The broker that they use.
        crowd: The peers, at work.
        fault: Does it, and undoes it.
        gone: The names of peers that the broker may drop for it.
    """
    fault()
    time.sleep(WARM_SECONDS)
    failures = crowd.finish(name)
    wrong = [line for line in broker.dropped() if not any(f"{one}: dropped: " in line for one in gone)]
    return failures + [f"{name}: {line}" for line in wrong]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]
