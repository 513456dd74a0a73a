"""Peers that record the calls of a broker, and a picture of the whole state of an in-memory broker."""

from __future__ import annotations

from ast import literal_eval
from typing import Any

from zope.interface import implementer

from gloom.broker.interfaces import IMasterPeer, ISlavePeer
from gloom.broker.jobqueue import JobQueue
from gloom.broker.memory import MemoryBroker
from gloom.broker.records import Job
from gloom.broker.values import Failure, JobKey, Receipt

#: A call on a peer: the name of the method, and the arguments.
Told = tuple[Any, ...]

OK: Told = ("ok",)
_PAYLOAD = b"job "


def assigned(id: JobKey) -> Told:
    """Return the record of the assignment of the job *id*."""
    return ("assigned", payload_of(id))


def payload_of(id: JobKey) -> bytes:
    """Return the payload that tests submit for the job *id*."""
    return _PAYLOAD + repr(id).encode()


def failed(told: list[Told]) -> list[tuple[Any, ...]]:
    """Return the failures in *told*: the id, the code, the reason, and the ends of the attempts."""
    return [
        (call[1], call[2].error, call[2].reason, [attempt["ended"] for attempt in call[2].attempts])
        for call in told
        if call[0] == "failed"
    ]


class RecordingPeer:
    """
    A peer that only records.

    Attributes:
        name: Its name in failures.
        told: The calls that were not taken yet, oldest first.
        journal: The calls on all peers that share the journal: (name, call).
        is_lost: Whether its connection has ended: then no call may come.
    """

    def __init__(self, name: str, journal: list[tuple[str, Told]] | None = None) -> None:
        self.name = name
        self.told: list[Told] = []
        self.journal = [] if journal is None else journal
        self.is_lost = False

    def tell(self, *call: Any) -> None:
        assert not self.is_lost, f"{call[0]} was called on the lost peer {self.name}"
        self.told.append(call)
        self.journal.append((self.name, call))

    def take(self) -> list[Told]:
        """Return the calls since the last `take`."""
        told, self.told = self.told, []
        return told

    def accepted(self) -> None:
        self.tell("ok")


@implementer(IMasterPeer)
class RecordingMaster(RecordingPeer):
    """
    A master that only records.

    Attributes:
        wants_receipts: Whether the broker must give receipts; one stands behind the answer.
    """

    wants_receipts = False

    def answered(self, id: JobKey, body: Any, receipt: Receipt | None) -> None:
        self.tell("answered", id, body, *([] if receipt is None else [receipt]))

    def progressed(self, id: JobKey, body: Any) -> None:
        self.tell("progressed", id, body)

    def cancelling(self, running: bool) -> None:
        self.tell("cancelling" if running else "cancelled")

    def failed(self, id: JobKey, failure: Failure) -> None:
        self.tell("failed", id, failure)


@implementer(ISlavePeer)
class RecordingSlave(RecordingPeer):
    """
    A slave that only records.

    Attributes:
        is_full: Whether it takes no other job before it is ready again.
        hand: The ids that it was assigned; the test removes those of which it lets go.
    """

    is_full = False

    def __init__(self, name: str, journal: list[tuple[str, Told]] | None = None) -> None:
        super().__init__(name, journal)
        self.hand: list[JobKey] = []

    def assigned(self, payload: bytes) -> bool:
        self.tell("assigned", payload)
        if payload.startswith(_PAYLOAD):
            self.hand.append(literal_eval(payload[len(_PAYLOAD) :].decode()))
        return self.is_full

    def revoked(self, id: JobKey) -> None:
        self.tell("revoked", id)


def standing_in(queue: JobQueue[Job]) -> list[Job]:
    """Return the queued jobs in order."""
    return list(queue)


def picture(broker: MemoryBroker) -> dict[str, Any]:
    """Return the state of *broker* in plain values, without the number of submissions."""
    return {
        "jobs": {id: _picture_of_job(job) for id, job in broker._jobs.items()},
        "lines": {
            line.type: (line.users, len(line.queue), [slave.peer.name for slave in line.idle]) for line in broker._lines
        },
        "crews": {
            types: (crew.joined, [slave.peer.name for slave in crew.idle])
            for types, crew in broker._pairing.crews.by_types.items()
        },
        "deadlines": [(when, str(job.id)) for when, _, job in broker._deadlines],
        "gone": [(master.peer.name, len(master.jobs)) for master in broker._gone_masters],
        "bytes": broker._bytes,
    }


def _picture_of_job(job: Job) -> tuple[Any, ...]:
    return (
        job.line.type,
        job.priority,
        job.sequence,
        job.payload,
        [(master.peer.name, master.queued_bytes) for master in job.masters],
        job.slave and job.slave.peer.name,
        job.queued,
        job.started,
        list(job.attempts or ()),
    )
