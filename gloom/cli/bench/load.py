"""
The load of ``gloom bench``: echo masters and slaves around a broker, and the jobs between them.
"""

from __future__ import annotations

import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent
from twisted.python.failure import Failure
from zope.interface import provider

from gloom.cli.bench.figures import Figures, Report, progress
from gloom.cli.bench.plan import BenchOptions
from gloom.cli.connect import Place, connected_master
from gloom.cli.loglines import LogLines
from gloom.cli.output import FAILED, on_terminal, print_out, say, tell
from gloom.cli.progress import Tally
from gloom.client.deferred import Master, Slave
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.link import BrokerLink
from gloom.client.session import Event, Reply
from gloom.errors import GloomError, ServerError, TimedOut, TransportError
from gloom.host.filelimit import DescriptorService
from gloom.reactor import IReactor
from gloom.settings import MIB
from gloom.transport.deferreds import fire
from gloom.wire.messages import ExtendedJoin

# Limit for the first answers, and after the last submit for the last ones.
_ANSWER_SECONDS = 10.0
# Pause after a failed job, so that a full broker is not flooded.
_REST_SECONDS = 0.05
# Most jobs submitted in one turn when many are due: answers are read in between.
_MOST_A_TURN = 100
# Most unanswered jobs at an offered rate: jobs that are due beyond that wait, and count as late.
_MOST_UNANSWERED = 100_000
_MOST_UNANSWERED_BYTES = 256 * MIB
_BACKLOG_SECONDS = 0.001


@provider(ILogObserver)
def only_failures(event: LogEvent) -> None:
    """Print bugs only: the bench itself reports a lost broker, once for all its peers."""
    if event.get("log_failure") is not None:
        LogLines()(event)


async def bench(reactor: IReactor, master: Place, slave: Place, options: BenchOptions) -> int:
    """
    Measure the broker at *master* and *slave*, and print the figures.

    Returns:
        The exit status.

    Raises:
        GloomError: There is no broker, or it refuses masters, slaves or jobs.
    """
    type = f"gloom-bench-{uuid.uuid4().hex[:12]}"
    report = Report(type, master.address, slave.address, options)
    DescriptorService(options.masters + options.slaves).startService()
    async with AsyncExitStack() as stack:
        # In this order, for masters stop first: their jobs leave the queue with them.
        slaves = await stack.enter_async_context(joined_slaves(reactor, slave, type, options))
        masters = [await stack.enter_async_context(connected_master(reactor, master)) for _ in range(options.masters)]
        tell(report.introduction())
        await Bench(reactor, masters, slaves, report).run()
    print_out(report.printed(drawn=on_terminal(sys.stdout)))
    for text in report.remarks():
        say(text)
    return FAILED if report.failed else 0


class EchoSlave(Slave):
    """
    Answers each job with its body.

    Attributes:
        joined: Fires when the broker has accepted the first ``join``; fails with
            `gloom.errors.RequestRefused` if the broker refuses it.
        quieted: Fires when the broker is about to shut down.
    """

    def __init__(self, place: Place, type: str, slots: int, reactor: IReactorTime) -> None:
        super().__init__(
            place.address, type, lambda body: body, reactor=reactor, slots=slots, token=place.token, tls=place.tls
        )
        self.joined: Deferred[None] = Deferred()
        self.quieted: Deferred[None] = Deferred()

    def told_quiet(self) -> None:
        fire(self.quieted)

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Reply and type(event.request) is ExtendedJoin and not self.joined.called:
            if event.error is None:
                self.joined.callback(None)
            else:
                self.joined.errback(event.error)
        else:
            super().heard(connection, event)


@asynccontextmanager
async def joined_slaves(
    reactor: IReactor, place: Place, type: str, options: BenchOptions
) -> AsyncIterator[list[EchoSlave]]:
    """
    Yield slaves that have joined the broker at *place*, and stop them afterwards.

    Raises:
        GloomError: There is no broker, or it does not take them.
    """
    async with connected_master(reactor, place):
        pass  # a master's error text explains best why a place cannot be reached
    slaves = [EchoSlave(place, type, options.slots, reactor) for _ in range(options.slaves)]
    try:
        for slave in slaves:
            slave.startService()
            try:
                await slave.when_connected(attempts=1)
                await slave.joined.addTimeout(_ANSWER_SECONDS, reactor, onTimeoutCancel=_too_late)
            except (ServerError, TransportError) as error:
                raise GloomError(f"the broker at {place.address} takes no slave: {error}") from None
        yield slaves
    finally:
        await DeferredList([slave.stopService() for slave in slaves])


