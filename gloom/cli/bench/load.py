"""
Echo masters and slaves around a user's broker, and the jobs between them: what ``gloom bench`` does.
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

# For the first answers; and for the last ones, after the last submit.
_ANSWER_SECONDS = 10.0
# After a job that failed, so that a broker that has no room is not flooded.
_REST_SECONDS = 0.05
# Jobs that leave together when many are due: answers are read in between.
_MOST_A_TURN = 100
# Of an offered rate: what is due beyond that is late.
_MOST_UNANSWERED = 100_000
_MOST_UNANSWERED_BYTES = 256 * MIB
_BACKLOG_SECONDS = 0.001


@provider(ILogObserver)
def only_failures(event: LogEvent) -> None:
    """Say of the log what is a bug; that the broker is gone is told once, and not by each peer."""
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
        joined: Fires when the broker has answered the first ``join``; with
            `gloom.errors.RequestRefused` if it does not take this slave.
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
        pass  # which says best what is wrong with the place
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
    Both parts, one after the other; a broker that is lost ends them.

    Args:
        clock: Times the pauses and the end of each part.
        masters: Connected.
        slaves: They have joined.
        report: Says what to do, and is told what was measured.
        now: Seconds, for what is measured; the system's clock may be set meanwhile.
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
        """Have one job of each master done: what is wrong with all jobs is said before they are counted."""
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
    What a load is made of.

    Attributes:
        clock: For the times that are waited.
        now: Returns the seconds of what is measured; not the system's time, which may be set meanwhile.
        masters: Who submits.
        type: The jobs' type.
        body: Their body.
        seconds: How long they are submitted, or None.
        jobs: How many are submitted, or None.
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
    The jobs of one part: submits them, and measures.

    Args:
        around: What and how long.

    Attributes:
        figures: What is measured.
        tally: How far it is.
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
        # When to submit no more, and then when to wait no more; and what a subclass waits for.
        self._end: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._ended: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Submit until it is time to stop, and wait for the answers; those that take too long are given up."""
        self._began, self._cpu_began = self._now(), time.process_time()
        if self._around.seconds is not None:
            self._end = self._clock.callLater(self._around.seconds, self._submit_no_more)
        self.begin()
        try:
            await self._ended
        finally:
            self._cancel_calls()

    def finish(self, why: str = "no_answer") -> None:
        """End it: what is unanswered has failed, with the code *why*."""
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
        """Learn that a job of *master* has ended, while more may be submitted."""

    def submit(self, master: Master, due: float) -> None:
        """Submit one job, whose latency counts from *due*."""
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
    Each master has so many jobs unanswered: where one ends, the next is submitted.

    Args:
        around: What and how long.
        window: How many each.
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
    Jobs at an even rate, the masters in turn, whether answers come or not.

    A job's latency counts from when it was due, also where it could not leave
    then: what stands still is not left out of the figures.

    Args:
        around: What and how long.
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
        """Nothing: the next one leaves when it is due."""

    def _due(self) -> float:
        return self._began + self.figures.submitted / self._rate
