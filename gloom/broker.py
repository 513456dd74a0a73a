"""
The in-memory broker: all state, and every transition of a job.

Implements docs/protocol.md, sections 3 to 5. Two rules. All state lives here:
no other room keeps a fact about a job. And this room knows no transport, no
JSON and no clock of its own: payloads and bodies are opaque bytes, it is told
the time, and it tells peers through `gloom.interfaces`, whose methods only
buffer, so that no call comes back in while a transition runs.

A job is in exactly one place: in the queue of its type, or in the hand of one
slave. A slave that could take a job and a job that it could take never wait at
the same time; each verb that makes one of them available ends by pairing them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from zope.interface import implementer

from gloom.errors import IdExists, InvalidState
from gloom.interfaces import IBroker
from gloom.jobqueue import JobQueue, first_of

JobKey = str | int


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Why a job ended without an answer (section 4, outcome errors).

    Attributes:
        error: The outcome's code.
        reason: What happened, for a person.
        kind: The exception's name on the slave, or None.
        traceback: The slave's traceback, or None.
        attempts: One mapping an attempt: ``slave``, ``seconds``, ``ended``.
    """

    error: str
    reason: str
    kind: str | None = None
    traceback: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)


class Job:
    """
    One accepted job.

    Attributes:
        id: Unique while the job is in flight.
        line: What its type has waiting.
        priority: Larger first.
        sequence: Its place in the order of all submissions.
        payload: What the slave is given.
        masters: Who is told the outcome; empty when all of them have gone.
        slave: Who has it in hand, or None while it is queued.
        queued: Whether it stands in its line's queue; kept by `JobQueue`.
        started: When the present attempt began, in seconds of the caller's clock.
        attempts: The attempts that ended without an outcome, or None before the first.
    """

    __slots__ = ("attempts", "id", "line", "masters", "payload", "priority", "queued", "sequence", "slave", "started")

    def __init__(
        self, id: JobKey, line: Line, priority: int, sequence: int, payload: bytes, masters: tuple[Master, ...]
    ) -> None:
        self.id = id
        self.line = line
        self.priority = priority
        self.sequence = sequence
        self.payload = payload
        self.masters = masters
        self.slave: Slave | None = None
        self.queued = False
        self.started = 0.0
        self.attempts: list[dict[str, Any]] | None = None


class Line:
    """
    What one job type has waiting: jobs in order, or slaves in order of idleness.

    Attributes:
        type: The job type; None for untyped jobs.
        queue: Its queued jobs.
        idle: The slaves that wait for it, idle longest first.
        users: Jobs in flight and slaves joined; at 0 the line is forgotten.
    """

    __slots__ = ("idle", "queue", "type", "users")

    def __init__(self, type: str | None) -> None:
        self.type = type
        self.queue: JobQueue[Job] = JobQueue()
        self.idle: OrderedDict[Slave, None] = OrderedDict()
        self.users = 0


class Master:
    """
    The broker's record of a connection on the master port.

    Attributes:
        peer: The connection, an `IMasterPeer`.
        jobs: Its jobs that have no outcome yet.
        alone: ``(self,)``, shared as the masters of all its own jobs.
    """

    __slots__ = ("alone", "jobs", "peer")

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.jobs: set[Job] = set()
        self.alone = (self,)


class Slave:
    """
    The broker's record of a connection on the slave port.

    Attributes:
        peer: The connection, an `ISlavePeer`.
        line: The type that it has joined, or None before ``join`` and after ``leave``.
        job: The job in hand, or None.
    """

    __slots__ = ("job", "line", "peer")

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.line: Line | None = None
        self.job: Job | None = None


