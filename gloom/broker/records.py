"""
The records of the in-memory broker: jobs, the lines of job types, crews, masters and slaves.

Plain data without behaviour. `gloom.broker.memory` and the modules under it make every change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec import field as made

from gloom.broker.interfaces import IMasterPeer, ISlavePeer
from gloom.broker.jobqueue import JobQueue, MergedQueue
from gloom.broker.values import JobKey, Terms

if TYPE_CHECKING:
    from gloom.broker.deadlines import Deadline


class Job(Struct, eq=False, gc=False):
    """
    One accepted job.

    The garbage collector does not track jobs: a collection that visited a million
    queued ones would delay every peer. So the broker must leave a job that it
    forgets in no reference cycle.

    Attributes:
        id: Unique while the job is in flight.
        line: The line of its type.
        priority: Larger first.
        sequence: Its number in the order of all submissions.
        payload: The bytes for its slave.
        masters: The masters that get its outcome; empty when all of them are gone.
        terms: The terms of its first ``submit``.
        submitted: The time of its acceptance, in seconds of the caller's clock.
        slave: The slave that has it in hand, or None while it waits.
        queued: Whether it is in its line's queue; kept by `JobQueue`.
        started: The time at which the present attempt began.
        attempts: The attempts that ended without an outcome, or None before the first.
        deadline: The end of its delay, wait or attempt, or None without a limit.
        before: The job before it in the run of its queue; kept by `JobQueue`.
        after: The job behind it in the run.
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
    queued: bool = False
    started: float = 0.0
    attempts: list[dict[str, Any]] | None = None
    deadline: Deadline[Job] | None = None
    before: Job | None = None
    after: Job | None = None


#: The idle slaves of every line in which no slave stands itself: always empty.
NOBODY: OrderedDict[Slave, None] = OrderedDict()


def _nobody() -> OrderedDict[Slave, None]:
    return NOBODY


class Line(Struct, eq=False, gc=False):
    """
    The line of one job type: its waiting jobs in order, or its idle slaves.

    The garbage collector does not follow it, nor its queue: slaves may have joined
    a hundred thousand types, and a full collection looked at them for 40 ms. What
    stands in a line is untied when it leaves it, and a crew when it is cleared.

    Attributes:
        type: The job type; None for untyped jobs.
        queue: Its queued jobs.
        idle: The slaves that could take one more job of it, idle longest first,
            without the slaves of its crews.
        crews: The crews whose slaves take its jobs.
        joined: The number of slaves and crews that have joined it.
        users: `joined`, and the number of its jobs in flight; at 0 the line is forgotten.
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
    The slaves that have joined the same set of many types; to them it is one line, made of many.

    Attributes:
        types: The set of types.
        left_out: The types for which each slave stands in the line itself.
        lines: The lines of all other types.
        queue: The jobs of `lines`, merged.
        idle: The slaves that could take one more job of `lines`, idle longest first.
        alone: ``(self,)``, shared by the lines that have no other crew.
        joined: The number of its slaves; at 0 it is forgotten, and its places are cleared later.
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
        peer: The connection.
        jobs: Its jobs in flight, in the order of its requests.
        queued_bytes: The size of their payloads together.
        alone: ``(self,)``, shared as the masters of all its own jobs; empty once it is gone.
        is_gone: Whether its connection has ended; its jobs may be forgotten a little later.
    """

    __slots__ = ("alone", "is_gone", "jobs", "peer", "queued_bytes")

    def __init__(self, peer: IMasterPeer) -> None:
        self.peer = peer
        self.jobs: dict[Job, None] = {}
        self.queued_bytes = 0
        self.is_gone = False
        self.alone: tuple[Master, ...] = (self,)


class Slave:
    """
    The broker's record of a connection on the slave port.

    Attributes:
        peer: The connection.
        lines: The lines of its types, with a crew in place of many of them; empty
            before ``join`` and after ``leave``.
        turn: Its number in the order of idleness, smaller if idle longer; 0 while it is not idle.
        slots: The number of jobs that it may have in hand; 0 while it has joined nothing or is blocked.
        joined_slots: The slots of its ``join``, also while it is blocked.
        is_blocked: Whether it gets no job because it has not read the bytes sent to it.
        hand: The jobs in hand by id; None for an attempt that the broker has ended
            (cancelled, timed out) and the slave has not let go of.
    """

    __slots__ = ("hand", "is_blocked", "joined_slots", "lines", "peer", "slots", "turn")

    def __init__(self, peer: ISlavePeer) -> None:
        self.peer = peer
        self.lines: tuple[Line | Crew, ...] = ()
        self.turn = 0
        self.slots = self.joined_slots = 0
        self.is_blocked = False
        self.hand: dict[JobKey, Job | None] = {}
