"""
The broker's records: jobs, what waits for each type, masters, slaves and their crews.

Plain data with no behaviour; every change to it is made in `gloom.broker.memory` and `gloom.broker.pairing`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec import field as made

from gloom.broker.jobqueue import JobQueue, MergedQueue

if TYPE_CHECKING:
    from gloom.broker.deadlines import Deadline

#: A job's id, as `gloom.wire.messages.key_of` has it; to the broker no more than a key.
JobKey = str | int | bytes


@dataclass(frozen=True, slots=True)
class Terms:
    """
    What a master asks beyond the base level (docs/protocol.md, section 4, ``submit``).

    Attributes:
        attach: Become a receiver of the outcome when the id is in flight.
        timeout_seconds: How long one attempt may run; None for no limit.
        expires_seconds: How long the job may wait for a slave; None for no limit.
        delay_seconds: How long it waits before it may start.
        retries: How often it is tried again; None for the broker's default.
        require_slave: Refuse it if no slave of its type has joined.
    """

    attach: bool = False
    timeout_seconds: float | None = None
    expires_seconds: float | None = None
    delay_seconds: float = 0.0
    retries: int | None = None
    require_slave: bool = False


#: The base level: nothing asked.
BASE_TERMS = Terms()
#: A job that is submitted again.
ATTACH_TERMS = Terms(attach=True)


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


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    How an answered job went (section 4, ``receipt``).

    Attributes:
        queued_seconds: From its submission to the start of its last attempt.
        ran_seconds: How long that attempt ran.
        attempts: How many there were, 1 or more.
        slave: The name of the slave that answered.
    """

    queued_seconds: float
    ran_seconds: float
    attempts: int
    slave: str


class Job(Struct, eq=False, gc=False):
    """
    One accepted job.

    The garbage collector does not follow it: to walk over a million that are
    queued would hold everybody up. The broker unties it when it forgets it.

    Attributes:
        id: Unique while the job is in flight.
        line: What its type has waiting.
        priority: Larger first.
        sequence: Its place in the order of all submissions.
        payload: What the slave is given.
        masters: Who is told the outcome; empty when all of them have gone.
        terms: What its first master asked for.
        submitted: When it was accepted, in seconds of the caller's clock.
        slave: Who has it in hand, or None while it waits.
        queued: True while it stands in its line's queue; kept by `JobQueue`.
        started: When the present attempt began.
        attempts: The attempts that ended without an outcome, or None before the first.
        deadline: When the broker must look at it next, or None.
        before: The job before it in the run of its queue; kept by `JobQueue`.
        after: The job behind it there.
    """

    id: JobKey
    line: Line
    priority: int
    sequence: int
    payload: bytes
    masters: tuple[Master, ...]
    terms: Terms
    submitted: float
    slave: Slave | None = None
    queued: int = 0
    started: float = 0.0
    attempts: list[dict[str, Any]] | None = None
    deadline: Deadline[Job] | None = None
    before: Job | None = None
    after: Job | None = None


#: Nobody is idle: of the lines that no slave stands in, and never changed.
NOBODY: OrderedDict[Slave, None] = OrderedDict()


def _nobody() -> OrderedDict[Slave, None]:
    return NOBODY


class Line(Struct, eq=False, gc=False):
    """
    What one job type has waiting: jobs in order, or slaves in order of idleness.

    The garbage collector does not follow it, nor its queue: slaves may have joined
    a hundred thousand types, and a full collection looked at them for 40 ms. What
    stands in a line is untied when it leaves it, and a crew when it is cleared.

    Attributes:
        type: The job type; None for untyped jobs.
        queue: Its queued jobs.
        idle: The slaves that could take one more job of it, idle longest first;
            without those of its crews.
        crews: Whose slaves could take its jobs, too.
        joined: How many slaves and crews have joined it.
        users: These, and its jobs in flight; at 0 the line is forgotten.
    """

    type: str | None
    queue: JobQueue[Job] = made(default_factory=JobQueue)
    # One for all, until a slave stands in the line itself.
    idle: OrderedDict[Slave, None] = made(default_factory=_nobody)
    crews: tuple[Crew, ...] = ()
    joined: int = 0
    users: int = 0


class Crew:
    """
    The slaves that have joined the same set of many types: for them one line, made of many.

    Attributes:
        types: The set.
        left_out: Those of it in whose lines each slave stands by itself.
        lines: The lines of the others.
        queue: The first job of all these.
        idle: The slaves that could take one more job of them, idle longest first.
        alone: ``(self,)``, shared by the lines that have no other crew.
        joined: How many slaves it has; at 0 it is forgotten, and then its places in the lines.
    """

    __slots__ = ("alone", "idle", "joined", "left_out", "lines", "queue", "types")

    def __init__(self, types: frozenset[str | None], left_out: Collection[str | None], lines: list[Line]) -> None:
        self.types = types
        self.left_out = left_out
        self.lines = lines
        self.queue: MergedQueue[Job] = MergedQueue(line.queue for line in lines)
        self.idle: OrderedDict[Slave, None] = OrderedDict()
        self.joined = 0
        self.alone: tuple[Crew, ...] = (self,)


class Master:
    """
    The broker's record of a connection on the master port.

    Attributes:
        peer: The connection, an `IMasterPeer`.
        jobs: Its jobs that have no outcome yet, in the order in which it asked for them.
        queued_bytes: The payloads of these jobs together.
        alone: ``(self,)``, shared as the masters of all its own jobs; empty once it has gone.
        is_gone: Whether its connection has ended; its jobs may be forgotten a little later.
    """

    __slots__ = ("alone", "is_gone", "jobs", "peer", "queued_bytes")

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.jobs: dict[Job, None] = {}
        self.queued_bytes = 0
        self.is_gone = False
        self.alone: tuple[Master, ...] = (self,)


class Slave:
    """
    The broker's record of a connection on the slave port.

    Attributes:
        peer: The connection, an `ISlavePeer`.
        lines: The types that it has joined, usually None (untyped jobs) among
            them, or a crew in place of many; empty before ``join`` and after ``leave``.
        turn: Its place in the order of idleness; 0 while it is not idle.
        slots: How many jobs it may have in hand; 0 while it has joined nothing, or is blocked.
        joined_slots: As slots, also while it is blocked.
        is_blocked: Whether bytes wait for it, so that it is given no job.
        hand: What it has in hand by id: a job, or None for an attempt that the
            broker has ended (cancelled, timed out) and the slave has not let go of.
    """

    __slots__ = ("hand", "is_blocked", "joined_slots", "lines", "peer", "slots", "turn")

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.lines: tuple[Line | Crew, ...] = ()
        self.turn = 0
        self.slots = self.joined_slots = 0
        self.is_blocked = False
        self.hand: dict[JobKey, Job | None] = {}