@implementer(IBroker)
class MemoryBroker:
    """
    The `IBroker` that keeps everything in memory.

    Args:
        retries: How often a job whose slave disappeared is tried again.
    """

    def __init__(self, retries: int = 3) -> None:
        self._retries = retries
        self._jobs: dict[JobKey, Job] = {}
        self._untyped = Line(None)
        self._untyped.users = 1  # kept for ever
        self._lines: dict[str | None, Line] = {None: self._untyped}
        # Untyped jobs may go to any slave, so idleness is ordered over all lines too.
        self._idle: OrderedDict[Slave, None] = OrderedDict()
        self._submitted = 0

    # Masters

    def master_connected(self, peer: Any) -> Master:
        """See `IBroker.master_connected`."""
        return Master(peer)

    def master_lost(self, master: Master, now: float) -> None:
        """See `IBroker.master_lost`."""
        jobs, master.jobs = master.jobs, set()
        for job in jobs:
            job.masters = tuple(other for other in job.masters if other is not master)
            if job.queued and not job.masters:
                job.line.queue.remove(job)
                # The queue drops its entry later, perhaps much later.
                job.payload = b""
                self._forget(job)

    def submit(
        self,
        master: Master,
        id: JobKey,
        type: str | None,
        priority: int,
        payload: bytes,
        attach: bool,
        now: float,
    ) -> None:
        """See `IBroker.submit`."""
        if id in self._jobs:
            self._submit_again(master, self._jobs[id], attach)
            return
        line = self._line_of(type)
        job = Job(id, line, priority, self._submitted, payload, master.alone)
        self._submitted += 1
        self._jobs[id] = job
        master.jobs.add(job)
        master.peer.accepted()
        self._place(job, now)

    def _submit_again(self, master: Master, job: Job, attach: bool) -> None:
        if not attach:
            raise IdExists(str(job.id))
        if master not in job.masters:
            job.masters = (*job.masters, master)
            master.jobs.add(job)
        master.peer.accepted()

    # Slaves

    def slave_connected(self, peer: Any) -> Slave:
        """See `IBroker.slave_connected`."""
        return Slave(peer)

    def slave_lost(self, slave: Slave, now: float) -> None:
        """See `IBroker.slave_lost`."""
        self._leave_line(slave)
        job = slave.job
        if job is not None:
            slave.job = None
            self._attempt_ended(job, slave, "lost", now)
            self._try_again(job, f"the slave {slave.peer.name} disappeared", now)

    def join(self, slave: Slave, type: str | None, now: float) -> None:
        """See `IBroker.join`."""
        self._leave_line(slave)
        slave.line = self._line_of(type)
        slave.peer.accepted()
        if slave.job is None:
            self._serve(slave, now)

    def leave(self, slave: Slave) -> None:
        """See `IBroker.leave`."""
        self._leave_line(slave)
        slave.peer.accepted()

    def respond(self, slave: Slave, id: JobKey | None, body: Any, now: float) -> None:
        """See `IBroker.respond`."""
        job = self._job_in_hand(slave, id)
        slave.job = None
        slave.peer.accepted()
        for master in job.masters:
            master.jobs.discard(job)
            master.peer.answered(job.id, body)
        self._forget(job)
        self._serve(slave, now)

    def fail(
        self,
        slave: Slave,
        id: JobKey | None,
        reason: str,
        kind: str | None,
        traceback: str | None,
        retry: bool,
        now: float,
    ) -> None:
        """See `IBroker.fail`."""
        job = self._job_in_hand(slave, id)
        slave.job = None
        slave.peer.accepted()
        self._attempt_ended(job, slave, "failed", now)
        if retry:
            self._try_again(job, reason, now, kind, traceback)
        else:
            self._fail(job, reason, kind, traceback)
        self._serve(slave, now)

    # Pairing

    def _place(self, job: Job, now: float) -> None:
        """Hand *job* to the slave that could take it and is idle longest, or queue it."""
        idle = self._idle if job.line is self._untyped else job.line.idle
        if idle:
            slave = next(iter(idle))
            self._unidle(slave)
            self._assign(job, slave, now)
        else:
            job.line.queue.push(job)

    def _serve(self, slave: Slave, now: float) -> None:
        """Hand *slave* the first job that it could take, or let it wait."""
        line = slave.line
        if line is None:
            return
        job = self._next_job(line)
        if job is None:
            line.idle[slave] = None
            self._idle[slave] = None
        else:
            self._assign(job, slave, now)

    def _next_job(self, line: Line) -> Job | None:
        untyped = self._untyped.queue.peek()
        if untyped is None or line is self._untyped:
            return line.queue.pop() if line.queue else None
        typed = line.queue.peek()
        if typed is None or first_of(typed, untyped) is untyped:
            return self._untyped.queue.pop()
        return line.queue.pop()

    def _assign(self, job: Job, slave: Slave, now: float) -> None:
        job.slave = slave
        job.started = now
        slave.job = job
        slave.peer.assigned(job.payload)

    # Endings

    def _job_in_hand(self, slave: Slave, id: JobKey | None) -> Job:
        job = slave.job
        if job is None:
            raise InvalidState("no job is in hand")
        if id is not None and id != job.id:
            raise InvalidState(f"the job in hand is {_show(job.id)}, not {_show(id)}")
        return job

    def _attempt_ended(self, job: Job, slave: Slave, how: str, now: float) -> None:
        if job.attempts is None:
            job.attempts = []
        seconds = round(now - job.started, 6)
        job.attempts.append({"slave": slave.peer.name, "seconds": seconds, "ended": how})

    def _try_again(
        self, job: Job, reason: str, now: float, kind: str | None = None, traceback: str | None = None
    ) -> None:
        """Put *job* back to its place, unless nobody waits for it or its attempts are spent."""
        job.slave = None
        attempts = len(job.attempts or ())
        if not job.masters:
            self._forget(job)
        elif attempts > self._retries:
            times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            self._fail(job, f"{reason} ({times})", kind, traceback)
        else:
            self._place(job, now)

    def _fail(self, job: Job, reason: str, kind: str | None, traceback: str | None) -> None:
        failure = Failure("job_failed", reason, kind, traceback, job.attempts or [])
        for master in job.masters:
            master.jobs.discard(job)
            master.peer.failed(job.id, failure)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._unuse(job.line)

    # Lines

    def _leave_line(self, slave: Slave) -> None:
        line = slave.line
        if line is None:
            return
        self._unidle(slave)
        slave.line = None
        self._unuse(line)

    def _unidle(self, slave: Slave) -> None:
        line = slave.line
        if line is not None and slave in line.idle:
            del line.idle[slave]
            del self._idle[slave]

    def _line_of(self, type: str | None) -> Line:
        """Return the line of *type* for one more user."""
        line = self._lines.get(type)
        if line is None:
            line = self._lines[type] = Line(type)
        line.users += 1
        return line

    def _unuse(self, line: Line) -> None:
        """One user less; an unused line goes, so that types do not add up for ever."""
        line.users -= 1
        if not line.users:
            del self._lines[line.type]


def _show(id: JobKey) -> str:
    """Return *id* for an error's reason, cut at 100 characters."""
    text = repr(id)
    return text if len(text) <= 100 else text[:100] + "..."
