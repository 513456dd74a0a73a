"""
An account of every job, kept between the protocols and the broker, that must always agree with the broker.

`Mirror` takes the broker's place: protocols call it, it calls the
broker, and the broker's messages to a peer pass through it. It knows the
guarantees of the protocol and none of the broker's data; it raises AssertionError
for anything that it cannot explain. It checks every verb, so every step.

Where the broker works in bounded steps (decision 20), the mirror asks it only for
its progress. The remaining work must be done eventually.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from zope.interface import implementer

from gloom.broker.interfaces import IBroker
from gloom.broker.memory import MemoryBroker
from gloom.errors import Busy, Draining, IdExists, InvalidState, MissingField, NoSlaves, ProtocolError, UnknownJob
from gloom.settings import Settings
from gloom.wire.messages import key_of

from .accounts import MirrorJob, MirrorMaster, MirrorSlave
from .memory import Memory

# Rounding error of a sum of floats.
_ROUNDING_SECONDS = 1e-6


class _Payload(msgspec.Struct):
    id: str | int
    type: str | None


_read_payload = msgspec.json.Decoder(_Payload).decode


@implementer(IBroker)
class Mirror:
    """
    The account.

    Attributes:
        jobs: The jobs in flight, by id.
        forsaken: The broker's own records of jobs without a master, not yet removed by the broker.
        postponed: The slaves to be served in a later step.
        idle: The slaves that could take one more job, longest idle first.
        bytes: Total bytes of the jobs in flight.
        accepted: Number of accepted jobs.
        outcomes: Number of outcomes sent, by kind.
    """

    def __init__(self, broker: IBroker, settings: Settings, memory: Memory | None = None) -> None:
        assert isinstance(broker, MemoryBroker)
        self.memory = memory or Memory()
        self.broker = broker
        self.settings = settings
        self.jobs: dict[Any, MirrorJob] = {}
        self.masters: list[MirrorMaster] = []
        self.slaves: list[MirrorSlave] = []
        self.idle: dict[MirrorSlave, None] = {}
        self.bytes = 0
        self.draining = False
        self.forsaken: dict[Any, Any] = {}
        self.postponed: dict[MirrorSlave, None] = {}
        self._abandons = False
        self.accepted = 0
        self.outcomes: Counter[str] = Counter()
        self._sequence = 0
        self._verb = ""
        self._now = 0.0
        self._asked: Any = None
        self._replies = 0
        # Jobs ended by the present verb, with the masters not notified yet.
        self._ended: dict[Any, tuple[MirrorJob, list[MirrorMaster]]] = {}
        # Jobs requeued or started by a timer, in any order.
        self._moving: set[MirrorJob] = set()

    @property
    def unanswered(self) -> int:
        return self.broker.unanswered

    @property
    def used_bytes(self) -> int:
        return self.broker.used_bytes

    def measure_memory_with(self, measure: Callable[[], None]) -> None:
        self.broker.measure_memory_with(measure)

    def allow_memory(self, free_bytes: int) -> None:
        self.broker.allow_memory(free_bytes)

    def refuse_for_memory(self) -> None:
        self.broker.refuse_for_memory()

    def _begin(self, verb: str, now: float, *asked: Any) -> None:
        assert not self._verb, f"{verb} during {self._verb}: something has re-entered the broker"
        self._verb, self._now, self._asked = verb, now, asked
        self._replies = 0

    def _refused(self, cause: bool) -> None:
        assert not self._replies and not self._ended, f"{self._verb} was refused, and something was done"
        assert cause, f"{self._verb} was refused without a cause"
        self._verb = ""
        self._follow_forgetting()

    def _finish(self, replies: int = 0) -> None:
        assert self._replies == replies, f"{self._verb}: {self._replies} replies"
        assert not any(left for _, left in self._ended.values()), "a master was not told of an outcome"
        self._verb = ""
        self._ended.clear()
        self._moving.clear()
        self._follow_forgetting()

    def _follow_forgetting(self) -> None:
        jobs = self.broker._jobs
        self.forsaken = {id: job for id, job in self.forsaken.items() if jobs.get(id) is job}

    @property
    def forsaken_bytes(self) -> int:
        return sum(len(job.payload) for job in self.forsaken.values())

    @property
    def is_ending(self) -> bool:
        """Whether a shutdown still has jobs to end."""
        return bool(self.broker._ending)

    def reply(self, peer: Any) -> None:
        """The broker accepts the request of *peer*."""
        assert peer is self._asked[0], "somebody else got the reply"
        assert not self._replies, "two replies to one request"
        assert not self._ended, "an outcome came before the reply"
        self._replies += 1

    # Masters

    def master_connected(self, peer: Any) -> MirrorMaster:
        master = MirrorMaster(self, peer)
        master.record = self.broker.master_connected(master)
        self.masters.append(master)
        return master

    def master_lost(self, master: MirrorMaster, now: float) -> None:
        self.masters.remove(master)
        for job in master.jobs.values():
            job.masters.remove(master)
            if job.slave is None and not job.masters:
                self._drop(job)
                self.forsaken[job.id] = self.broker._jobs[job.id]
        self._begin("master_lost", now)
        # The two records refer to each other. Break the cycle, so that only the broker keeps objects alive.
        record, master.record = master.record, None
        self.broker.master_lost(record, now)
        del record
        self._finish()

    def submit(self, master: Any, id: Any, type: Any, priority: int, payload: bytes, terms: Any, now: float) -> None:
        self._begin("submit", now, master, id, type, priority, len(payload), terms)
        try:
            self.broker.submit(master.record, id, type, priority, payload, terms, now)
        except ProtocolError as error:
            self._refused(self._submit_is_refused(error, master, id, type, len(payload), terms))
            raise
        self._finish(replies=1)

    def _submit_is_refused(self, error: ProtocolError, master: Any, id: Any, type: Any, size: int, terms: Any) -> bool:
        job = self.jobs.get(id)
        if job is not None:
            return isinstance(error, IdExists) and not (terms.attach and job.type == type)
        if self.draining:
            return isinstance(error, Draining)
        if isinstance(error, Busy):
            self._follow_forgetting()
            return self._is_over(master, size, forsaken=True) or self.memory.is_full
        if self._is_over(master, size) or self.memory.is_full:
            return False
        return isinstance(error, NoSlaves) and terms.require_slave and not self._has_slave(type)

    def _is_over(self, master: MirrorMaster, size: int, *, forsaken: bool = False) -> bool:
        """Return whether one more job exceeds a limit; *forsaken*: jobs without a master count, too."""
        settings, share = self.settings, self.settings.master_share
        jobs = len(self.jobs) + len(self.forsaken) * forsaken
        return (
            jobs + 1 > settings.max_jobs
            or len(master.jobs) + 1 > max(1, int(settings.max_jobs * share))
            or self.bytes + self.forsaken_bytes * forsaken + size > settings.max_queued_bytes
            or master.queued_bytes + size > int(settings.max_queued_bytes * share)
        )

    def _has_slave(self, type: str | None) -> bool:
        return any(type in slave.types for slave in self.slaves)

    def submit_accepted(self, master: MirrorMaster) -> None:
        """The broker accepts the submit of *master*."""
        self.reply(master)
        _, id, type, priority, size, terms = self._asked
        job = self.jobs.get(id)
        if job is None:
            assert not self.draining, "a job was accepted while draining"
            assert not self._is_over(master, size), "a job was accepted beyond a limit"
            assert not self.memory.is_full, "a job was accepted while memory is full"
            assert not terms.require_slave or self._has_slave(type), "a job was accepted without a slave"
            job = self.jobs[id] = MirrorJob(id, type, (-priority, self._sequence), size, terms, self._now)
            self._sequence += 1
            self.accepted += 1
            self.bytes += size
        else:
            assert terms.attach and type == job.type, "the id was in flight"
        if master not in job.masters:
            job.masters.append(master)
            master.jobs[id] = job
            master.queued_bytes += job.size

    def cancel(self, master: MirrorMaster, id: Any, now: float) -> None:
        self._begin("cancel", now, master, id)
        try:
            self.broker.cancel(master.record, id, now)
        except UnknownJob:
            self._refused(id not in master.jobs)
            raise
        assert id in self._ended, "a cancelled job did not end"
        self._finish(replies=1)

    def cancel_accepted(self, master: MirrorMaster, running: bool) -> None:
        """The broker accepts the cancel of *master*."""
        self.reply(master)
        assert running == (master.jobs[self._asked[1]].slave is not None), "cancel told a wrong state"

    # Slaves

    def slave_connected(self, peer: Any) -> MirrorSlave:
        slave = MirrorSlave(self, peer)
        slave.record = self.broker.slave_connected(slave)
        self.slaves.append(slave)
        return slave

    def slave_lost(self, slave: MirrorSlave, now: float) -> None:
        self.slaves.remove(slave)
        self.idle.pop(slave, None)
        self.postponed.pop(slave, None)
        slave.types = ()
        self._begin("slave_lost", now)
        hand, slave.hand = slave.hand, {}
        for job in hand.values():
            if job is not None:
                self._attempt_ended(job)
        self.broker.slave_lost(slave.record, now)
        slave.record = None
        self._finish()

    def slave_blocked(self, slave: MirrorSlave) -> None:
        self._begin("slave_blocked", self._now)
        self.must_wait(slave)
        self.broker.slave_blocked(slave.record)
        self._finish()

    def must_wait(self, slave: MirrorSlave) -> None:
        """*slave* has unread data: it gets no job before `slave_ready`."""
        slave.is_blocked = True
        self.idle.pop(slave, None)

    def slave_ready(self, slave: MirrorSlave, now: float) -> None:
        self._begin("slave_ready", now)
        slave.is_blocked = False
        self.broker.slave_ready(slave.record, now)
        self._may_idle(slave)
        self._finish()

    def join(self, slave: MirrorSlave, types: Sequence[str | None], slots: int, now: float) -> None:
        self._begin("join", now, slave)
        before = slave.types, slave.slots, dict(self.idle)
        self.idle.pop(slave, None)
        slave.types, slave.slots = tuple(types), slots
        try:
            self.broker.join(slave.record, types, slots, now)
        except ProtocolError as error:
            slave.types, slave.slots, self.idle = before
            self._refused(isinstance(error, Busy) and self._are_too_many(types))
            raise
        assert self.broker._pairing.places <= self.settings.max_joined_types, "more types than may be joined"
        self.postponed.pop(slave, None)
        self._may_idle(slave)
        self._finish(replies=1)

    def _are_too_many(self, types: Sequence[str | None]) -> bool:
        # `recount` checks the places. A new crew has a place of its own.
        return self.broker._pairing.places + len(set(types)) + 1 > self.settings.max_joined_types

    def leave(self, slave: MirrorSlave) -> None:
        self._begin("leave", self._now, slave)
        self.idle.pop(slave, None)
        self.postponed.pop(slave, None)
        slave.types = ()
        self.broker.leave(slave.record)
        self._finish(replies=1)

    def respond(self, slave: MirrorSlave, id: Any, body: Any, now: float) -> None:
        job = self._let_go("respond", slave, id, now, body)
        try:
            self.broker.respond(slave.record, id, body, now)
        except ProtocolError as error:
            self._refused(_is_not_held(error, slave, id))
            raise
        self._ends_unheard(job)
        self._may_idle(slave)
        self._finish(replies=1)

    def fail(self, slave: Any, id: Any, reason: str, kind: Any, traceback: Any, retry: bool, now: float) -> None:
        job = self._let_go("fail", slave, id, now, retry)
        if job is not None:
            self._attempt_ended(job)
        try:
            self.broker.fail(slave.record, id, reason, kind, traceback, retry, now)
        except ProtocolError as error:
            self._refused(_is_not_held(error, slave, id))
            raise
        if not retry:
            self._ends_unheard(job)
        self._may_idle(slave)
        self._finish(replies=1)

    def _let_go(self, verb: str, slave: MirrorSlave, id: Any, now: float, what: Any) -> MirrorJob | None:
        self._begin(verb, now, slave, what)
        if id is None and len(slave.hand) == 1:
            return slave.hand.popitem()[1]
        return slave.hand.pop(id, None)

    def _ends_unheard(self, job: MirrorJob | None) -> None:
        if job is not None and job.masters:
            assert job.id in self._ended, "a job was let go and has no outcome"
        elif job is not None and job.id in self.jobs:
            self._drop(job)

    def progress(self, slave: MirrorSlave, id: Any, body: Any) -> None:
        if id is None and len(slave.hand) == 1:
            id = next(iter(slave.hand))
        job = slave.hand.get(id)
        self._begin("progress", self._now, list(job.masters) if job else [], id)
        self.broker.progress(slave.record, id, body)
        assert not self._asked[0], "a master was not told of the progress"
        self._finish()

    def progress_told(self, master: MirrorMaster, id: Any) -> None:
        """The broker sends *master* the progress of the job *id*."""
        assert self._verb == "progress" and id == self._asked[1]
        self._asked[0].remove(master)

    def assigned(self, slave: MirrorSlave, payload: bytes) -> None:
        """The broker assigns the job of *payload* to *slave*."""
        job = self.jobs[key_of(_read_payload(payload).id)]
        assert job.slave is None, "a job in two hands"
        assert job.masters, "nobody waits for the job"
        assert job.type in slave.types, "a job of a type that the slave did not join"
        assert job.id not in slave.hand, "the same id twice in one hand"
        assert len(slave.hand) < slave.slots, "more jobs than slots"
        assert not slave.is_blocked, "a job for a slave that has not taken what waits for it"
        assert not job.is_delayed or self._verb == "deadline_passed", "a job began before its delay was over"
        assert not job.is_delayed or self._now >= job.submitted + job.terms.delay_seconds - _ROUNDING_SECONDS
        assert job.attempts <= self._retries(job), "more attempts than allowed"
        for other in self.jobs.values():
            if other.rank < job.rank and other.type in slave.types and self._waits(other):
                assert other.id in slave.hand, f"{job.id!r} went before {other.id!r}"
        self._was_idle_longest(slave, job)
        job.is_delayed = False
        job.slave, job.started = slave, self._now
        slave.hand[job.id] = job

    def _was_idle_longest(self, slave: MirrorSlave, job: MirrorJob) -> None:
        if slave not in self.idle:
            return
        for other in self.idle:
            if other is slave:
                break
            assert job.type not in other.types or job.id in other.hand, "a slave was idle longer"
        del self.idle[slave]
        if len(slave.hand) + 1 < slave.slots:
            self.idle[slave] = None

    def _waits(self, job: MirrorJob) -> bool:
        return job.slave is None and not job.is_delayed and job not in self._moving

    def _may_idle(self, slave: MirrorSlave) -> None:
        if not slave.types or len(slave.hand) >= slave.slots or slave.is_blocked:
            return
        if slave.record in self.broker._pairing.postponed and not self.draining:
            self.postponed[slave] = None
        else:
            self.idle.setdefault(slave)

    def revoked(self, slave: MirrorSlave, id: Any) -> None:
        """The broker ends *slave*'s attempt at the job *id*."""
        job = slave.hand[id]
        assert job is not None, "an attempt was ended twice"
        assert self._verb in ("cancel", "deadline_passed", "abandon"), f"an attempt was ended by {self._verb}"
        slave.hand[id] = None
        if self._verb == "deadline_passed" and not self._abandons:
            assert self._now >= job.started + job.terms.timeout_seconds - _ROUNDING_SECONDS, "a timeout came early"
            end = slave.peer.transport
            assert not (end.is_readable() and end.inbox), "an attempt timed out, and what its slave sent was not read"
        self._attempt_ended(job)
        self._moving.add(job)

    def _attempt_ended(self, job: MirrorJob) -> None:
        job.slave = None
        job.attempts += 1
        if not job.masters:
            self._drop(job)

    # Outcomes

    def outcome(self, master: MirrorMaster, id: Any, failure: Any, body: Any) -> None:
        """The broker sends *master* the outcome of the job *id*."""
        if id in self.jobs:
            job = self.jobs[id]
            self._ended[id] = job, list(job.masters)
            self._check(job, failure, body)
            self._drop(job)
        self._ended[id][1].remove(master)
        del master.jobs[id]
        self.outcomes["answered" if failure is None else failure.error] += 1

    def _check(self, job: MirrorJob, failure: Any, body: Any) -> None:
        if failure is None:
            assert self._verb == "respond" and body is self._asked[1], "an answer that nobody gave"
            return
        assert len(failure.attempts) == job.attempts, "attempts were miscounted"
        error, verb = failure.error, self._verb
        spent = job.attempts == self._retries(job) + 1
        if error == "expired":
            assert verb == "deadline_passed" and job.slave is None and self._now >= expiry(job) - _ROUNDING_SECONDS
        elif error == "timeout":
            assert verb == "deadline_passed" and spent
        elif error == "job_failed":
            assert (verb in ("slave_lost", "fail") and spent) or (verb == "fail" and not self._asked[1])
        elif error == "cancelled":
            assert verb == "cancel" and master_asked(self._asked, job)
        else:
            assert error == "draining" and self.draining, f"the outcome {error!r}"

    def _retries(self, job: MirrorJob) -> int:
        return self.settings.retries if job.terms.retries is None else int(job.terms.retries)

    def _drop(self, job: MirrorJob) -> None:
        del self.jobs[job.id]
        self.bytes -= job.size
        for master in job.masters:
            master.queued_bytes -= job.size

    # Time

    def deadline_passed(self, now: float) -> float | None:
        self._begin("deadline_passed", now)
        for job in self.jobs.values():
            if job.is_delayed and now >= job.submitted + job.terms.delay_seconds:
                self._moving.add(job)
        following = self.broker.deadline_passed(now)
        for job in self._moving:
            real = self.broker._jobs.get(job.id)
            # A due call may run in the next step.
            job.is_delayed = job.is_delayed and real is not None and not real.queued and real.slave is None
        self._follow_postponed()
        self._finish()
        if following != now:
            assert not self.forsaken and not self.postponed and not self.is_ending, "steps that nobody takes"
        self._check_ending()
        return following

    def _follow_postponed(self) -> None:
        # In the order of service: the last first.
        for slave in reversed(list(self.postponed)):
            if slave.record not in self.broker._pairing.postponed:
                del self.postponed[slave]
                self._may_idle(slave)

    def drain(self, now: float, drained: Callable[[], object]) -> None:
        self._begin("drain", now)
        self.draining = True
        self.broker.drain(now, drained)
        self._finish()
        self._check_ending()

    def abandon(self, now: float) -> None:
        self._begin("abandon", now)
        self._abandons = True
        self.broker.abandon(now)
        self._finish()
        self._check_ending()

    def _check_ending(self) -> None:
        if self.draining and not self.is_ending:
            assert all(job.slave is not None for job in self.jobs.values()), "a job waits while draining"
            assert not (self._abandons and self.jobs), "a job was left by abandon"


def expiry(job: MirrorJob) -> float:
    """Return the time at which *job* expires."""
    seconds = job.terms.expires_seconds
    return float("inf") if seconds is None else float(job.submitted + job.terms.delay_seconds + seconds)


def master_asked(asked: Any, job: MirrorJob) -> bool:
    """Return whether a master asked to cancel *job*."""
    return bool(asked[1] == job.id and asked[0] in job.masters)


def _is_not_held(error: ProtocolError, slave: MirrorSlave, id: Any) -> bool:
    """Return whether *error* is the correct one for a slave that lets go of a job it does not hold."""
    if id is None and len(slave.hand) > 1:
        return isinstance(error, MissingField)
    return isinstance(error, InvalidState) and id not in slave.hand and not (id is None and slave.hand)
