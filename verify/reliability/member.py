"""
A well-behaved peer of some kind: ``python -m verify.reliability.member KIND PORT HEARTBEAT_SECONDS``.

A master submits until its standard input ends, waits for the jobs in flight, and prints
its report as a line of JSON. A slave serves until it is killed. Every peer
reconnects when its connection ends. A heartbeat of 0 means none; blocking peers
have none.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from threading import Event, Thread
from typing import Any, NoReturn

# Each kind imports its own dependencies, so that a plain socket starts as fast as it can.
from verify.reliability.jobs import TYPE

WINDOW = 8
JOB_SECONDS = 0.002
FINISH_SECONDS = 60.0
RETRY_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


def pause(seconds: float) -> None:
    """Sleep. Under libfaketime, whose clock may jump, `time.sleep` raises OSError (0.9.10 does)."""
    select.select([], [], [], seconds)


def increment(body: int) -> int:
    """Do the job."""
    pause(JOB_SECONDS)
    return body + 1


class Account:
    """
    Outcome of each job of a master: numbers in, one outcome each.

    Attributes:
        stopped: Set when the master is to stop submitting.
    """

    def __init__(self) -> None:
        self.stopped = Event()
        self.submitted = self.answered = self.wrong = 0
        self.failed = Counter[str]()
        self.unanswered: dict[int, None] = {}
        self._numbers = count()
        Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        sys.stdin.read()
        self.stopped.set()

    def new(self) -> int:
        """Return the number of a new job."""
        number = next(self._numbers)
        self.submitted += 1
        self.unanswered[number] = None
        return number

    def ended(self, number: int, answer: Any, error: str | None = None) -> None:
        """Count an outcome."""
        if number not in self.unanswered:
            self.failed["a second outcome"] += 1
            return
        del self.unanswered[number]
        if error is not None:
            self.failed[error[:200]] += 1
        elif answer == number + 1:
            self.answered += 1
        else:
            self.wrong += 1

    def report(self) -> None:
        """Print the report."""
        failures = [
            *([f"{len(self.unanswered)} jobs have no outcome"] if self.unanswered else []),
            *([f"{self.wrong} jobs have a wrong answer"] if self.wrong else []),
            *(f"{times} jobs failed: {error}" for error, times in self.failed.items()),
        ]
        _say(json.dumps({"submitted": self.submitted, "failures": failures}))


def blocking_master(port: int, _: float) -> None:
    """Keep a window of jobs with `do_many`; after a lost connection resubmit the rest, with new ids."""
    from gloom.client import blocking
    from gloom.errors import BodyError, GloomError, ServerError

    account, late = Account(), _Late(lambda: account.stopped.is_set())

    def jobs() -> Iterator[dict[str, Any]]:
        again = list(account.unanswered)
        life = time.monotonic_ns()
        for number in again:
            yield {"id": f"{os.getpid()} {number} {life}", "type": TYPE, "body": number}
        while not account.stopped.is_set():
            number = account.new()
            yield {"id": f"{os.getpid()} {number} {life}", "type": TYPE, "body": number}

    _say("ready")
    while (account.unanswered or not account.stopped.is_set()) and not late.is_now():
        with suppress(OSError, GloomError), blocking.Master(("127.0.0.1", port), timeout=10) as master:
            for ended in master.do_many(jobs(), timeout=FINISH_SECONDS, window=WINDOW, return_errors=True):
                number = int(str(ended.id).split()[1])
                if isinstance(ended, ServerError | BodyError):
                    account.ended(number, None, f"{type(ended).__name__}: {ended}")
                else:
                    account.ended(number, ended.body)
        pause(RETRY_SECONDS)
    account.report()


class _Late:
    """Tells when so many seconds have passed since a condition became true."""

    def __init__(self, begun: Callable[[], bool]) -> None:
        self._begun = begun
        self._since: float | None = None

    def is_now(self) -> bool:
        if self._since is None and self._begun():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() > self._since + FINISH_SECONDS


class RawConnection:
    """One connection on a plain socket, which always pings and never drops the broker."""

    def __init__(self, port: int, heartbeat_seconds: float, name: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.settimeout(FINISH_SECONDS)
        self._heard = b""
        self._every = heartbeat_seconds / 3 if heartbeat_seconds else 1e9
        self._next_ping = time.monotonic() + self._every
        self.send({"action": "hello", "version": 1, "heartbeat": heartbeat_seconds, "name": name})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        payload = json.dumps(message).encode()
        self._socket.sendall(struct.pack(">I", len(payload)) + payload)

    def hear(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages received within so many seconds; ping when due."""
        now = time.monotonic()
        if now >= self._next_ping:
            self._next_ping = now + self._every
            self.send({"action": "ping"})
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            return []
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the broker has closed the connection")
        self._heard += data
        messages = []
        while len(self._heard) >= 4 and len(self._heard) >= (end := 4 + int.from_bytes(self._heard[:4])):
            messages.append(json.loads(self._heard[4:end]))
            self._heard = self._heard[end:]
        return messages

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def raw_master(port: int, heartbeat_seconds: float) -> None:
    """Keep a window of jobs; after a lost connection, resubmit with ``attach``."""
    account, late = Account(), _Late(lambda: account.stopped.is_set())
    _say("ready")
    while (account.unanswered or not account.stopped.is_set()) and not late.is_now():
        with suppress(OSError):
            connection = RawConnection(port, heartbeat_seconds, "raw-master")
            try:
                _submit_all(connection, account, late)
            finally:
                connection.close()
        pause(RETRY_SECONDS)
    account.report()


