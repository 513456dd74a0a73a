"""
A broker against the simplest broker there can be, under any order of events.

Hypothesis drives a broker and `Model` (one list of jobs, one list of idle slaves,
both searched from the front) with the same verbs, legal and illegal, and shrinks
the events after which they differ. Some slaves join one type, others more than
twenty, and some of these the same. After every step it checks:

1. The calls on peers are exactly those of the model, in its order over all peers;
   no lost peer is called.
2. Every accepted job has exactly one outcome for each of its masters that is there.
3. As many jobs are in flight as in the model.
4. A refused request changes nothing (checked in the rules).
5. When all peers are gone, nothing is left (checked at the end).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gloom.broker.interfaces import IBroker, MasterRecord, SlaveRecord
from gloom.broker.values import ATTACH_TERMS, BASE_TERMS, Failure, JobKey
from gloom.errors import IdExists, InvalidState
from gloom.settings import Settings
from tests.support.floor import Kind
from tests.support.recording import RecordingMaster, RecordingSlave, Told, payload_of

IDS: list[JobKey] = [0, "0", "a", "b", "c", 1, -(2**70)]
TYPES = st.sampled_from(["x", "x", "y", "z", None])
MANY = tuple(f"many {number}" for number in range(20))
# Of the sets with x the third to come finds no place for its crew in the line of x.
JOINS = st.sampled_from(
    [
        ("x", None), ("y", None), ("x", "y", None), (None,),
        ("x", "y", *MANY, None), (*MANY, "y", "x", None), ("x", "z", *MANY[1:], None), ("x", *MANY), ("z", *MANY, None),
    ]
)  # fmt: skip
PRIORITIES = st.one_of(st.integers(-1, 1), st.sampled_from([-(2**63), 2**63 - 1]))

WHICH = st.integers(0, 11)

Peer = TypeVar("Peer")


def pick(peers: list[Peer], which: int) -> Peer:
    # Much faster than drawing from the list, and shrinks as well.
    return peers[which % len(peers)]


@dataclass(eq=False)
class ModelMaster:
    """A master: its peer, its record in the broker, and the ids of its jobs without an outcome."""

    peer: RecordingMaster
    record: MasterRecord
    owed: set[JobKey] = field(default_factory=set)

    def __repr__(self) -> str:
        return self.peer.name


@dataclass(eq=False)
class ModelSlave:
    """A slave: its peer, its record in the broker, its types and its job."""

    peer: RecordingSlave
    record: SlaveRecord
    types: tuple[str | None, ...] = ()
    job: ModelJob | None = None

    def __repr__(self) -> str:
        return self.peer.name


@dataclass(eq=False, repr=False)
class ModelJob:
    """A job in flight; it waits while it has no slave."""

    id: JobKey
    type: str | None
    priority: int
    sequence: int
    masters: list[ModelMaster]
    slave: ModelSlave | None = None
    started: float = 0.0
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def takeable_by(self, slave: ModelSlave) -> bool:
        return self.type in slave.types


class Model:
    """The behaviour of a broker, without a thought for speed."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.jobs: list[ModelJob] = []
        self.idle: list[ModelSlave] = []
        self.submitted = 0
        self.journal: list[tuple[str, Told]] = []

    def tell(self, to: ModelMaster | ModelSlave, *call: Any) -> None:
        self.journal.append((to.peer.name, call))

    def job(self, id: JobKey) -> ModelJob | None:
        return next((job for job in self.jobs if job.id == id), None)

    def pair(self, now: float) -> None:
        """Give each idle slave, longest idle first, the first job that it could take."""
        for slave in list(self.idle):
            waiting = [job for job in self.jobs if job.slave is None and job.takeable_by(slave)]
            if waiting:
                job = min(waiting, key=lambda job: (-job.priority, job.sequence))
                self.idle.remove(slave)
                job.slave, slave.job, job.started = slave, job, now
                self.tell(slave, "assigned", payload_of(job.id))

    def submit(self, master: ModelMaster, id: JobKey, type: str | None, priority: int, now: float) -> None:
        self.tell(master, "ok")
        job = self.job(id)
        if job is None:
            self.jobs.append(ModelJob(id, type, priority, self.submitted, [master]))
            self.submitted += 1
        elif master not in job.masters:
            job.masters.append(master)
        self.pair(now)

    def master_lost(self, master: ModelMaster) -> None:
        for job in list(self.jobs):
            if master in job.masters:
                job.masters.remove(master)
                if job.slave is None and not job.masters:
                    self.jobs.remove(job)

    def join(self, slave: ModelSlave, types: tuple[str | None, ...], now: float) -> None:
        self.leave(slave)
        slave.types = types
        if slave.job is None:
            self.idle.append(slave)
        self.pair(now)

    def leave(self, slave: ModelSlave) -> None:
        self.tell(slave, "ok")
        self.stop_waiting(slave)

    def stop_waiting(self, slave: ModelSlave) -> None:
        slave.types = ()
        if slave in self.idle:
            self.idle.remove(slave)

    def slave_lost(self, slave: ModelSlave, now: float) -> None:
        self.stop_waiting(slave)
        if slave.job is not None:
            self.attempt_ended(slave, "lost", f"the slave {slave.peer.name} disappeared", None, True, now)

    def respond(self, slave: ModelSlave, body: bytes, now: float) -> None:
        self.tell(slave, "ok")
        self.end(self.let_go(slave), "answered", body)
        self.wait_for_more(slave, now)

    def fail(self, slave: ModelSlave, reason: str, kind: str | None, retry: bool, now: float) -> None:
        self.tell(slave, "ok")
        self.attempt_ended(slave, "failed", reason, kind, retry, now)
        self.wait_for_more(slave, now)

    def let_go(self, slave: ModelSlave) -> ModelJob:
        job = slave.job
        assert job is not None
        slave.job = job.slave = None
        return job

    def wait_for_more(self, slave: ModelSlave, now: float) -> None:
        if slave.types:
            self.idle.append(slave)
        self.pair(now)

    def attempt_ended(
        self, slave: ModelSlave, how: str, reason: str, kind: str | None, retry: bool, now: float
    ) -> None:
        job = self.let_go(slave)
        job.attempts.append({"slave": slave.peer.name, "seconds": round(now - job.started, 6), "ended": how})
        if retry and len(job.attempts) > self.retries:
            retry = False
            reason += f" ({len(job.attempts)} attempt{'s' if len(job.attempts) > 1 else ''})"
        if not job.masters or not retry:
            self.end(job, "failed", Failure("job_failed", reason, kind, None, job.attempts))
        self.pair(now)

    def end(self, job: ModelJob, how: str, outcome: bytes | Failure) -> None:
        for master in job.masters:
            self.tell(master, how, job.id, outcome)
        self.jobs.remove(job)


