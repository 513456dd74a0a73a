"""Peers that write down what a broker tells them, and a picture of a broker's whole state to compare."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from gloom.broker.interfaces import IMasterPeer, ISlavePeer
from gloom.broker.jobqueue import JobQueue
from gloom.broker.memory import MemoryBroker
from gloom.broker.records import Job
from gloom.broker.values import Failure, JobKey, Receipt, text_of

Told = tuple[Any, ...]

OK: Told = ("ok",)


def assigned(id: JobKey) -> Told:
    """What a slave is told when it gets the job *id*, whose payload is `payload_of` it."""
    return ("assigned", payload_of(id))


def payload_of(id: JobKey) -> bytes:
    """The payload that tests submit for the job *id*."""
    return f"job {text_of(id)}".encode()


class RecordingPeer:
    """
    What both kinds of peers share.

    Attributes:
        name: How failures name it.
        told: What it was told and was not taken yet, oldest first.
        journal: All that the peers which share it were told: (name, what).
    """

    def __init__(self, name: str, journal: list[tuple[str, Told]] | None = None) -> None:
        self.name = name
        self.told: list[Told] = []
        self.journal = [] if journal is None else journal

    def tell(self, *what: Any) -> None:
        self.told.append(what)
        self.journal.append((self.name, what))

    def take(self) -> list[Told]:
        """Return what was told since the last call."""
        told, self.told = self.told, []
        return told

    def accepted(self) -> None:
        self.tell("ok")


@implementer(IMasterPeer)
class RecordingMaster(RecordingPeer):
    """
    A master that only listens.

    Attributes:
        wants_receipts: What the broker is to think; a receipt is told behind the answer.
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
    A slave that only listens.

    Attributes:
        is_full: Whether it wants no other job before it is ready again.
    """

    is_full = False

    def assigned(self, payload: bytes) -> bool:
        self.tell("assigned", payload)
        return self.is_full

    def revoked(self, id: JobKey) -> None:
        self.tell("revoked", id)


def standing_in(queue: JobQueue[Job]) -> list[Job]:
    """Return what is queued, in order, without moving anything."""
    return list(queue)


def picture(broker: MemoryBroker) -> dict[str, Any]:
    """Return all that *broker* knows, in plain values: two equal pictures are the same state."""
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
        "submitted": broker._submitted,
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
