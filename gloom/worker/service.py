"""
The worker's service: slots with child processes, and the slave that assigns jobs to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Unpack

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gloom.client.backoff import retry_delay_seconds
from gloom.client.options import ClientKeywords
from gloom.errors import GloomError, RequestRefused
from gloom.wire.messages import Fail
from gloom.worker.childprocess import Child, ChildError, WorkerDied
from gloom.worker.slave import ChildrenSlave

# Starts in a row that a signal may end before the worker has ever been ready: memory may be short for a while.
_MOST_EARLY_DEATHS = 5


class Refused(GloomError):
    """
    The broker has refused the worker's first join.

    Attributes:
        error: The broker's refusal.
    """

    def __init__(self, error: RequestRefused) -> None:
        super().__init__(str(error))
        self.error = error


class NotStarted(ChildError):
    """The system could not start a process for a child."""

    def __init__(self, error: OSError) -> None:
        super().__init__(Fail(f"the system cannot start a process: {error.strerror}", kind="WorkerDied", retry=True))


class Slot:
    """
    Keeps one child alive: when it ends, the next one starts.

    Args:
        clock: Times the pauses between failed starts.
        start: Starts a child.
        serve: Called with a child that is ready: it takes jobs from now on.
        dismiss: Called with a child that has ended: it takes no more jobs.
        cannot_start: Called with the error when a child could not start, and the number of
            failures in a row; returns whether to try again.

    Attributes:
        child: The present child, or the last one; None before the first.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        start: Callable[[], Child],
        serve: Callable[[Child], None],
        dismiss: Callable[[Child], None],
        cannot_start: Callable[[ChildError, int], bool],
    ) -> None:
        self.child: Child | None = None
        self._clock = clock
        self._start = start
        self._serve = serve
        self._dismiss = dismiss
        self._cannot_start = cannot_start
        self._serving = False
        self._pause: Deferred[None] | None = None
        self._stopping = False
        self._failures = 0

    def start(self) -> None:
        """Start the first child."""
        self._ended = Deferred.fromCoroutine(self._run())

    def begin_to_stop(self) -> None:
        """Start no more children; a child with a job finishes it."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        if not self._serving:
            self.kill()

    def kill(self) -> None:
        """Kill the child."""
        if self.child is not None:
            self.child.kill()

    @property
    def busy(self) -> bool:
        """Whether the child has a job."""
        return self.child is not None and self.child.busy

    async def stop(self) -> bool:
        """End the child; return whether this ended a job."""
        cut = self.busy
        if self.child is not None and self._serving and not cut:
            self.child.end()
        else:
            self.kill()
        await self._ended
        return cut

    async def _run(self) -> None:
        while not self._stopping:
            try:
                child = self.child = await self._ready_child()
            except ChildError as error:
                self._failures += 1
                if self._stopping or not self._cannot_start(error, self._failures):
                    return
            else:
                await self._serve_until_it_ends(child)
            await self._wait_before_the_next()

    async def _ready_child(self) -> Child:
        try:
            child = self.child = self._start()
        except OSError as error:
            raise NotStarted(error) from None
        try:
            await child.ready
        except ChildError:
            child.end()
            await child.ended
            raise
        return child

    async def _serve_until_it_ends(self, child: Child) -> None:
        self._serving = True
        self._serve(child)
        how = await child.ended
        self._serving = False
        # Before its job fails: the broker must not assign the job to this slot again.
        self._dismiss(child)
        # A pause before the next start, if the child has died without a job.
        self._failures = 0 if child.worked else self._failures + 1
        if not self._stopping and not child.busy:
            self.log.warn("{how}, without a job; another one starts", how=how)

    async def _wait_before_the_next(self) -> None:
        if self._failures and not self._stopping:
            self._pause = deferLater(self._clock, retry_delay_seconds(self._failures))
            with suppress(CancelledError):
                await self._pause
            self._pause = None


class Worker(Service):
    """
    Takes jobs from the broker and runs them in child processes.

    Args:
        start: Starts a child; see `gloom.worker.childprocess.start_child`.
        types: The job types, one or more.
        endpoint: The broker's slave port, as for `Slave`; the log shows its text.
        reactor: The clock; connects, if *endpoint* is a string.
        concurrency: Number of jobs at a time, each in a process of its own.
        finish_seconds: How long stopping waits for running jobs.
        options: See `gloom.client.options.ClientOptions`.

    Attributes:
        broken: Fails if the worker cannot work: with a `ChildError` if no child can
            start, with `Refused` if the broker refuses its first join.
    """

    log = Logger()

    def __init__(
        self,
        start: Callable[[], Child],
        types: Sequence[str],
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: IReactorTime,
        concurrency: int = 1,
        finish_seconds: float = 30.0,
        **options: Unpack[ClientKeywords],
    ) -> None:
        self.broken: Deferred[None] = Deferred()
        self._slave = ChildrenSlave(
            endpoint,
            types,
            concurrency,
            self._join_refused,
            reactor=reactor,
            finish_seconds=finish_seconds,
            **options,
        )
        self._was_ready = False
        self._slots = [
            Slot(reactor, start, self._serve, self._slave.dismiss, self._cannot_start) for _ in range(concurrency)
        ]

    @property
    def busy(self) -> int:
        """Number of running jobs."""
        return sum(slot.busy for slot in self._slots)

    def startService(self) -> None:
        super().startService()
        for slot in self._slots:
            slot.start()

    def stopService(self) -> Deferred[int]:
        """
        Take no more jobs, finish the running ones, and end the children.

        Returns:
            Fires with the number of jobs that took longer than *finish_seconds*
            and were ended; the broker gives them to other slaves.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def kill(self) -> None:
        """Kill the children, with all processes that they have started, and start no others."""
        for slot in self._slots:
            slot.begin_to_stop()
        for slot in self._slots:
            slot.kill()

    async def _stop(self) -> int:
        for slot in self._slots:
            slot.begin_to_stop()
        await self._slave.stopService()
        stops = [Deferred.fromCoroutine(slot.stop()) for slot in self._slots]
        cut = sum([await stop for stop in stops])
        self._slave.stop_reading()
        return cut

    def _serve(self, child: Child) -> None:
        self._slave.admit(child)
        if not self._was_ready:
            self._was_ready = True
            self._slave.startService()

    def _cannot_start(self, error: ChildError, failures: int) -> bool:
        if self._was_ready or (_may_pass(error) and failures < _MOST_EARLY_DEATHS):
            # A child has started before, or the cause is temporary: the next start may succeed.
            self.log.error("cannot start a worker process: {error}", error=error)
            return True
        self._break(error)
        return False

    def _join_refused(self, error: RequestRefused) -> None:
        self._break(Refused(error))

    def _break(self, error: GloomError) -> None:
        if not self.broken.called:
            self.broken.errback(error)


def _may_pass(error: ChildError) -> bool:
    """Return whether another start may succeed: resources were short, or a signal ended this child."""
    return isinstance(error, NotStarted) or (isinstance(error, WorkerDied) and error.by_signal)