class BrokerMachine(RuleBasedStateMachine):
    """
    Any events, in any order, at any time.

    Attributes:
        kind: The kind of broker to test.
    """

    kind: Kind

    @initialize(retries=st.integers(0, 2))
    def start(self, retries: int) -> None:
        self.broker: IBroker = self.new_broker(retries)
        self.model = Model(retries)
        self.now = 0.0
        self.journal: list[tuple[str, Told]] = []
        self.masters: list[ModelMaster] = []
        self.slaves: list[ModelSlave] = []
        self.names = 0
        self.new_master()
        self.join_as(self.new_slave(), ("x", None))

    def new_broker(self, retries: int = 0) -> IBroker:
        broker: IBroker = self.kind.make(Settings(retries=retries), lambda when: None)
        return broker

    def busy(self) -> list[ModelSlave]:
        return [slave for slave in self.slaves if slave.job is not None]

    # Masters

    @rule(which=WHICH, type=TYPES, priority=PRIORITIES)
    def submit(self, which: int, type: str | None, priority: int) -> None:
        free = [id for id in IDS if self.model.job(id) is None]
        if free:
            self.submit_as(pick(self.masters, which), free[0], type, priority, attach=False)

    @rule(which=WHICH, id=st.sampled_from(IDS), type=TYPES, priority=PRIORITIES, attach=st.booleans())
    def submit_any_id(self, which: int, id: JobKey, type: str | None, priority: int, attach: bool) -> None:
        self.submit_as(pick(self.masters, which), id, type, priority, attach)

    def submit_as(self, master: ModelMaster, id: JobKey, type: str | None, priority: int, attach: bool) -> None:
        terms = ATTACH_TERMS if attach else BASE_TERMS
        verb = (master.record, id, type, priority, payload_of(id), terms, self.now)
        job = self.model.job(id)
        if job is not None and not (attach and job.type == type):
            self.refused(IdExists, self.broker.submit, verb)
            return
        master.owed.add(id)
        self.broker.submit(*verb)
        self.model.submit(master, id, type, priority, self.now)

    @rule(which=WHICH)
    def a_master_comes_or_goes(self, which: int) -> None:
        if len(self.masters) < 2 + which % 2:
            self.new_master()
        else:
            self.lose_master(pick(self.masters, which))

    def new_master(self) -> None:
        self.names += 1
        peer = RecordingMaster(f"m{self.names}", self.journal)
        self.masters.append(ModelMaster(peer, self.broker.master_connected(peer)))

    def lose_master(self, master: ModelMaster) -> None:
        self.broker.master_lost(master.record, self.now)
        self.model.master_lost(master)
        self.masters.remove(master)

    # Slaves

    @rule(types=JOINS)
    def a_slave_comes(self, types: tuple[str | None, ...]) -> None:
        if len(self.slaves) < 5:
            self.join_as(self.new_slave(), types)

    def new_slave(self) -> ModelSlave:
        self.names += 1
        peer = RecordingSlave(f"s{self.names}", self.journal)
        slave = ModelSlave(peer, self.broker.slave_connected(peer))
        self.slaves.append(slave)
        return slave

    @precondition(lambda self: self.slaves)
    @rule(which=WHICH, types=JOINS, leave=st.booleans())
    def join_or_leave(self, which: int, types: tuple[str | None, ...], leave: bool) -> None:
        slave = pick(self.slaves, which)
        if leave:
            self.broker.leave(slave.record)
            self.model.leave(slave)
        else:
            self.join_as(slave, types)

    def join_as(self, slave: ModelSlave, types: tuple[str | None, ...]) -> None:
        self.broker.join(slave.record, types, 1, self.now)
        self.model.join(slave, types, self.now)

    @precondition(lambda self: self.slaves)
    @rule(which=WHICH)
    def a_slave_goes(self, which: int) -> None:
        self.lose_slave(pick(self.busy() or self.slaves, which))

    def lose_slave(self, slave: ModelSlave) -> None:
        self.broker.slave_lost(slave.record, self.now)
        self.model.slave_lost(slave, self.now)
        self.slaves.remove(slave)

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, name_it=st.booleans(), body=st.sampled_from([b"1", b"{}"]))
    def respond(self, which: int, name_it: bool, body: bytes) -> None:
        slave = pick(self.busy(), which)
        assert slave.job is not None
        self.broker.respond(slave.record, slave.job.id if name_it else None, body, self.now)
        self.model.respond(slave, body, self.now)

    @precondition(lambda self: self.busy())
    @rule(which=WHICH, kind=st.sampled_from([None, "ValueError"]), retry=st.sampled_from([True, True, False]))
    def fail(self, which: int, kind: str | None, retry: bool) -> None:
        slave = pick(self.busy(), which)
        self.broker.fail(slave.record, None, "why", kind, None, retry, self.now)
        self.model.fail(slave, "why", kind, retry, self.now)

    @precondition(lambda self: self.slaves)
    @rule(which=WHICH, id=st.none() | st.sampled_from(IDS), fail=st.booleans())
    def answer_a_job_that_is_not_in_hand(self, which: int, id: JobKey | None, fail: bool) -> None:
        slave = pick(self.slaves, which)
        if slave.job is not None and id in (None, slave.job.id):
            return
        if fail:
            self.refused(InvalidState, self.broker.fail, (slave.record, id, "why", None, None, True, self.now))
        else:
            self.refused(InvalidState, self.broker.respond, (slave.record, id, b"1", self.now))

    # Time

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.broker.deadline_passed(self.now)

    def refused(self, error: type[Exception], verb: Any, arguments: tuple[Any, ...]) -> None:
        before = self.kind.picture(self.broker)
        with pytest.raises(error):
            verb(*arguments)
        assert self.kind.picture(self.broker) == before

    # After every step

    @invariant()
    def the_calls_on_peers_are_those_of_the_model(self) -> None:
        told, self.journal[:] = list(self.journal), []
        assert told == self.model.journal
        self.model.journal.clear()
        live: dict[str, ModelMaster | ModelSlave] = {peer.peer.name: peer for peer in self.masters}
        live.update((peer.peer.name, peer) for peer in self.slaves)
        for name, call in told:
            peer = live[name]  # KeyError: a lost peer was called
            if isinstance(peer, ModelMaster) and call[0] != "ok":
                peer.owed.remove(call[1])  # KeyError: a second outcome, or one for no job
        for master in self.masters:
            assert master.owed == {job.id for job in self.model.jobs if master in job.masters}

    @invariant()
    def as_many_jobs_are_in_flight_as_in_the_model(self) -> None:
        assert self.broker.unanswered == len(self.model.jobs)

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "broker"):
            return
        for master in list(self.masters):
            self.lose_master(master)
        for slave in list(self.slaves):
            self.lose_slave(slave)
        self.broker.deadline_passed(self.now)
        assert self.kind.picture(self.broker) == self.kind.picture(self.new_broker())


SETTINGS = settings(
    max_examples=90, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_any_order_of_events(kind: Kind) -> None:
    """After any events in any order, the calls of a broker on its peers are exactly those of the model."""

    class Machine(BrokerMachine):
        pass

    Machine.kind = kind
    run_state_machine_as_test(Machine, settings=SETTINGS)
