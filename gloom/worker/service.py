"""
The worker: slots that take jobs and have them done in child processes.

A slot is one child and the slave that lives as long as that child: it joins
when the child is ready, and leaves before it says that the child has died, so
that a job is never given to a process that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import structs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python.failure import Failure

from gloom.client.connection import BrokerConnection
from gloom.client.link import default_name, retry_delay_seconds
from gloom.client.run import Run, current_job
from gloom.client.session import Assignment
from gloom.client.slave import Slave
from gloom.client.tls import ClientTLS
from gloom.errors import RequestRefused, TransportError
from gloom.messages import Fail
from gloom.worker.pipe import Job, encode_job
from gloom.worker.pool import Child, ChildError

_ONLY_ERRORS = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)


class Presence:
    """
    Says once, for all slots, whether the broker is there.

    Args:
        types: The job types.
        address: Where the broker is.
        concurrency: How many slots there are.
    """

    log = Logger()

    def __init__(self, types: Sequence[str], address: str, concurrency: int) -> None:
        self._fields = {"type": ", ".join(types), "address": address, "concurrency": concurrency}
        self._again = ""
        self._there: bool | None = None

    def connected(self) -> None:
        """A slot's slave has reached the broker."""
        if not self._there:
            self._there = True
            self.log.info(
                "joined {type} at {address}{again} ({concurrency} at once)", again=self._again, **self._fields
            )
            self._again = " again"

    def unreachable(self, why: BaseException | None) -> None:
        """A slot's slave has not reached the broker."""
        if self._there is None:
            self._there = False
            refused = why is not None and isinstance(why.__cause__, RequestRefused)
            what = "the broker at {address} does not let it in" if refused else "no broker at {address}"
            self.log.warn(what + ": {why}; trying on", why=why, **self._fields)

    def disconnected(self) -> None:
        """A slot's slave has lost the broker."""
        if self._there:
            self._there = False
            self.log.warn("the broker at {address} is gone; trying on", **self._fields)


class ChildSlave(Slave):
    """
    The slave of one child.

    Args:
        presence: Is told of the broker.
        endpoint: Where the broker is.
        types: The job types.
        child: What does the jobs; it is ready.
        options: What `Slave` takes by name.
    """

    # The presence tells of connections for all slots, and the slot of failures.
    log = Logger(observer=FilteringLogObserver(globalLogPublisher, [_ONLY_ERRORS]))
    jobs_log = Logger()

    def __init__(
        self,
        presence: Presence,
        endpoint: IStreamClientEndpoint | str,
        types: Sequence[str],
        child: Child,
        **options: Any,
    ) -> None:
        super().__init__(endpoint, types[0] if len(types) == 1 else types, child.run, **options)
        self._child = child
        self._presence = presence

    def startService(self) -> None:
        super().startService()
        self.when_connected(attempts=1).addErrback(self._unreachable)

    def _unreachable(self, failure: Failure) -> None:
        failure.trap(TransportError)
        if self.running:
            self._presence.unreachable(failure.value)

    def connected(self, connection: BrokerConnection) -> None:
        self._presence.connected()
        # A run that the last connection took along may not have ended.
        self._child.when_free().addCallback(lambda _: self._join(connection))

    def _join(self, connection: BrokerConnection) -> None:
        if self.running and not connection.closed:
            super().connected(connection)

    def disconnected(self) -> None:
        if self.running:
            self._presence.disconnected()
        super().disconnected()

    def run(self, job: Assignment, max_answer_bytes: int) -> Deferred[Any]:
        told = current_job().progress
        return self._child.run(encode_job(Job(job.id, job.type, max_answer_bytes, job.body)), told)

    def revoke(self, run: Run) -> None:
        # Whatever it is at, nobody waits for it; the slot starts another child.
        self.jobs_log.info("job {id!r} of {type} is cancelled: its process is killed", id=run.job.id, type=run.job.type)
        self._child.kill()

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        error = failure.value
        told = (
            structs.replace(error.fail, id=job.id) if isinstance(error, ChildError) else super().describe(job, failure)
        )
        self.jobs_log.warn(
            "job {id!r} of {type} failed{again}: {kind}: {reason}",
            id=job.id,
            type=job.type,
            again=" and asks for another try" if told.retry else "",
            kind=told.kind,
            reason=_one_line(told.reason),
        )
        self.jobs_log.debug("job {id!r}: {traceback}", id=job.id, traceback=told.traceback or told.reason)
        return told


