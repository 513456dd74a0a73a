"""
Attempts: the jobs in a slave's hand, and the history that an attempt leaves in its job.
"""

from __future__ import annotations

from gloom.broker.records import Job, Slave
from gloom.broker.values import JobKey, Receipt, quoted
from gloom.errors import InvalidState, MissingField


def let_go(slave: Slave, id: JobKey | None) -> Job | None:
    """
    Take a job out of the slave's hand.

    Args:
        slave: The slave.
        id: The job's id; None for the only one in hand.

    Returns:
        The job, or None for an attempt that the broker had ended.

    Raises:
        InvalidState: No job, or not that job, is in hand.
        MissingField: *id* is None, and more than one job is in hand.
    """
    hand = slave.hand
    if id is None:
        if len(hand) == 1:
            return hand.popitem()[1]
        if hand:
            raise MissingField(f"id is required when more than one job is in hand, {len(hand)} are")
        raise InvalidState("no job is in hand")
    if id not in hand:
        raise InvalidState(f"the job {quoted(id)} is not in hand")
    return hand.pop(id)


def in_hand(slave: Slave, id: JobKey | None) -> Job | None:
    """Return the job of `let_go`, and leave it there; None where that would raise."""
    hand = slave.hand
    if id is None:
        return next(iter(hand.values())) if len(hand) == 1 else None
    return hand.get(id)


def note_end(job: Job, slave: Slave, how: str, now: float) -> None:
    """
    Add an attempt that has ended without an answer to the job's history.

    Args:
        job: The job.
        slave: The slave that had the job in hand.
        how: The attempt's ``ended`` (docs/protocol.md, section 4.11).
        now: The time.
    """
    if job.attempts is None:
        job.attempts = []
    seconds = round(now - job.started, 6)
    job.attempts.append({"slave": slave.peer.name, "seconds": seconds, "ended": how})


def are_spent(job: Job, retries: int) -> bool:
    """Return whether *job* has had all its attempts; *retries* is the broker's default."""
    return len(job.attempts or ()) > (retries if job.terms.retries is None else job.terms.retries)


def counted(job: Job) -> str:
    """Return the number of attempts that have ended, for a reason: ``2 attempts``."""
    attempts = len(job.attempts or ())
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def receipt_of(job: Job, slave: Slave, now: float) -> Receipt:
    """Return the course of *job*, which *slave* answers at *now*."""
    queued, ran = job.started - job.submitted, now - job.started
    return Receipt(round(queued, 6), round(ran, 6), 1 + len(job.attempts or ()), slave.peer.name)
