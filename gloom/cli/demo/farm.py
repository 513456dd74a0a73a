"""
A broker and its workers, each a process, on free ports; all end when the farm stops.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from gloom.errors import GloomError, TransportError
from gloom.reactor import IProcessReactor

Result = TypeVar("Result")

_GLOOM = ("-m", "gloom")
_BROKER = (*_GLOOM, "broker", "--master-port=0", "--slave-port=0")
_WORKER = (*_GLOOM, "work", "--concurrency=1")
_LISTENS = re.compile(r"(masters|slaves) on (\S+:\d+)")

_STARTING_SECONDS = 20.0
_STOPPING_SECONDS = 5.0
_NOTICING_SECONDS = 1.0
_TOLD_LINES = 20


class FarmBroken(GloomError):
    """A process of the farm did not start, or ended early; the text has the last lines of its output."""


class Child(ProcessProtocol):
    """
    A Python process.

    Args:
        name: Its name in messages.
        heard: Called with each line that it prints.
        ended: Called with this child when it ends before `stop`.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, name: str, heard: Callable[[str], None], ended: Callable[[Child], None]) -> None:
        self.pid = 0
        self._name = name
        self._heard = heard
        self._ended = ended
        self._stopping = False
        self._running = False
        self._partial = b""
        self._said: deque[str] = deque(maxlen=_TOLD_LINES)
        self._waiting: list[Deferred[None]] = []

    def start(self, reactor: IProcessReactor, arguments: Sequence[str]) -> None:
        """Start it; *arguments* are those of the Python interpreter."""
        self._running = True
        process = reactor.spawnProcess(self, sys.executable, [sys.executable, *arguments], env=None)
        self.pid = process.pid

    async def stop(self, reactor: IProcessReactor) -> None:
        """End it by SIGTERM; if that takes too long, or this call is cancelled, by SIGKILL."""
        self._stopping = True
        try:
            self._signal("TERM")
            await self._exit(reactor)
        finally:
            if self._running:
                self._signal("KILL")
                await self._exit(reactor)

    def last_words(self) -> str:
        """Return a text with its name and the last lines that it has printed."""
        return "\n".join([f"the {self._name} ended by itself", *self._said])

    def outReceived(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            self._said.append(text)
            self._heard(text)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self._running = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)
        if not self._stopping:
            self._ended(self)

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)  # type: ignore[union-attr]

    async def _exit(self, reactor: IProcessReactor) -> None:
        if self._running:
            exit: Deferred[None] = Deferred()
            self._waiting.append(exit)
            await exit.addTimeout(_STOPPING_SECONDS, reactor, onTimeoutCancel=lambda *_: None)


class Farm:
    """
    One broker and its workers.

    Args:
        reactor: Starts the processes, and is the clock.

    Attributes:
        master_address: Where masters connect, once `start_broker` has returned.
        slave_address: Where slaves connect, likewise.
    """

    def __init__(self, reactor: IProcessReactor) -> None:
        self.master_address = ""
        self.slave_address = ""
        self._reactor = reactor
        self._broker = Child("broker", self._broker_said, self._lost)
        self._workers: list[Child] = []
        self._up: Deferred[None] = Deferred()
        self._running: Deferred[Any] | None = None
        self._broken: Deferred[None] = Deferred()
        self._problem: str | None = None

    async def start_broker(self) -> int:
        """
        Start the broker on free ports of this host, and wait until it listens.

        Returns:
            Its process id.

        Raises:
            FarmBroken: It takes too long.
        """
        self._broker.start(self._reactor, _BROKER)
        await self._up.addTimeout(_STARTING_SECONDS, self._reactor, onTimeoutCancel=_too_late)
        return self._broker.pid

    def start_worker(self, target: str) -> int:
        """Start ``gloom work`` with the function *target*, and return its process id."""
        worker = Child("worker", lambda _line: None, self._lost)
        self._workers.append(worker)
        worker.start(self._reactor, [*_WORKER, f"--slave={self.slave_address}", target])
        return worker.pid

    async def during(self, work: Coroutine[Any, Any, Result]) -> Result:
        """
        Do *work*, and cancel it when a process of the farm ends early.

        Raises:
            FarmBroken: A process has ended early.
        """
        running: Deferred[Result] = Deferred.fromCoroutine(work)
        self._running = running
        try:
            return await running
        except TransportError:
            # A dead broker refuses connections before the reactor reports the end of its process.
            await self._broken.addTimeout(_NOTICING_SECONDS, self._reactor, onTimeoutCancel=lambda *_: None)
            self._raise_problem()
            raise
        except CancelledError:
            self._raise_problem()
            raise

    async def stop(self) -> None:
        """End every process of the farm: the workers, then the broker."""
        try:
            await gatherResults([Deferred.fromCoroutine(worker.stop(self._reactor)) for worker in self._workers])
        finally:
            await self._broker.stop(self._reactor)

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise FarmBroken(self._problem) from None

    def _lost(self, child: Child) -> None:
        self._problem = self._problem or child.last_words()
        if not self._broken.called:
            self._broken.callback(None)
        if self._running is not None:
            self._running.cancel()

    def _broker_said(self, line: str) -> None:
        listens = _LISTENS.search(line)
        if listens is None:
            return
        if listens[1] == "masters":
            self.master_address = listens[2]
        else:
            self.slave_address = listens[2]
        if self.master_address and self.slave_address and not self._up.called:
            self._up.callback(None)


def _too_late(_result: object, seconds: float) -> None:
    raise FarmBroken(f"the broker did not come up within {seconds:g} s")
