"""
The worker's slave: its one connection to the broker assigns jobs to free children.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from msgspec import Raw, structs
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IStreamClientEndpoint
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python.failure import Failure

from gloom.client.backoff import retry_delay_seconds
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.run import Run
from gloom.client.deferred.slavelink import SlaveLink
from gloom.client.session import Assignment, Event, Reply
from gloom.errors import Busy, Draining, RequestRefused, TransportError
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.escapes import printable
from gloom.wire.messages import ExtendedJoin, Fail, Leave
from gloom.worker.childprocess import Child, ChildError
from gloom.worker.pipe import Job
from gloom.worker.tracebacks import RecentTracebacks

# Refusals of a join that are temporary.
_PASSING = frozenset({Busy.code, Draining.code})
_ONLY_ERRORS = LogLevelFilterPredicate(defaultLogLevel=LogLevel.error)
_LONGEST_REASON = 1000


class NoChild(ChildError):
    """The broker assigned a job to the slot of a child that has just died."""

    def __init__(self) -> None:
        super().__init__(Fail("the worker process that it came for has died", kind="WorkerDied", retry=True))


class CannotDo(ChildError):
    """A job could not be written to a process, or its answer could not be sent."""

    def __init__(self, problem: str, error: Exception) -> None:
        super().__init__(Fail(f"{problem}: {error!r}"[:_LONGEST_REASON], kind=type(error).__name__))


class ChildrenSlave(SlaveLink):
    """
    Assigns each job to the child that has been free longest.

    It joins with one slot for each child that is free or has a job of this
    connection, and joins again whenever that number changes. Without a child it
    leaves, and stays connected.

    Args:
        endpoint: The broker's slave port; the log shows its text.
        types: The job types.
        concurrency: Number of children.
        refused: Called with the error if the broker refuses the first join; the join is not repeated then.
        options: Keyword arguments of `SlaveLink`.
    """

    # Errors only: this class itself logs connections, in words for the user.
    log = Logger(observer=FilteringLogObserver(globalLogPublisher, [_ONLY_ERRORS]))
    own_log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        types: Sequence[str],
        concurrency: int,
        refused: Callable[[RequestRefused], None],
        **options: Any,
    ) -> None:
        super().__init__(endpoint, types[0] if len(types) == 1 else types, slots=concurrency, **options)
        self._fields = {"type": ", ".join(types), "address": str(endpoint), "concurrency": concurrency}
        self._refused = refused
        # Whether the broker has accepted a join: ever, and on this connection.
        self._has_joined = self._is_joined = False
        self._refusals = 0
        self._next_join: IDelayedCall | None = None
        self._tracebacks = RecentTracebacks(self._clock.seconds)
        self._free: deque[Child] = deque()
        self._working: dict[Child, Run] = {}
        if SocketPoll.is_possible(self._reactor):
            # A worker's output never waits for more to be sent with it: the second FlushTurn stays empty.
            self._poll = SocketPoll(cast(IReactorFDSet, self._reactor), self._flushes, FlushTurn(self._clock))

    # Its children

    def admit(self, child: Child) -> None:
        """Assign jobs to *child*, which is new and ready."""
        if self._poll is not None:
            child.read_by(self._poll)
        self._is_free(child)

    def _is_free(self, child: Child) -> None:
        self._free.append(child)
        self._join_anew()

    def dismiss(self, child: Child) -> None:
        """Assign no more jobs to *child*: it has ended, and its job fails after this call."""
        if self._working.pop(child, None) is None:
            with suppress(ValueError):  # it had an abandoned job
                self._free.remove(child)
        self._join_anew()

    def _join_anew(self) -> None:
        if self.connection is not None:
            self._join(self.connection)

    def _join(self, connection: BrokerConnection) -> None:
        slots = len(self._free) + len(self._working)
        connection.ask(structs.replace(self.joining, slots=slots) if slots else Leave())

    def stop_reading(self) -> None:
        """Stop the poll: the children and the connection have ended."""
        if self._poll is not None:
            self._poll.stop()

    # Jobs

    def begin(self, run: Run) -> None:
        if not self._free:
            self.failed(Failure(NoChild()), run)
            self.done(run)
            return
        child = self._free.popleft()
        self._working[child] = run
        job = run.job
        on_end = partial(self._run_ended, run, child)
        try:
            child.run(Job(job.id, job.type, run.max_answer_bytes(), job.body), on_end, run.tell)
        except Exception as error:
            # Out of memory, for example: the other jobs go on.
            on_end(CannotDo("the job could not be given to a worker process", error))

    def _run_ended(self, run: Run, child: Child, result: Raw | ChildError) -> None:
        if isinstance(result, Raw):
            self._answer(run, result)
        else:
            self.failed(Failure(result), run)
        if self._working.pop(child, None) is not None:  # else it has ended
            self._free.append(child)
        self.done(run)

    def _answer(self, run: Run, body: Raw) -> None:
        try:
            self.answer(run, body)
        except Exception as error:
            self.failed(Failure(CannotDo("the answer could not be sent", error)), run)

    def cancel(self, run: Run) -> None:
        # Its connection is lost: the child becomes free after the job, or is killed.
        child = self._at(run)
        del self._working[child]
        child.abandon()
        child.when_free().addCallback(lambda _: self._is_free_again(child))
        self.done(run)

    def _is_free_again(self, child: Child) -> None:
        if not child.ended.called:
            self._is_free(child)

    def revoke(self, run: Run) -> None:
        # Nobody waits for its result; another child replaces the killed one.
        self.own_log.info("job {id!r} of {type} is cancelled: its process is killed", id=run.job.id, type=run.job.type)
        self._at(run).kill()

    def _at(self, run: Run) -> Child:
        return next(child for child, its_run in self._working.items() if its_run is run)

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        error = failure.value
        assert isinstance(error, ChildError)  # noqa: S101 (nothing else comes from a child)
        told = structs.replace(error.fail, id=job.id)
        self.own_log.warn(
            "job {id!r} of {type} failed{again}: {kind}: {reason}",
            id=job.id,
            type=job.type,
            again=" and asks for another try" if told.retry else "",
            kind=told.kind,
            reason=printable(_one_line(told.reason)),
        )
        level = LogLevel.warn if self._tracebacks.admit(told) else LogLevel.debug
        details = _printable_lines(told.traceback or told.reason)
        self.own_log.emit(level, "job {id!r} of {type}: {details}", id=job.id, type=job.type, details=details)
        return told

    # The broker

    def startService(self) -> None:
        super().startService()
        self.when_connected(attempts=1).addErrback(self._unreachable)

    def _unreachable(self, failure: Failure) -> None:
        why: Any = failure.trap(TransportError) and failure.value
        if self.running:
            refused = isinstance(why.__cause__, RequestRefused)
            problem = "the broker at {address} refuses this worker" if refused else "no broker at {address}"
            self.own_log.warn(problem + ": {why}; trying again", why=why, **self._fields)

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        if type(event) is Reply:
            request = type(event.request)
            if request is ExtendedJoin:
                self._join_answered(event.error)
                return
            if request is Leave and not self._has_joined:
                # Nothing was joined: a refused leave has no consequence.
                event = Reply(event.request, None, event.message)
        super().heard(connection, event)

    def _join_answered(self, error: RequestRefused | None) -> None:
        if error is None:
            self._joined()
        elif self._has_joined or error.error in _PASSING:
            self._join_later(error)
        else:
            self._refused(error)

    def _joined(self) -> None:
        self._refusals = 0
        if not self._is_joined:
            again = " again" if self._has_joined else ""
            self.own_log.info("joined {type} at {address}{again} ({concurrency} at once)", again=again, **self._fields)
        self._has_joined = self._is_joined = True

    def _join_later(self, error: RequestRefused) -> None:
        if not self._refusals:
            self.own_log.error("the broker at {address} refuses {type}: {why}; trying again", why=error, **self._fields)
        self._refusals += 1
        self._stop_joining()
        self._next_join = self._reactor.callLater(retry_delay_seconds(self._refusals), self._join_next)

    def _join_next(self) -> None:
        self._next_join = None
        self._join_anew()

    def _stop_joining(self) -> None:
        if self._next_join is not None:
            self._next_join.cancel()
            self._next_join = None

    def give_up(self) -> None:
        self._stop_joining()

    def connected(self, connection: BrokerConnection) -> None:
        self._join(connection)

    def disconnected(self) -> None:
        self._stop_joining()
        self._is_joined = False
        if self.running:
            self.own_log.warn("the broker at {address} is gone; trying again", **self._fields)
        super().disconnected()


def _printable_lines(text: str) -> str:
    # An exception may quote the body of its job, and with it an escape sequence for the terminal.
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())


def _one_line(text: str) -> str:
    lines = text.splitlines() or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} [...]"