def _one_line(text: str) -> str:
    lines = text.splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} [...]"


class Slot:
    """
    Has one job done at a time, by one child after the other.

    Args:
        reactor: Clock, and what starts processes.
        start: Starts a child.
        serve: Makes the slave of a child that is ready.
        cannot_start: Is told why a child could not start; returns whether to try on.

    Attributes:
        child: The present child; the first one once `start` was called.
    """

    log = Logger()
    child: Child

    def __init__(
        self,
        reactor: Any,
        start: Callable[[], Child],
        serve: Callable[[Child], Slave],
        cannot_start: Callable[[ChildError], bool],
    ) -> None:
        self._reactor = reactor
        self._start = start
        self._serve = serve
        self._cannot_start = cannot_start
        self._slave: Slave | None = None
        self._pause: Deferred[None] | None = None
        self._stopping = False
        self._failures = 0

    def start(self) -> None:
        """Start the first child."""
        self._ended = Deferred.fromCoroutine(self._run())

    async def stop(self) -> bool:
        """Finish the job in hand, and end the child; return whether the job had to be cut off."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        serving = self._slave is not None
        if self._slave is not None:
            await self._slave.stopService()
        cut = self.child.busy
        if serving and not cut:
            self.child.end()
        else:
            self.child.kill()
        await self._ended
        return cut

    async def _run(self) -> None:
        while not self._stopping:
            self.child = self._start()
            try:
                await self.child.ready
            except ChildError as error:
                self.child.end()
                await self.child.ended
                if self._stopping or not self._cannot_start(error):
                    return
                self._failures += 1
            else:
                await self._serve_until_it_ends(self.child)
            await self._wait_before_the_next()

    async def _serve_until_it_ends(self, child: Child) -> None:
        slave = self._slave = self._serve(child)
        slave.startService()
        how = await child.ended
        self._slave = None
        # One that dies without having worked would be started again and again.
        self._failures = 0 if child.worked else self._failures + 1
        if self._stopping:
            return
        if not child.busy:
            self.log.warn("{how}, without a job; another one starts", how=how)
        # It leaves before the child, whose job fails next, lets it say so.
        await slave.stopService()

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
        name: How the broker names this worker; ``host:pid`` when absent. With
            several slots each adds a number to it.
        finish_seconds: How long stopping waits for the jobs in hand.
        token: Tells a broker with access rules who this is; None for nobody.
        tls: How TLS is spoken where *endpoint* is a string; None for not at all.

    Attributes:
        broken: Fails with a `ChildError` if no child can be started at all.
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
        name: str | None = None,
        finish_seconds: float = 30.0,
        token: str | None = None,
        tls: ClientTLS | None = None,
    ) -> None:
        self.broken: Deferred[None] = Deferred()
        self._was_ready = False
        self._presence = Presence(types, str(endpoint), concurrency)
        self._new_slave = partial(
            ChildSlave,
            self._presence,
            endpoint,
            types,
            reactor=reactor,
            finish_seconds=finish_seconds,
            token=token,
            tls=tls,
        )
        self._slots = [
            Slot(reactor, start, partial(self._serve, one), self._cannot_start)
            for one in _names(name or default_name(), concurrency)
        ]

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return sum(slot.child.busy for slot in self._slots)

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
        """End the children, and all that they have started, at once."""
        for slot in self._slots:
            slot.child.kill()

    async def _stop(self) -> int:
        stops = [Deferred.fromCoroutine(slot.stop()) for slot in self._slots]
        return sum([await stop for stop in stops])

    def _serve(self, name: str, child: Child) -> Slave:
        self._was_ready = True
        return self._new_slave(child, name=name)

    def _cannot_start(self, error: ChildError) -> bool:
        if self._was_ready:
            # It could a while ago: perhaps it can again.
            self.log.error("cannot start a worker process: {error}", error=error)
        elif not self.broken.called:
            self.broken.errback(error)
        return self._was_ready


def _names(name: str, concurrency: int) -> list[str]:
    if concurrency == 1:
        return [name]
    return [f"{name[:250]}/{number}" for number in range(1, concurrency + 1)]
