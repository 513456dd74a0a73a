"""
One child process, as its parent sees it: its pipes, its signals, the outcome of its job; no broker.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec import MsgspecError, Raw
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from gloom.errors import GloomError
from gloom.reactor import IProcessReactor
from gloom.transport.polling import SocketPoll
from gloom.wire.framebuffer import FrameBuffer
from gloom.wire.messages import Fail
from gloom.worker.lifetime import STOP_SIGNALS
from gloom.worker.pipe import (
    ANSWER,
    FAILURE,
    JOBS_FD,
    NO_JOB,
    NUMBER_BYTES,
    OUTCOMES_FD,
    PROGRESS,
    READY,
    UNUSABLE,
    Job,
    decode_failure,
    encode_job,
    frame_of,
    job_number,
)

# Capacity of a pipe.
_READ_BYTES = 1 << 16
# Time for an abandoned run to end: most jobs end sooner than a new process would be ready.
_ABANDONED_SECONDS = 1.0
# Time for an idle child to end: the threads of its functions, and atexit.
_ENDING_SECONDS = 5.0
# Time for a child to end after it has closed a pipe: an ending process closes its pipes first.
_CLOSED_SECONDS = 1.0
# A payload's kind and the number of its job.
_HEAD_BYTES = 1 + NUMBER_BYTES
# More than the texts of a failure can have.
_LONGEST_FAILURE_BYTES = 1 << 20


class ChildError(GloomError):
    """
    A child did not answer a job.

    Attributes:
        fail: The failure for the master, without the job's id.
    """

    def __init__(self, fail: Fail) -> None:
        super().__init__(f"{fail.kind}: {fail.reason}")
        self.fail = fail


class WorkerDied(ChildError):
    """
    The child ended while it had the job in hand, or before it was ready.

    Attributes:
        by_signal: Whether a signal has ended it.
    """

    def __init__(self, how: str, by_signal: bool = False) -> None:
        super().__init__(Fail(f"the worker process {how}", kind="WorkerDied", retry=True))
        self.by_signal = by_signal


class Unusable(ChildError):
    """The child could not load the function or the program."""


class Child(ProcessProtocol):
    """
    One child; make it with `start_child`.

    Args:
        clock: Limits the time of an abandoned run, and of the end.

    Attributes:
        ready: Fires when the child can take jobs, or fails with a `ChildError`.
        ended: Fires with a text when the process has ended, before its job fails.
        pid: The id of the process, and of its group.
        number: The number of the job in hand, or of the last one.
    """

    pid: int

    def __init__(self, clock: IReactorTime) -> None:
        self.ready: Deferred[None] = Deferred()
        self.ended: Deferred[str] = Deferred()
        self.number = NO_JOB
        self._count = 0
        self._died: WorkerDied | None = None
        # The reason why the worker killed the process; None if it did not.
        self._why: str | None = None
        # Whether it has closed a pipe, without being asked to end.
        self._deaf = self._ending = False
        self._longest_payload_bytes = _LONGEST_FAILURE_BYTES
        self._clock = clock
        self._buffer = FrameBuffer()
        # The poll that reads its pipe, None for the reactor; and the pipe's descriptor.
        self._poll: SocketPoll | None = None
        self._outcomes_fd = -1
        self._jobs_fd: int | None = None
        self._busy = False
        # Receive the outcome and the progress of the running job; None after `abandon`.
        self._on_end: Callable[[Raw | ChildError], object] | None = None
        self._on_progress: Callable[[Raw], object] | None = None
        self._free: Deferred[None] | None = None
        self._limit: IDelayedCall | None = None

    # Called by its owner

    @property
    def busy(self) -> bool:
        """Whether a job runs, even an abandoned one."""
        return self._busy

    @property
    def worked(self) -> bool:
        """Whether it has ever had a job."""
        return self._count > 0

    def run(
        self,
        job: Job,
        on_end: Callable[[Raw | ChildError], object],
        on_progress: Callable[[Raw], object] | None = None,
    ) -> None:
        """
        Start a job; one at a time, see `when_free`.

        Args:
            job: The job.
            on_end: Called once, unless the job is abandoned: with the answer, as JSON, or
                with an error, if the job failed or the process ended.
            on_progress: Called with each progress report, as JSON.
        """
        if self._died is not None:
            on_end(self._died)
            return
        number = job_number(self._count + 1)
        frame = frame_of(number, encode_job(job))
        self._count += 1
        self.number = number
        self._busy = True
        self._longest_payload_bytes = max(_LONGEST_FAILURE_BYTES, job.max_answer_bytes) + _HEAD_BYTES
        self._on_end, self._on_progress = on_end, on_progress
        self._send(frame)

    def abandon(self) -> None:
        """Drop the outcome of the running job; if it does not end soon, the process is killed."""
        self._on_end = self._on_progress = None
        self._kill_after(_ABANDONED_SECONDS)

    def when_free(self) -> Deferred[None]:
        """Return a Deferred that fires when no job runs; it replaces an earlier one."""
        self._free = Deferred()
        free = self._free
        self._tell_if_free()
        return free

    def end(self) -> None:
        """Have the process end after its job; it is killed if that takes long."""
        self._ending = True
        if self._died is None:
            self._kill_after(_ENDING_SECONDS)
        self._process.closeChildFD(JOBS_FD)

    def kill(self) -> None:
        """Kill the process, and all processes that it has started."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
            self._kill_group()

    def read_by(self, poll: SocketPoll) -> None:
        """Have *poll* read the pipe, instead of the reactor."""
        pipe = self._process.pipes[OUTCOMES_FD]
        pipe.stopReading()
        self._poll, self._outcomes_fd = poll, pipe.fileno()
        poll.add(self._outcomes_fd, self)

    # Events of the process

    def read_socket(self) -> None:
        """Read the pipe once; called by the poll when there is something to read."""
        try:
            data = os.read(self._outcomes_fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.childDataReceived(OUTCOMES_FD, data)
        else:
            self._read_by_reactor()

    def _read_by_reactor(self) -> None:
        """Have the reactor read again: it handles the end of the pipe."""
        if self._poll is not None:
            self._poll.remove(self._outcomes_fd)
            self._poll = None
            self._process.pipes[OUTCOMES_FD].startReading()

    def abort(self) -> None:
        """As `kill`; called by the poll if reading has raised an exception."""
        self._read_by_reactor()
        self.kill()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        for payload in self._buffer.payloads_of(data):
            if self._why is None:
                self._heard(payload)
        if self._buffer.needed > self._longest_payload_bytes:
            self._distrust(f"a payload of {self._buffer.needed} bytes")

    def childConnectionLost(self, childFD: int) -> None:
        if childFD == JOBS_FD:
            # The system may reuse its number.
            self._jobs_fd = None
        if not self._ending and not self._deaf:
            # Usually the process ends now; else the job's code has closed the worker's descriptor by mistake.
            self._deaf = True
            self._kill_after(_CLOSED_SECONDS, "closed its pipe to its parent, and was killed")

    def connectionMade(self) -> None:
        self.pid = self._process.pid
        self._jobs_fd = self._process.pipes[JOBS_FD].fileno()

    def processExited(self, reason: Failure) -> None:
        # Its own child processes may hold the pipes, and their work is useless now.
        self._kill_group()
        try:
            self._read_the_rest()
        finally:
            # A daemon that it has started may hold them for ever: the attempt ends with the process.
            self._close_pipes()

    def _read_the_rest(self) -> None:
        """Read the remaining output of the process, and no later output of other processes."""
        pipe = self._process.pipes.get(OUTCOMES_FD)
        rest = 0 if pipe is None else _unread_bytes(pipe.fileno())
        while rest and (data := os.read(pipe.fileno(), rest)):
            rest -= len(data)
            self.childDataReceived(OUTCOMES_FD, data)

    def _close_pipes(self) -> None:
        self._ending = True
        if self._poll is not None:
            self._poll.remove(self._outcomes_fd)
            self._poll = None
        for pipe in list(self._process.pipes.values()):
            # Not loseConnection, which would wait until an unread job in the pipe has been read.
            pipe.connectionLost(Failure(ConnectionDone()))

    def processEnded(self, reason: Failure) -> None:
        self._stop_limit()
        self._died = WorkerDied(self._why or _how(reason.value), getattr(reason.value, "signal", None) is not None)
        self.ended.callback(self._died.fail.reason)
        if not self.ready.called:
            self.ready.errback(self._died)
        self._settle(self._died)

    @property
    def _process(self) -> Any:
        return self.transport

    def _heard(self, payload: bytes) -> None:
        kind, number, content = payload[:1], payload[1:_HEAD_BYTES], memoryview(payload)[_HEAD_BYTES:]
        if number != self.number:
            # About an earlier job, or none.
            if len(number) < NUMBER_BYTES:
                self._distrust("a payload without a job's number")
        elif kind == ANSWER:
            self._settle(Raw(content))
        elif kind == PROGRESS:
            if self._on_progress is not None:
                self._on_progress(Raw(content))
        elif kind == FAILURE:
            self._failed(content)
        else:
            self._began(kind, content)

    def _began(self, kind: bytes, content: memoryview) -> None:
        if self.ready.called or kind not in (READY, UNUSABLE):
            self._distrust(f"a payload of the kind {kind!r}")
        elif kind == READY:
            self.ready.callback(None)
        elif (fail := self._failure_in(content)) is not None:
            self.ready.errback(Unusable(fail))

    def _failed(self, content: memoryview) -> None:
        fail = self._failure_in(content)
        if fail is not None:
            self._settle(ChildError(fail))

    def _failure_in(self, content: memoryview) -> Fail | None:
        """Return the failure in *content*; None for garbage, after which the process is killed."""
        try:
            return decode_failure(content)
        except (MsgspecError, ValueError) as error:
            self._distrust(f"a failure that cannot be read: {error}")
            return None

    def _distrust(self, payload: str) -> None:
        """Kill a process if other code than this package's has written to its pipe."""
        self._why = self._why or f"wrote {payload} into its pipe to its parent, and was killed"
        self.kill()

    def _settle(self, result: Raw | ChildError) -> None:
        if not self._busy:
            return
        self._busy = False
        if not self._deaf:
            self._stop_limit()
        on_end, self._on_end, self._on_progress = self._on_end, None, None
        if on_end is not None:
            on_end(result)
        self._tell_if_free()

    def _tell_if_free(self) -> None:
        if self._free is not None and not self._busy:
            free, self._free = self._free, None
            free.callback(None)

    def _send(self, data: bytes) -> None:
        if self._jobs_fd is None:
            return  # the reactor is about to report the end of the process
        try:
            # Straight into the pipe, which is empty: through Twisted it takes one more turn and two epoll_ctl.
            sent = os.write(self._jobs_fd, data)
        except OSError:
            sent = 0
        if sent < len(data):
            self._process.writeToChild(JOBS_FD, data[sent:])

    def _kill_after(self, seconds: float, why: str | None = None) -> None:
        self._stop_limit()
        self._limit = self._clock.callLater(seconds, self._too_late, why)

    def _too_late(self, why: str | None) -> None:
        self._limit = None
        self._why = self._why or why
        self.kill()

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _unread_bytes(descriptor: int) -> int:
    """Return the number of unread bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def _how(end: Any) -> str:
    if end.signal is not None:
        with suppress(ValueError):  # a real-time signal has no name
            return f"was killed by {signal.Signals(end.signal).name}"
        return f"was killed by signal {end.signal}"
    return f"ended with exit status {end.exitCode}"


def start_child(reactor: IProcessReactor, work: Sequence[str]) -> Child:
    """
    Start a child process.

    Args:
        reactor: Starts it, and is its clock.
        work: The arguments of `gloom.worker.child` after the parent's process id.
    """
    child = Child(reactor)
    spawn(reactor, child, work)
    return child


def spawn(reactor: IProcessReactor, child: Child, work: Sequence[str]) -> None:
    """Start the process of *child*; the rest is as for `start_child`."""
    command = [sys.executable, "-P", "-m", "gloom.worker.child", str(os.getpid()), *work]
    null = os.open(os.devnull, os.O_RDONLY)
    # The child inherits the blocked signals, until it has left this terminal's session.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        reactor.spawnProcess(
            child, sys.executable, command, env=None, childFDs={0: null, 1: 1, 2: 2, JOBS_FD: "w", OUTCOMES_FD: "r"}
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(null)