def _submit_all(connection: RawConnection, account: Account, late: _Late) -> None:
    for number in account.unanswered:
        _submit(connection, number)
    while (account.unanswered or not account.stopped.is_set()) and not late.is_now():
        while len(account.unanswered) < WINDOW and not account.stopped.is_set():
            _submit(connection, account.new())
        for message in connection.hear(0.1):
            if "id" in message:
                number = int(message["id"].split()[1])
                error = f"{message['error']}: {message['reason']}" if "error" in message else None
                account.ended(number, message.get("body"), error)
            elif "error" in message:
                account.failed[f"refused: {message}"] += 1


def _submit(connection: RawConnection, number: int) -> None:
    id = f"{os.getpid()} {number}"
    connection.send({"action": "submit", "id": id, "type": TYPE, "body": number, "attach": True})


def raw_slave(port: int, heartbeat_seconds: float) -> NoReturn:
    """Serve with two slots."""
    _say("ready")
    while True:
        with suppress(OSError):
            connection = RawConnection(port, heartbeat_seconds, "raw-slave")
            try:
                connection.send({"action": "join", "type": TYPE, "slots": 2})
                while True:
                    for message in connection.hear(0.1):
                        if message.get("action") == "job":
                            answer = {"action": "respond", "id": message["id"], "body": increment(message["body"])}
                            connection.send(answer)
            finally:
                connection.close()
        pause(RETRY_SECONDS)


def blocking_slave(port: int, _: float) -> NoReturn:
    """Serve with the blocking client."""
    from gloom.client import blocking
    from gloom.errors import GloomError

    _say("ready")
    while True:
        with suppress(OSError, GloomError), blocking.Slave(("127.0.0.1", port)) as slave:
            slave.join(TYPE)
            slave.serve(increment)
        pause(RETRY_SECONDS)


async def deferred_master(reactor: Any, port: int, heartbeat_seconds: float) -> None:
    """Keep a window of jobs with the Deferred client."""
    from twisted.internet.threads import deferToThread

    from verify.reliability.load import Load

    load = Load(reactor, f"127.0.0.1:{port}", masters=1, window=WINDOW, heartbeat_seconds=heartbeat_seconds)
    _say("ready")
    await load.start()
    await deferToThread(sys.stdin.read)
    failures = await load.finish(FINISH_SECONDS)
    _say(json.dumps({"submitted": load.submitted, "failures": failures}))


async def deferred_slave(reactor: Any, port: int, heartbeat_seconds: float) -> None:
    """Serve with four slots of the Deferred client."""
    from twisted.internet.defer import Deferred

    from gloom.client.deferred import Slave

    async def later(body: int) -> int:
        # Not a reactor timer: reactor timers stall when the wall clock is set back.
        return body + 1

    slave = Slave(
        f"127.0.0.1:{port}",
        TYPE,
        later,
        reactor=reactor,
        slots=4,
        name="deferred-slave",
        heartbeat_seconds=heartbeat_seconds,
    )
    slave.startService()
    _say("ready")
    await Deferred()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    kind, port, heartbeat_seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    member = globals()[kind.replace("-", "_")]
    if kind.startswith("deferred"):
        from twisted.internet.defer import Deferred
        from twisted.internet.task import react

        react(lambda reactor: Deferred.fromCoroutine(member(reactor, port, heartbeat_seconds)))
    else:
        member(port, heartbeat_seconds)


if __name__ == "__main__":
    main()
