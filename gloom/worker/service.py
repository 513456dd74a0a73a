"""
The worker: slots, each with one child process after the other, and one slave that gives them jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Unpack

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from gloom.client.deferred.link import retry_delay_seconds
from gloom.client.options import ClientKeywords
from gloom.errors import GloomError, RequestRefused
from gloom.wire.messages import Fail
from gloom.worker.pool import Child, ChildError, WorkerDied
from gloom.worker.slave import ChildrenSlave

# Starts in a row that may end by a signal before the worker has ever been ready: memory may be short for a while.
_MOST_EARLY_DEATHS = 5


class Refused(GloomError):
    """
    The broker refuses the worker's first join.

    Attributes:
        error: The broker's refusal.
    """

    def __init__(self, error: RequestRefused) -> None:
        super().__init__(str(error))
        self.error = error


class NotStarted(ChildError):
    """The system has no process for a child now."""

    def __init__(self, error: OSError) -> None:
        super().__init__(Fail(f"the system cannot start a process: {error.strerror}", kind="WorkerDied", retry=True))


class Slot:
    """
    Has one job done at a time, by one child after the other.

    Args:
        reactor: Clock, and what starts processes.
        start: Starts a child.
        serve: Gives jobs to a child that is ready, until `dismiss`.
        dismiss: Gives no more jobs to a child: it has ended.
        cannot_start: Takes the reason why a child could not start, and the number of failures in a row;
            returns whether to try on.

    Attributes:
        child: The present child, or the last one; None before the first.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        start: Callable[[], Child],
        serve: Callable[[Child], None],
        dismiss: Callable[[Child], None],
        cannot_start: Callable[[ChildError, int], bool],
    ) -> None:
        self.child: Child | None = None
        self._reactor = reactor
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
        """Start no more children; a child that serves goes on with its job."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        if not self._serving:
            self.kill()

    def kill(self) -> None:
        """End the child now."""
        if self.child is not None:
            self.child.kill()

    @property
    def busy(self) -> bool:
        """Whether the child is at a job."""
        return self.child is not None and self.child.busy

    async def stop(self) -> bool:
        """End the child; return whether its job had to be cut off."""
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
        # Before its job fails: the broker must not give it to this slot again.
        self._dismiss(child)
        # One that dies without having worked would be started again and again.
        self._failures = 0 if child.worked else self._failures + 1
        if not self._stopping and not child.busy:
            self.log.warn("{how}, without a job; another one starts", how=how)

    async def _wait_before_the_next(self) -> None:
        if self._failures and not self._stopping:
            self._pause = deferLater(self._reactor, retry_delay_seconds(self._failures))
            with suppress(CancelledError):
                await self._pause
            self._pause = None


class Worker(Service):
    """
    Takes jobs and has them done in child processes.

    Args:
        start: Starts a child; see `gloom.worker.pool.start_child`.
        types: The job types, one or more.
        endpoint: The broker's slave port, as for `Slave`; its text is what the log says.
        reactor: Clock, and what a string connects with.
        concurrency: How many jobs run at once, each in a process of its own.
        finish_seconds: How long stopping waits for the jobs in hand.
        options: See `gloom.client.options.ClientOptions`.

    Attributes:
        broken: Fails if the worker can do nothing: with a `ChildError` if no child can
            be started at all, with `Refused` if the broker refuses its first join.
    """

    log = Logger()

    def __init__(
        self,
        start: Callable[[], Child],
        types: Sequence[str],
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any,
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
        """How many jobs run."""
        return sum(slot.busy for slot in self._slots)

    def startService(self) -> None:
        super().startService()
        for slot in self._slots:
            slot.start()

    def stopService(self) -> Deferred[int]:
        """
        Take no more jobs, finish those in hand, and end the children.

        Returns:
            Fires with how many jobs were cut off, because they took longer
            than *finish_seconds*; the broker gives them to other slaves.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def kill(self) -> None:
        """End the children, and all that they have started, at once, and start no others."""
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
            # A child has started before, or the cause may pass: perhaps the next start goes well.
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
    """Return whether another start may go well: the system was short of something, or a signal ended this one."""
    return isinstance(error, NotStarted) or (isinstance(error, WorkerDied) and error.by_signal)
