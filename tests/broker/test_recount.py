"""
The in-memory broker's own state, recounted after any order of events.

The machine is that of the contract. After every step this checks besides:

1. A job id is in exactly one place: in its type's queue, or in one slave's hand.
2. A slave holds at most one job, and each of the two refers to the other.
3. No job waits while a slave that could take it is idle.
4. Counters and lists equal a recount; no line and no crew without users is kept.
5. Idle slaves stand in all their lines, in the order of their turns.
"""

from __future__ import annotations

from collections import Counter

from hypothesis.stateful import invariant

from gloom.broker.memory import MemoryBroker
from gloom.broker.records import Crew, Job, Line
from tests.broker.contract.test_properties import SETTINGS, BrokerMachine, ModelSlave
from tests.support.floor import MEMORY
from tests.support.recording import standing_in


def job_of(slave: ModelSlave) -> Job | None:
    """Return the job that *slave* has in hand, by the broker's record."""
    return next(iter(slave.record.hand.values()), None)


class MemoryBrokerMachine(BrokerMachine):
    """Any events, and a recount after each."""

    kind = MEMORY
    broker: MemoryBroker

    @invariant()
    def a_job_is_in_exactly_one_place(self) -> None:
        queued = [job for line in self.broker._lines for job in standing_in(line.queue)]
        in_hand = [job for slave in self.slaves for job in slave.record.hand.values() if job is not None]
        places = Counter((job.id, job.line.type) for job in queued + in_hand)
        assert places == Counter((job.id, job.line.type) for job in self.broker._jobs.values())
        assert places == Counter((job.id, job.type) for job in self.model.jobs)

    @invariant()
    def a_slave_and_its_job_know_each_other(self) -> None:
        for slave in self.slaves:
            job = job_of(slave)
            assert len(slave.record.hand) <= 1
            assert (job and job.id) == (slave.job and slave.job.id)
            assert job is None or (job.slave is slave.record and not job.queued)
        holders = [job.slave for job in self.broker._jobs.values() if not job.queued]
        assert None not in holders
        assert len(holders) == len(set(holders))
        assert all(job.slave is None for job in self.waiting())

    @invariant()
    def no_job_waits_while_a_slave_could_take_it(self) -> None:
        for job in self.waiting():
            for slave in self.slaves:
                assert slave.record.hand or job.line.type not in slave.types

    @invariant()
    def the_jobs_of_a_master_are_those_without_an_outcome(self) -> None:
        for master in self.masters:
            assert master.owed == {job.id for job in master.record.jobs}
            assert master.owed == {id for id, job in self.broker._jobs.items() if master.record in job.masters}

    @invariant()
    def counters_and_lists_equal_a_recount(self) -> None:
        pairing = self.broker._pairing
        joined = [line for slave in self.slaves for line in slave.record.lines]
        crews = Counter(line for line in joined if isinstance(line, Crew))
        assert {crew: crew.joined for crew in pairing.crews.by_types.values()} == dict(crews)
        joins = Counter(line for line in joined if isinstance(line, Line))
        # Those that all slaves have left stand in some of their lines yet.
        standing = [*crews, *pairing.crews.deserted]
        joins.update(line for crew in standing for line in crew.lines)
        users = joins + Counter(job.line for job in self.broker._jobs.values())
        assert {line: line.users for line in self.broker._lines} == dict(users)
        waiting = Counter(job.line for job in self.waiting())
        for line in self.broker._lines:
            assert len(line.queue) == waiting[line]
            assert line.joined == joins[line]
            assert set(line.crews) == {crew for crew in standing if line in crew.lines}
            assert self.broker._lines.has_slave(line.type) == any(line.type in slave.types for slave in self.slaves)
        assert pairing.places == len(joined) + sum(len(crew.lines) for crew in standing)

    @invariant()
    def idle_slaves_stand_where_they_wait_in_the_order_of_their_turns(self) -> None:
        idle = sorted((slave.record for slave in self.slaves if slave.record.turn), key=lambda slave: slave.turn)
        assert [slave.peer.name for slave in idle] == [slave.peer.name for slave in self.model.idle]
        pairing = self.broker._pairing
        places: list[Line | Crew] = [*self.broker._lines, *pairing.crews.by_types.values()]
        for line in places:
            assert list(line.idle) == [slave for slave in idle if line in slave.lines]
        for slave in self.slaves:
            crews = [line for line in slave.record.lines if isinstance(line, Crew)]
            lines = [line for line in slave.record.lines if isinstance(line, Line)]
            assert bool(crews) == (len(slave.types) > 8)
            lines += [line for crew in crews for line in crew.lines]
            assert Counter(line.type for line in lines) == Counter(slave.types)

    def waiting(self) -> list[Job]:
        return [job for job in self.broker._jobs.values() if job.queued]


TestMemoryBrokerMachine = MemoryBrokerMachine.TestCase
TestMemoryBrokerMachine.settings = SETTINGS
