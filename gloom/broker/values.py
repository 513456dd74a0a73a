"""
The values that a front end and a broker pass to each other, whichever broker it is.

With `gloom.broker.interfaces` this is the whole seam. Nothing here knows how a
broker keeps its jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: A job's id as a broker uses it, only as a key: a string as it came; an integer by its decimal
#: digits as bytes, so that no master can choose ids with equal hashes (decision 21).
JobKey = str | int | bytes

_MOST_SHOWN_CHARACTERS = 100


def text_of(id: JobKey) -> str:
    """Return *id* as the reason of `gloom.errors.IdExists` shows it."""
    return id.decode() if isinstance(id, bytes) else str(id)


def quoted(id: JobKey) -> str:
    """Return *id* as other reasons show it: a string in quotes, and no more than 100 characters."""
    text = text_of(id) if isinstance(id, bytes) else repr(id)
    return text if len(text) <= _MOST_SHOWN_CHARACTERS else text[:_MOST_SHOWN_CHARACTERS] + "..."


@dataclass(frozen=True, slots=True)
class Terms:
    """
    The conditions of a ``submit`` beyond the base level (docs/protocol.md, section 4.3).

    Attributes:
        attach: Become a master of the job if its id is in flight.
        timeout_seconds: Longest time of one attempt; None for no limit.
        expires_seconds: Longest wait for a slave, from the end of the delay; None for no limit.
        delay_seconds: Time before the job may begin.
        retries: Further attempts after the first; None for the broker's default.
        require_slave: Refuse the job if no slave of its type has joined.
    """

    attach: bool = False
    timeout_seconds: float | None = None
    expires_seconds: float | None = None
    delay_seconds: float = 0.0
    retries: int | None = None
    require_slave: bool = False


#: The terms of every job at the base level. Nearly all jobs share this value, or the next.
BASE_TERMS = Terms()
#: The terms of a job that a client submits again.
ATTACH_TERMS = Terms(attach=True)


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Why a job ended without an answer (section 4.11).

    Attributes:
        error: The outcome's code.
        reason: What happened, for a person.
        kind: The exception's name on the slave, or None.
        traceback: The slave's traceback, or None.
        attempts: One mapping for each attempt, oldest first: ``slave``, ``seconds``, ``ended``.
    """

    error: str
    reason: str
    kind: str | None = None
    traceback: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    The course of an answered job (section 4.11).

    Attributes:
        queued_seconds: Time from the submission to the start of the last attempt.
        ran_seconds: Time of the last attempt.
        attempts: Number of attempts, 1 or more.
        slave: The name of the slave that answered.
    """

    queued_seconds: float
    ran_seconds: float
    attempts: int
    slave: str
