"""
The in-memory broker: every transition of a job.

Implements docs/protocol.md, sections 3 to 5. Two rules. All state lives here, in
`gloom.broker.records` that this package alone changes: no module outside keeps a
fact about a job. And the broker knows no transport, no JSON and no clock:
payloads and bodies are opaque, the time is a parameter, it asks for one alarm,
and it calls peers through `gloom.broker.interfaces`. The methods of peers only
buffer bytes, so that nothing calls the broker while a transition runs.

A job in flight is in exactly one place: delayed (only its deadline refers to it),
in the queue of its type, or in the hand of one slave. A slave and a job that it
could take never wait at the same time: each verb that makes one of them
available ends by pairing them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from zope.interface import implementer

from gloom.broker.abandoned import GoneMasters, give_back
from gloom.broker.attempts import are_spent, counted, in_hand, let_go, note_end, receipt_of
from gloom.broker.deadlines import Deadlines
from gloom.broker.interfaces import Body, IBroker, IMasterPeer, ISlavePeer
from gloom.broker.limits import JOB_BYTES, PLACE_BYTES, Limits
from gloom.broker.lines import Lines
from gloom.broker.pairing import Pairing
from gloom.broker.records import Job, Master, Slave
from gloom.broker.values import BASE_TERMS, Failure, JobKey, Terms, quoted, text_of
from gloom.errors import IdExists, NoSlaves, UnknownJob
from gloom.settings import Settings

#: The most jobs of one step, about 2 ms. Work on many jobs is done in steps: the jobs of a
#: disconnected master, deadlines, a shutdown. A million jobs in one step would delay every
#: other peer by more than a second.
MOST_A_STEP = 1000


@implementer(IBroker)
class MemoryBroker:
    """
    The `IBroker` that keeps all jobs in the memory of this process.

    Args:
        settings: The limits, and the default of ``retries``.
        alarm: See `IBroker`.
    """

    def __init__(self, settings: Settings, alarm: Callable[[float], None]) -> None:
        self._limits = Limits(settings)
        self._retries = settings.retries
        self._jobs: dict[JobKey, Job] = {}
        self._bytes = 0
        self._lines = Lines()
        self._pairing = Pairing(self._lines, self._drop_if_abandoned)
        # A draining broker replaces it: then slaves only wait.
        self._next_for: Callable[[Slave], Job | None] = self._pairing.next_for
        self._submitted = 0
        self._alarm = alarm
        self._deadlines: Deadlines[Job] = Deadlines(alarm)
        self._gone_masters = GoneMasters(self._forget)
        self._draining = False
        # The jobs that a shutdown has still to end, oldest last.
        self._ending: list[Job] = []
        self._abandons = False
        self._drained: Callable[[], object] | None = None

    @property
    def unanswered(self) -> int:
        """See `IBroker.unanswered`."""
        return len(self._jobs)

    @property
    def used_bytes(self) -> int:
        """See `IBroker.used_bytes`."""
        return self._bytes + JOB_BYTES * len(self._jobs) + PLACE_BYTES * self._pairing.places

    def measure_memory_with(self, measure: Callable[[], None]) -> None:
        """See `IBroker.measure_memory_with`."""
        self._limits.measure = measure

    def refuse_for_memory(self) -> None:
        """See `IBroker.refuse_for_memory`."""
        self._limits.refuse()

    def allow_memory(self, free_bytes: int) -> None:
        """See `IBroker.allow_memory`."""
        self._limits.allow(len(self._jobs), self._bytes, free_bytes)

    # Masters

    def master_connected(self, peer: IMasterPeer) -> Master:
        """See `IBroker.master_connected`."""
        return Master(peer)

    def master_lost(self, master: Master, now: float) -> None:
        """See `IBroker.master_lost`."""
        master.is_gone = True
        # Break the reference cycle: `alone` holds the master itself.
        master.alone = ()
        if master.jobs:
            self._gone_masters.add(master)
            if len(self._gone_masters) == 1:
                self._reap(now)

    def in_flight(self, master: Master) -> int:
        """See `IBroker.in_flight`."""
        return len(master.jobs)

    def submit(
        self, master: Master, id: JobKey, type: str | None, priority: int, payload: bytes, terms: Terms, now: float
    ) -> None:
        """See `IBroker.submit`."""
        jobs, limits = self._jobs, self._limits
        if id in jobs and not self._drop_if_abandoned(jobs[id]):
            self._submit_again(master, jobs[id], type, terms)
            return
        size = len(payload)
        # While all masters together are below the share of one, no limit is reached.
        if len(jobs) >= limits.unchecked_jobs or self._bytes + size > limits.unchecked_bytes:
            self._make_room(master, size, now)
        if terms.require_slave and not self._lines.has_slave(type):
            raise NoSlaves("no slave has joined" if type is None else f"no slave has joined the type {quoted(type)}")
        job = Job(id, self._lines.use(type), priority, self._submitted, payload, master.alone, terms, now)
        self._submitted += 1
        jobs[id] = job
        self._bytes += size
        master.jobs[job] = None
        master.queued_bytes += size
        master.peer.accepted()
        if terms.delay_seconds:
            job.deadline = self._deadlines.set(now + terms.delay_seconds, job)
        else:
            self._place(job, now)

    def _make_room(self, master: Master, size: int, now: float) -> None:
        """Forget abandoned jobs; refuse a job of *size* bytes if that does not make room."""
        self._reap(now)
        refusal = self._limits.refusal(len(self._jobs), self._bytes, len(master.jobs), master.queued_bytes, size)
        if refusal is not None:
            raise refusal

    def _submit_again(self, master: Master, job: Job, type: str | None, terms: Terms) -> None:
        # The type must be the job's: access rules decide by the type whether this master may have the answer.
        if not terms.attach or type != job.line.type:
            raise IdExists(text_of(job.id))
        if master not in job.masters:
            job.masters = (*job.masters, master)
            master.jobs[job] = None
            master.queued_bytes += len(job.payload)
        master.peer.accepted()

    def cancel(self, master: Master, id: JobKey, now: float) -> None:
        """See `IBroker.cancel`."""
        job = self._jobs.get(id)
        if job is None or master not in job.masters:
            raise UnknownJob(f"{quoted(id)} is no job of this master in flight")
        slave = job.slave
        master.peer.cancelling(running=slave is not None)
        if slave is not None:
            note_end(job, slave, "cancelled", now)
            self._revoke(job, slave)
        self._fail(job, "cancelled", "a master cancelled it")

    # Slaves

    def slave_connected(self, peer: ISlavePeer) -> Slave:
        """See `IBroker.slave_connected`."""
        return Slave(peer)

    def slave_lost(self, slave: Slave, now: float) -> None:
        """See `IBroker.slave_lost`."""
        self._leave(slave)
        hand, slave.hand = slave.hand, {}
        held = [job for job in hand.values() if job is not None]
        # In the total order, not in the order of assignment: an idle slave takes the first one.
        for job in sorted(held, key=lambda job: (-job.priority, job.sequence)):
            note_end(job, slave, "lost", now)
            self._try_again(job, "job_failed", f"the slave {slave.peer.name} disappeared", now)

    def slave_blocked(self, slave: Slave) -> None:
        """See `IBroker.slave_blocked`."""
        self._pairing.block(slave)

    def slave_ready(self, slave: Slave, now: float) -> None:
        """See `IBroker.slave_ready`."""
        if slave.is_blocked:
            self._pairing.unblock(slave)
            self._serve(slave, now)

    def join(self, slave: Slave, types: Sequence[str | None], slots: int, now: float) -> None:
        """See `IBroker.join`."""
        if self._limits.is_over(self._pairing.places_with(types)):
            self._pairing.crews.clear_some()
            self._limits.check_places(self._pairing.places_with(types))
        self._pairing.join(slave, types, slots)
        self._clear_soon()
        slave.peer.accepted()
        self._serve(slave, now)

    def leave(self, slave: Slave) -> None:
        """See `IBroker.leave`."""
        self._leave(slave)
        slave.peer.accepted()

    def _leave(self, slave: Slave) -> None:
        self._pairing.leave(slave)
        self._clear_soon()

    def _clear_soon(self) -> None:
        if self._pairing.crews.deserted:
            self._alarm(0.0)

    def respond(self, slave: Slave, id: JobKey | None, body: Body, now: float) -> None:
        """See `IBroker.respond`."""
        job = let_go(slave, id)
        slave.peer.accepted()
        if job is not None:
            for master in job.masters:
                if not master.is_gone:
                    peer = master.peer
                    peer.answered(job.id, body, receipt_of(job, slave, now) if peer.wants_receipts else None)
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
        job = let_go(slave, id)
        slave.peer.accepted()
        if job is not None:
            note_end(job, slave, "failed", now)
            if retry:
                self._try_again(job, "job_failed", reason, now, kind, traceback)
            else:
                self._fail(job, "job_failed", reason, kind, traceback)
        self._serve(slave, now)

    def progress(self, slave: Slave, id: JobKey | None, body: Body) -> None:
        """See `IBroker.progress`."""
        job = in_hand(slave, id)
        if job is not None:
            for master in job.masters:
                if not master.is_gone:
                    master.peer.progressed(job.id, body)

    # Time

    def deadline_passed(self, now: float) -> float | None:
        """See `IBroker.deadline_passed`."""
        for job in islice(self._deadlines.due(now), MOST_A_STEP):
            job.deadline = None
            self._is_due(job, now)
        self._end_some(now)
        self._reap(now)
        self._pairing.crews.clear_some()
        self._serve_postponed(now)
        if self._ending or self._gone_masters or self._pairing.crews.deserted or self._pairing.postponed:
            return now
        return self._deadlines.next()

    def _is_due(self, job: Job, now: float) -> None:
        if self._drop_if_abandoned(job):
            return
        if job.slave is not None:
            self._time_out(job, job.slave, now)
        elif job.queued:
            self._fail(job, "expired", f"no slave took it within {job.terms.expires_seconds:g} s")
        elif self._draining:
            self._end(job, now)
        else:
            self._place(job, now)  # the delay is over

    def _time_out(self, job: Job, slave: Slave, now: float) -> None:
        note_end(job, slave, "timeout", now)
        self._revoke(job, slave)
        reason = f"the attempt on {slave.peer.name} ran longer than {job.terms.timeout_seconds:g} s"
        self._try_again(job, "timeout", reason, now)

    def drain(self, now: float, drained: Callable[[], object]) -> None:
        """See `IBroker.drain`."""
        self._draining = True
        self._drained = drained
        self._limits.drain()
        self._next_for = self._pairing.wait
        self._ending = list(reversed(self._jobs.values()))
        self._end_some(now)
        self._tell_if_drained()

    def abandon(self, now: float) -> None:
        """See `IBroker.abandon`."""
        self._abandons = True
        self._ending = list(reversed(self._jobs.values()))
        self._end_some(now)

    def _end_some(self, now: float) -> None:
        """End some of the jobs that a shutdown ends, and set the alarm for the rest."""
        ending = self._ending
        for _ in range(min(MOST_A_STEP, len(ending))):
            job = ending.pop()
            if self._jobs.get(job.id) is job:
                self._end(job, now)
        if ending:
            self._alarm(now)

    def _end(self, job: Job, now: float) -> None:
        if job.slave is None:
            self._fail(job, "draining", "the broker is shutting down")
        elif self._abandons:
            note_end(job, job.slave, "draining", now)
            self._revoke(job, job.slave)
            self._fail(job, "draining", "the broker shut down before the job was done")

    def _tell_if_drained(self) -> None:
        if self._drained is not None and not self._jobs:
            drained, self._drained = self._drained, None
            drained()

    # Pairing

    def _place(self, job: Job, now: float) -> None:
        """Assign *job* to the slave that is idle longest of those that could take it, or let the job wait."""
        slave = self._pairing.place(job)
        if slave is not None:
            self._assign(job, slave, now)
        elif job.terms.expires_seconds is not None:
            when = job.submitted + job.terms.delay_seconds + job.terms.expires_seconds
            job.deadline = self._deadlines.set(when, job)

    def _serve(self, slave: Slave, now: float) -> None:
        """Assign *slave* the first jobs that it could take, and let it wait for more."""
        while len(slave.hand) < slave.slots:
            job = self._next_for(slave)
            if job is None:
                return
            self._assign(job, slave, now)

    def _serve_postponed(self, now: float) -> None:
        """Serve some of the slaves whose last step met too many abandoned jobs."""
        postponed = self._pairing.postponed
        for _ in range(min(MOST_A_STEP, len(postponed))):
            slave = postponed.popitem()[0]
            self._serve(slave, now)
            if slave in postponed:
                return

    def _assign(self, job: Job, slave: Slave, now: float) -> None:
        job.slave = slave
        job.started = now
        slave.hand[job.id] = job
        if job.terms is not BASE_TERMS:
            self._limit_attempt(job, now)
        if slave.peer.assigned(job.payload):
            self._pairing.block(slave)

    def _limit_attempt(self, job: Job, now: float) -> None:
        self._drop_deadline(job)
        if job.terms.timeout_seconds is not None:
            job.deadline = self._deadlines.set(now + job.terms.timeout_seconds, job)

    # Endings

    def _revoke(self, job: Job, slave: Slave) -> None:
        """End the attempt; its slot stays taken until the slave lets go of it."""
        slave.hand[job.id] = None
        job.slave = None
        slave.peer.revoked(job.id)

    def _try_again(
        self,
        job: Job,
        error: str,
        reason: str,
        now: float,
        kind: str | None = None,
        traceback: str | None = None,
    ) -> None:
        """Put *job* back to its place, unless no master waits for it or its attempts are spent."""
        job.slave = None
        self._drop_deadline(job)
        if self._drop_if_abandoned(job):
            return
        if are_spent(job, self._retries):
            self._fail(job, error, f"{reason} ({counted(job)})", kind, traceback)
        elif self._draining:
            self._fail(job, "draining", "the broker is shutting down")
        else:
            self._place(job, now)

    def _fail(self, job: Job, error: str, reason: str, kind: str | None = None, traceback: str | None = None) -> None:
        failure = Failure(error, reason, kind, traceback, job.attempts or [])
        for master in job.masters:
            if not master.is_gone:
                master.peer.failed(job.id, failure)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        jobs = self._jobs
        del jobs[job.id]
        size = len(job.payload)
        self._bytes -= size
        for master in job.masters:
            del master.jobs[job]
            master.queued_bytes -= size
            if not master.jobs:
                give_back(master.jobs)
        if job.queued:
            job.line.queue.remove(job)
        self._drop_deadline(job)
        self._lines.release(job.line)
        if not jobs:
            give_back(jobs)
            self._tell_if_drained()

    # Jobs of disconnected masters

    def _reap(self, now: float) -> None:
        """Forget some of the abandoned jobs, and set the alarm for the rest."""
        self._gone_masters.forget_some(MOST_A_STEP)
        if self._gone_masters:
            self._alarm(now)

    def _drop_if_abandoned(self, job: Job) -> bool:
        """Forget *job* if all its masters are gone and no slave has it; return whether it was forgotten."""
        if job.slave is None and all(master.is_gone for master in job.masters):
            self._forget(job)
            return True
        return False

    def _drop_deadline(self, job: Job) -> None:
        if job.deadline is not None:
            self._deadlines.drop(job.deadline)
            job.deadline = None