class Bench:
    """
    Measures both parts, one after the other; the loss of the broker ends them.

    Args:
        clock: Times the pauses and the end of each part.
        masters: Connected.
        slaves: Joined.
        report: Has the plan, and collects the figures.
        now: Returns the seconds of a clock that cannot be set, for measuring.
    """

    def __init__(
        self,
        clock: IReactorTime,
        masters: Sequence[Master],
        slaves: Sequence[EchoSlave],
        report: Report,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        options = report.options
        body = "x" * (options.body_bytes - len('""'))
        self._around = Around(clock, now, masters, report.type, body, options.seconds, options.jobs)
        self._report = report
        self._load: Load | None = None
        self._ended = False
        for link in (*masters, *slaves):
            self._watch(link)
        for slave in slaves:
            slave.quieted.addCallback(self._shuts_down)
        for master in masters:
            master.told_quiet = partial(self._shuts_down, None)  # type: ignore[method-assign]

    async def run(self) -> None:
        """
        Measure both parts.

        Raises:
            GloomError: A first job has no answer.
        """
        around, options = self._around, self._report.options
        try:
            await self._warm_up()
            await self._measure("one_at_a_time", ClosedLoop(replace(around, masters=around.masters[:1]), 1))
            if options.rate is None:
                await self._measure("closed_loop", ClosedLoop(around, options.window))
            else:
                await self._measure("offered_rate", OfferedRate(around, options.rate))
        finally:
            self._ended = True

    async def _warm_up(self) -> None:
        """Have one job of each master done, so that a problem of all jobs shows before any is counted."""
        around = self._around
        for master in around.masters:
            answering = master.submit(around.type, around.body)
            try:
                await answering.addTimeout(_ANSWER_SECONDS, around.clock, onTimeoutCancel=_too_late)
            except (ServerError, TimedOut) as error:
                raise GloomError(f"the first job failed: {error}") from None
        if self._report.lost is not None:
            raise GloomError(f"the broker is lost: {self._report.lost}")

    async def _measure(self, part: str, load: Load) -> None:
        if self._report.lost is not None:
            return
        self._load = load
        tell(self._report.begin(part, load.figures))
        with progress(self._around.clock, load.tally, self._report.options):
            await load.run()

    def _watch(self, link: BrokerLink) -> None:
        lost = ("connection_lost", "it has ended a connection")
        if link.connection is None:
            self._lost(None, *lost)
        else:
            link.connection.ended.addBoth(self._lost, *lost)

    def _shuts_down(self, _result: object) -> None:
        self._lost(None, "draining", "it shuts down")

    def _lost(self, _result: object, code: str, why: str) -> None:
        if not self._ended and self._report.lost is None:
            self._report.lost = why
            if self._load is not None:
                self._load.finish(code)


def _too_late(_result: object, seconds: float) -> None:
    raise TimedOut(f"no answer within {seconds:g} s")


@dataclass(frozen=True)
class Around:
    """
    The peers, the jobs and the length of a load.

    Attributes:
        clock: Times the pauses and the end.
        now: Returns the seconds of a clock that cannot be set, for measuring.
        masters: Submit the jobs.
        type: The jobs' type.
        body: Their body.
        seconds: How long jobs are submitted, or None for no limit.
        jobs: How many are submitted, or None for no limit.
    """

    clock: IReactorTime
    now: Callable[[], float]
    masters: Sequence[Master]
    type: str
    body: str
    seconds: float | None
    jobs: int | None


class Load(ABC):
    """
    Submits the jobs of one part, and measures them.

    Args:
        around: The peers, the jobs and the length.

    Attributes:
        figures: The measurements.
        tally: The progress.
    """

    def __init__(self, around: Around) -> None:
        self.figures = Figures()
        self.tally = Tally(around.clock)
        self._around = around
        self._clock = around.clock
        self._now = around.now
        self._began = 0.0
        self._cpu_began = 0.0
        self._submitting = True
        self._unanswered = 0
        # Ends the submitting, and then the wait for answers; and a timer of the subclass.
        self._end: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._ended: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Submit until the limit is reached, then wait some seconds for the last answers."""
        self._began, self._cpu_began = self._now(), time.process_time()
        if self._around.seconds is not None:
            self._end = self._clock.callLater(self._around.seconds, self._submit_no_more)
        self.begin()
        try:
            await self._ended
        finally:
            self._cancel_calls()

    def finish(self, why: str = "no_answer") -> None:
        """End the part: unanswered jobs count as failed, with the code *why*."""
        if self._ended.called:
            return
        if self._submitting:
            self._stop_submitting()
        if self._unanswered:
            self.figures.failures[why] += self._unanswered
        self._cancel_calls()
        self._ended.callback(None)

    @abstractmethod
    def begin(self) -> None:
        """Submit the first jobs."""

    @abstractmethod
    def ended(self, master: Master, *, failed: bool) -> None:
        """A job of *master* has ended, while submitting goes on."""

    def submit(self, master: Master, due: float) -> None:
        """Submit one job; its latency counts from *due*."""
        self.figures.submitted += 1
        self._unanswered += 1
        if self.figures.submitted == self._around.jobs:
            self._submit_no_more()
        answering = master.submit(self._around.type, self._around.body)
        answering.addCallbacks(self._answered, self._failed, (master, due), errbackArgs=(master,))

    def _answered(self, _answer: Any, master: Master, due: float) -> None:
        if not self._ended.called:
            now = self._now()
            self.figures.latency.record(now - due)
            self.figures.seconds = now - self._began
            self._one_less(master, failed=False)

    def _failed(self, failure: Failure, master: Master) -> None:
        if not self._ended.called:
            error = failure.value
            self.figures.failures[error.error if isinstance(error, ServerError) else type(error).__name__] += 1
            self._one_less(master, failed=True)

    def _one_less(self, master: Master, *, failed: bool) -> None:
        self.tally.count(failed=failed)
        self._unanswered -= 1
        if self._submitting:
            self.ended(master, failed=failed)
        elif self._unanswered == 0:
            self.finish()

    def _submit_no_more(self) -> None:
        self._stop_submitting()
        if self._unanswered == 0:
            self.finish()
        else:
            self._end = self._clock.callLater(_ANSWER_SECONDS, self.finish)

    def _stop_submitting(self) -> None:
        self._submitting = False
        self._cancel_calls()
        self.figures.submitting_seconds = self._now() - self._began
        self.figures.cpu_seconds = time.process_time() - self._cpu_began

    def _cancel_calls(self) -> None:
        for call in (self._end, self._next):
            if call is not None and call.active():
                call.cancel()


class ClosedLoop(Load):
    """
    Keeps a number of unanswered jobs per master: when one ends, the next is submitted.

    Args:
        around: The peers, the jobs and the length.
        window: Unanswered jobs of each master.
    """

    def __init__(self, around: Around, window: int) -> None:
        super().__init__(around)
        self._window = window
        self._resting: list[Master] = []

    def begin(self) -> None:
        for master in self._window * list(self._around.masters):
            self._submit_now(master)

    def ended(self, master: Master, *, failed: bool) -> None:
        if not failed:
            self._submit_now(master)
            return
        self._resting.append(master)
        if self._next is None:
            self._next = self._clock.callLater(_REST_SECONDS, self._wake)

    def _submit_now(self, master: Master) -> None:
        if self._submitting:
            self.submit(master, self._now())

    def _wake(self) -> None:
        resting, self._resting, self._next = self._resting, [], None
        for master in resting:
            self._submit_now(master)


class OfferedRate(Load):
    """
    Submits jobs at an even rate, the masters in turn, whether answers come or not.

    A job's latency counts from the moment it was due, even if it left later:
    the figures include every delay.

    Args:
        around: The peers, the jobs and the length.
        rate: Jobs a second.
    """

    def __init__(self, around: Around, rate: int) -> None:
        super().__init__(around)
        self.figures.rate = rate
        self._rate = rate
        self._most_unanswered = max(1, min(_MOST_UNANSWERED, _MOST_UNANSWERED_BYTES // (len(around.body) + 1)))

    def begin(self) -> None:
        now, masters = self._now(), self._around.masters
        for _ in range(_MOST_A_TURN):
            due = self._due()
            if due > now or not self._submitting or self._unanswered >= self._most_unanswered:
                break
            self.figures.late.record(now - due)
            self.submit(masters[self.figures.submitted % len(masters)], due)
        if self._submitting:
            soonest = _BACKLOG_SECONDS if self._unanswered >= self._most_unanswered else 0.0
            self._next = self._clock.callLater(max(soonest, self._due() - self._now()), self.begin)

    def ended(self, master: Master, *, failed: bool) -> None:
        """Do nothing: the next job leaves when it is due."""

    def _due(self) -> float:
        return self._began + self.figures.submitted / self._rate
