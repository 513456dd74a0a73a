"""The broker's own counters and places, recounted and compared with the mirror's account."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from gloom.broker.records import Crew, Line, Slave
from gloom.transport.states import Output
from tests.support.recording import standing_in

from .accounts import MirrorJob
from .mirror import Mirror, expiry

_ROUNDING_SECONDS = 1e-6

Thing = TypeVar("Thing")


def check_quickly(mirror: Mirror) -> None:
    """After every step: sums agree, and no job waits while a slave waits for it."""
    broker = mirror.broker
    assert len(broker._jobs) == len(mirror.jobs) + len(mirror.forsaken), "jobs in flight"
    assert broker._bytes == mirror.bytes + mirror.forsaken_bytes, "bytes in flight"
    if mirror.is_ending:
        return
    for line in broker._lines:
        if (line.idle or line.crews) and len(line.queue):
            _check_nobody_could(line)


def _idle(line: Line) -> list[Slave]:
    """Return all slaves waiting in *line*, longest idle first."""
    slaves = [*line.idle, *(slave for crew in line.crews for slave in crew.idle)]
    return sorted(slaves, key=lambda slave: slave.turn)


def _check_nobody_could(line: Line) -> None:
    for slave in _idle(line):
        for job in standing_in(line.queue):
            assert job.id in slave.hand or _is_forsaken(job), f"job {job.id!r} waits and a slave is idle"


def _is_forsaken(job: Any) -> bool:
    return all(master.is_gone for master in job.masters)


def recount(mirror: Mirror, around: Any, now: float, is_due: bool, factories: Any) -> None:
    """Recount everything from scratch. *is_due*: calls are due, so the broker may be late."""
    check_quickly(mirror)
    broker = mirror.broker
    assert broker._jobs.keys() == mirror.jobs.keys() | mirror.forsaken.keys(), "jobs"
    assert not mirror.jobs.keys() & mirror.forsaken.keys()
    queued = [job for line in broker._lines for job in standing_in(line.queue)]
    standing = set(queued)
    assert len(standing) == len(queued), "a job stands in queues twice"
    for job in mirror.jobs.values():
        real = broker._jobs[job.id]
        _check_place(real, job, real in standing)
        if not is_due:
            _check_time(job, now)
    _check_peers(mirror)
    _check_lines(mirror)
    _check_deadlines(mirror, None if is_due else now)
    _check_limits(mirror)
    assert around.connections == sum(len(factory.peers) for factory in factories), "connections"
    assert around.refused == sum(len(factory.turned_away) for factory in factories), "refused connections"
    assert around.connections <= mirror.settings.max_connections
    _check_unread(mirror, around, factories)


def _check_place(real: Any, job: MirrorJob, stands: bool) -> None:
    slave = job.slave
    assert stands + (slave is not None) + job.is_delayed == 1, f"job {job.id!r} is not in one place"
    assert real.queued == stands, "whether a job is queued"
    assert (real.slave.peer if real.slave else None) is slave, "the slave of a job"
    assert [master.peer for master in real.masters if not master.is_gone] == job.masters, "masters of a job"
    assert job.masters or slave, "a job that nobody waits for"


def _check_time(job: MirrorJob, now: float) -> None:
    if job.slave is None:
        assert job.is_delayed or now <= expiry(job) + _ROUNDING_SECONDS, "it waits though it has expired"
        assert not job.is_delayed or now <= job.submitted + job.terms.delay_seconds + _ROUNDING_SECONDS
    elif job.terms.timeout_seconds is not None:
        assert now <= job.started + job.terms.timeout_seconds + _ROUNDING_SECONDS, "it runs though its time is over"


def _check_peers(mirror: Mirror) -> None:
    for master in mirror.masters:
        assert {job.id for job in master.record.jobs} == master.jobs.keys(), "jobs of a master"
        sizes = sum(len(job.payload) for job in master.record.jobs)
        assert master.record.queued_bytes == master.queued_bytes == sizes, "bytes of a master"
    for slave in mirror.slaves:
        hand = slave.record.hand
        assert list(hand) == list(slave.hand), "the hand of a slave"
        for id, job in slave.hand.items():
            assert (hand[id] is None) == (job is None), "a hand that holds an ended attempt"
            assert job is None or (hand[id] is mirror.broker._jobs[id] and job.slave is slave), "a job in a wrong hand"


def _check_lines(mirror: Mirror) -> None:
    pairing = mirror.broker._pairing
    crews = Counter(line for slave in mirror.slaves for line in slave.record.lines if isinstance(line, Crew))
    assert {crew: crew.joined for crew in pairing.crews.by_types.values()} == crews, "crews"
    # Crews that all slaves have left still stand in some lines.
    standing = [*crews, *pairing.crews.deserted]
    places = sum(len(slave.record.lines) for slave in mirror.slaves) + sum(len(crew.lines) for crew in standing)
    assert pairing.places == places, "places of joined types"
    jobs_of = _by_type((job, (job.type,)) for job in mirror.jobs.values())
    forsaken_of = _by_type((job, (job.line.type,)) for job in mirror.forsaken.values())
    joined_of = _by_type((slave, set(slave.types)) for slave in mirror.slaves)
    idle_of = _by_type((slave, set(slave.types)) for slave in mirror.idle)
    for line in mirror.broker._lines:
        joined, jobs, forsaken = joined_of[line.type], jobs_of[line.type], forsaken_of[line.type]
        alone = [slave for slave in joined if line in slave.record.lines]
        assert len(line.crews) == sum(line in crew.lines for crew in standing), "crews of a type"
        assert len(joined) == len(alone) + sum(crew.joined for crew in line.crews), "slaves of a type"
        assert line.joined == len(alone) + len(line.crews), "slaves and crews of a type"
        assert line.users == line.joined + len(jobs) + len(forsaken) > 0, "users of a type"
        waiting = sum(job.slave is None and not job.is_delayed for job in jobs)
        assert len(line.queue) == waiting + sum(job.queued for job in forsaken), "the length of a queue"
        assert [slave.peer for slave in _idle(line)] == idle_of[line.type], "idle"
    for slave in mirror.slaves:
        is_free = bool(slave.types and len(slave.hand) < slave.slots and not slave.is_blocked)
        assert slave in mirror.postponed or (slave in mirror.idle) == is_free, "idle slaves"


def _by_type(things: Iterable[tuple[Thing, Iterable[str | None]]]) -> dict[str | None, list[Thing]]:
    by_type = defaultdict(list)
    for thing, types in things:
        for type in types:
            by_type[type].append(thing)
    return by_type


def _check_deadlines(mirror: Mirror, now: float | None) -> None:
    broker = mirror.broker
    deadlines = [job.deadline for job in broker._jobs.values() if job.deadline is not None]
    assert sorted(deadlines) == list(broker._deadlines), "deadlines"
    first = broker._deadlines.next()
    assert first is None or now is None or first > now - _ROUNDING_SECONDS, "a deadline was missed"


def _check_limits(mirror: Mirror) -> None:
    settings = mirror.settings
    assert len(mirror.jobs) <= settings.max_jobs or mirror.draining
    assert mirror.bytes == sum(job.size for job in mirror.jobs.values()) <= settings.max_queued_bytes, "bytes"


def _check_unread(mirror: Mirror, around: Any, factories: Any) -> None:
    """Check that each byte buffered for a peer is counted, and that a slave with buffered bytes is blocked."""
    peers = [peer for factory in factories for peer in (*factory.peers, *factory.turned_away)]
    for peer in peers:
        assert peer.waiting_bytes == peer._given_bytes + sum(map(len, peer._backlog)), "bytes that wait for a peer"
        has_backlog = peer._sending in (Output.BLOCKED, Output.FINISHING)
        assert (peer in around.unread._windows) == has_backlog, "a peer that has to wait"
    assert around.unread.bytes == sum(peer.waiting_bytes for peer in around.unread._windows), "bytes that wait"
    for slave in mirror.slaves:
        ends = slave.peer.closed or slave.peer._is_gone
        assert ends or slave.is_blocked == (slave.peer._sending is not Output.FREE), "a blocked slave"
        assert slave.record.is_blocked == slave.is_blocked


def check_empty(mirror: Mirror, around: Any, factories: Any) -> None:
    """After all peers have gone: the broker holds no state."""
    broker = mirror.broker
    assert not mirror.jobs and not broker._jobs and not mirror.masters and not mirror.slaves and not mirror.idle
    assert not len(broker._lines) and not broker._bytes and not len(broker._deadlines), "something leaks"
    assert not around.connections and not any(factory.peers for factory in factories), "connections leak"
    assert not around.stalls._watched and around.stalls._timer is None
    assert not around.unread._windows and not around.unread.bytes and around.unread._timer is None
    assert not around.refused and not any(factory.turned_away for factory in factories)
    assert not around.flushes._waiting and not around.answers._waiting
