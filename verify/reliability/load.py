"""Masters that keep a broker busy, and count the outcome of each job."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from gloom.client.deferred import Master
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.session import Event, Outcome
from verify.reliability.jobs import TYPE

# Resolution of a steady rate.
STEP_SECONDS = 0.01


class CountingMaster(Master):
    """
    A master that also counts the messages on the wire.

    Attributes:
        outcomes: Number of outcomes of each job on each connection.
    """

    outcomes: Counter[tuple[int, str | int]]

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Outcome:
            self.outcomes[id(connection), event.id] += 1
        super().heard(connection, event)


class Load:
    """
    Endless jobs: a window of them for each master, or a steady rate over all masters.

    Args:
        reactor: Clock and sockets.
        address: The broker's master port.
        masters: Number of masters.
        window: Number of jobs that each master keeps in flight; or None.
        rate: Jobs submitted per second, answered or not; or None.
        counts_wire: Whether to count outcomes on the wire too, which takes memory for each job.
        heartbeat_seconds: Heartbeat of each master.

    Attributes:
        submitted: Number of submitted jobs.
        answered: Number of jobs with the correct answer.
        wrong: Number of jobs with another answer.
        failed: Number of jobs per error.
        seconds: Latency of each answer since `take_seconds`.
    """

    def __init__(
        self,
        reactor: Any,
        address: str,
        *,
        masters: int = 2,
        window: int | None = None,
        rate: float | None = None,
        counts_wire: bool = True,
        heartbeat_seconds: float = 30.0,
    ) -> None:
        self.submitted = self.answered = self.wrong = 0
        self.failed = Counter[str]()
        self.seconds: list[float] = []
        kind = CountingMaster if counts_wire else Master
        self.masters = [
            kind(address, reactor=reactor, name=f"load {n}", heartbeat_seconds=heartbeat_seconds)
            for n in range(masters)
        ]
        for master in self.masters:
            if isinstance(master, CountingMaster):
                master.outcomes = Counter()
        self._reactor = reactor
        self._window = window
        self._rate = rate
        self._pacing = LoopingCall.withCount(self._steps)
        self._pacing.clock = reactor
        self._owed = 0.0
        self._stopping = False
        self._finished: Deferred[None] | None = None

    async def start(self) -> None:
        """Connect, and start submitting."""
        for master in self.masters:
            master.startService()
            await master.when_connected()
        if self._rate is not None:
            self._pacing.start(STEP_SECONDS)
        for master in self.masters:
            for _ in range(self._window or 0):
                self._submit(master)

    async def finish(self, within_seconds: float) -> list[str]:
        """Stop submitting, wait for the jobs in flight, disconnect, and return the failures."""
        self._stopping = True
        if self._pacing.running:
            self._pacing.stop()
        if self.unanswered:
            self._finished = Deferred()
            await self._finished.addTimeout(within_seconds, self._reactor, onTimeoutCancel=lambda *_: None)
        failures = self._failures()
        for master in self.masters:
            await master.stopService()
        return failures

    @property
    def unanswered(self) -> int:
        """Number of jobs without an outcome."""
        return self.submitted - self.answered - self.wrong - self.failed.total()

    def take_seconds(self) -> list[float]:
        """Return the latencies of the answers since the last call."""
        seconds, self.seconds = self.seconds, []
        return seconds

    def summary(self) -> str:
        """Return the figures as one line."""
        return (
            f"{self.submitted} submitted, {self.answered} answered, {self.wrong} wrong, "
            f"{self.failed.total()} failed, {self.unanswered} unanswered"
        )

    def _failures(self) -> list[str]:
        twice = sum(count > 1 for master in self.masters for count in getattr(master, "outcomes", Counter()).values())
        return [
            *([f"{self.unanswered} jobs have no outcome"] if self.unanswered else []),
            *([f"{self.wrong} jobs have a wrong answer"] if self.wrong else []),
            *(f"{count} jobs failed: {error}" for error, count in self.failed.items()),
            *([f"{twice} jobs had more than one outcome on one connection"] if twice else []),
        ]

    def _steps(self, count: int) -> None:
        self._owed += count * STEP_SECONDS * (self._rate or 0)
        while self._owed >= 1:
            self._owed -= 1
            self._submit(self.masters[self.submitted % len(self.masters)])

    def _submit(self, master: Master) -> None:
        number, begun = self.submitted, self._reactor.seconds()
        self.submitted += 1
        answer = master.submit(TYPE, number)
        answer.addCallback(self._answered, number, begun)
        answer.addErrback(self._failed)
        answer.addCallback(self._next, master)

    def _answered(self, answer: Any, number: int, begun: float) -> None:
        if answer == number + 1:
            self.answered += 1
        else:
            self.wrong += 1
        self.seconds.append(self._reactor.seconds() - begun)

    def _failed(self, failure: Failure) -> None:
        self.failed[f"{type(failure.value).__name__}: {failure.getErrorMessage()[:150]}"] += 1

    def _next(self, _: None, master: Master) -> None:
        if self._finished is not None and not self.unanswered:
            finished, self._finished = self._finished, None
            finished.callback(None)
        elif not self._stopping and self._window is not None:
            self._submit(master)
