"""
The pairing of jobs and slaves: in the line of each type wait either jobs, in order, or slaves, idle longest first.

Implements the orders of docs/protocol.md, section 3.7. Only waiting jobs and
slaves are known here; jobs in hand, and the transitions of a job, are the
business of `gloom.broker.memory`.

A slave of few types stands in the line of each of them, and compares the first
jobs of all. A slave of many types stands in a crew instead, with all other slaves
of the same set (`gloom.broker.crews`), so that its jobs cost no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from heapq import merge

from gloom.broker.crews import Crews, tell_crews
from gloom.broker.jobqueue import first_of, rank_of
from gloom.broker.lines import Lines
from gloom.broker.records import NOBODY, Crew, Job, Line, Slave
from gloom.broker.values import JobKey

# Up to so many types, a slave costs less in their lines than in a crew.
_FEW_TYPES = 8
#: Abandoned jobs that are dropped in one step of the search for a slave's next job, about 2 ms.
MOST_DROPPED = 1000
# As many searches past the ended attempts in a slave's hand take as long.
_MOST_WALKS = 20


class Pairing:
    """
    The waiting jobs and slaves.

    A slave and a job that it could take never wait at the same time.

    Args:
        lines: The lines of all types.
        is_dropped: Called with a job whose first master is gone, before the job is
            assigned. It forgets the job if nobody waits for it, and returns whether it did.

    Attributes:
        crews: The crews of slaves with many types.
        postponed: Slaves that must search for a job again (`next_for`), since their
            last step met too many abandoned jobs.
    """

    def __init__(self, lines: Lines, is_dropped: Callable[[Job], bool]) -> None:
        self._is_dropped = is_dropped
        self._lines = lines
        self.crews = Crews(lines)
        self.postponed: dict[Slave, None] = {}
        # Places of slaves, in lines and in crews.
        self._slave_places = 0
        self._turns = 0

    @property
    def places(self) -> int:
        """The places that joined types take: one for each line of each slave and crew."""
        return self._slave_places + self.crews.places

    # Jobs

    def place(self, job: Job) -> Slave | None:
        """Return the slave for *job*: the one that is idle longest, and now no longer idle. If none is, queue *job*."""
        line = job.line
        if line.crews:
            slave = _idle_longest(line, job.id)
        elif line.idle:
            slave = next(iter(line.idle))
            if job.id in slave.hand:
                slave = _first_without(line.idle, job.id)
        else:
            slave = None
        if slave is not None:
            self._unidle(slave, stays=len(slave.hand) + 1 < slave.slots)
            return slave
        line.queue.push(job)
        if line.crews:
            tell_crews(job)
        return None

    def next_for(self, slave: Slave) -> Job | None:
        """Take the first job that *slave* could take out of its queue; if there is none, let the slave wait."""
        job = self._first_for(slave)
        # The same id twice in one hand would let a late answer end the later attempt.
        if job is not None and job.id in slave.hand:
            job = self._first_past_ended_attempts(slave)
        if job is not None:
            job.line.queue.remove(job)
            if slave.turn:
                self._unidle(slave, stays=len(slave.hand) + 1 < slave.slots)
        elif not slave.turn and slave not in self.postponed:
            # As `wait`; a call for each job would cost 1 % of it.
            slave.turn = self._turns = self._turns + 1
            for line in slave.lines:
                line.idle[slave] = None
        return job

    def wait(self, slave: Slave) -> None:
        """Let *slave* wait behind all others; a slave that waits already keeps its turn."""
        if not slave.turn:
            slave.turn = self._turns = self._turns + 1
            for line in slave.lines:
                line.idle[slave] = None

    def _first_for(self, slave: Slave) -> Job | None:
        dropped = 0
        while True:
            first = None
            for line in slave.lines:
                if line.queue.first is not None:
                    job = line.queue.peek()
                    if job is not None:
                        first = job if first is None else first_of(first, job)
            if first is None or not (first.masters[0].is_gone and self._is_dropped(first)):
                return first
            dropped += 1
            if dropped == MOST_DROPPED:
                self.postponed[slave] = None
                return None

    def _first_past_ended_attempts(self, slave: Slave) -> Job | None:
        """As `_first_for`, but pass the jobs of which this slave still holds an ended attempt."""
        for _ in range(_MOST_WALKS):
            job = _first_not_in_hand(slave)
            if job is None or not (job.masters[0].is_gone and self._is_dropped(job)):
                return job
        self.postponed[slave] = None
        return None

    def _unidle(self, slave: Slave, stays: bool) -> None:
        """Move *slave*, which gets a job, behind all other idle slaves if it *stays* idle, else out of its lines."""
        if stays:
            slave.turn = self._turns = self._turns + 1
            for line in slave.lines:
                line.idle.move_to_end(slave)
        else:
            slave.turn = 0
            for line in slave.lines:
                del line.idle[slave]

    # Slaves

    def join(self, slave: Slave, types: Sequence[str | None], slots: int) -> None:
        """Put *slave* into the lines of *types* instead of its old ones; it is not idle yet."""
        # Before the slave leaves, so that its old crew still exists if it joins the same types again.
        lines = self._join_lines(dict.fromkeys(types))
        self.leave(slave)
        slave.lines = lines
        slave.joined_slots = slots
        if not slave.is_blocked:
            slave.slots = slots
        self._slave_places += len(lines)

    def leave(self, slave: Slave) -> None:
        """Take *slave* out of all its lines."""
        if slave.turn:
            self._unidle(slave, stays=False)
        self.postponed.pop(slave, None)
        self._slave_places -= len(slave.lines)
        for line in slave.lines:
            if isinstance(line, Crew):
                self.crews.leave(line)
            else:
                self._lines.leave(line)
        slave.lines = ()
        slave.slots = slave.joined_slots = 0

    def block(self, slave: Slave) -> None:
        """Find no job for *slave* until `unblock`."""
        slave.is_blocked = True
        # No slot is free: so a job needs no check of its own for blocked slaves.
        slave.slots = 0
        if slave.turn:
            self._unidle(slave, stays=False)

    def unblock(self, slave: Slave) -> None:
        """Give *slave* its slots back; it is not idle yet."""
        slave.is_blocked = False
        slave.slots = slave.joined_slots

    def places_with(self, types: Sequence[str | None]) -> int:
        """Return the number of places once a slave has joined *types*, while it still has its old ones."""
        wanted = frozenset(types)
        if len(wanted) <= _FEW_TYPES:
            return self.places + len(wanted)
        crew = self.crews.by_types.get(wanted)
        return self.places + (1 + len(wanted) if crew is None else 1 + len(crew.left_out))

    def _join_lines(self, types: dict[str | None, None]) -> tuple[Line | Crew, ...]:
        if len(types) <= _FEW_TYPES:
            return tuple(self._stand_in_line(type) for type in types)
        crew = self.crews.join(frozenset(types))
        return (*(self._stand_in_line(type) for type in crew.left_out), crew)

    def _stand_in_line(self, type: str | None) -> Line:
        line = self._lines.join(type)
        if line.idle is NOBODY:
            line.idle = OrderedDict()
        return line


def _first_not_in_hand(slave: Slave) -> Job | None:
    for job in merge(*(line.queue for line in slave.lines), key=rank_of):
        if job.id not in slave.hand:
            return job
    return None


def _idle_longest(line: Line, id: JobKey) -> Slave | None:
    """Return the slave of *line*, or of one of its crews, that is idle longest and has no *id* in hand."""
    longest = _first_without(line.idle, id)
    for crew in line.crews:
        if crew.idle:
            slave = _first_without(crew.idle, id)
            if slave is not None and (longest is None or slave.turn < longest.turn):
                longest = slave
    return longest


def _first_without(idle: Iterable[Slave], id: JobKey) -> Slave | None:
    for slave in idle:
        if id not in slave.hand:
            return slave
    return None
