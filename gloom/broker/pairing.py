"""
Who takes which job: what waits for each job type, jobs in order or slaves in order of idleness.

Implements the orders of docs/protocol.md, sections 3.4 and 3.5. Here is kept
only what waits, and which types a slave has joined; that a job is in a slave's
hand, and what becomes of it, is the business of `gloom.broker.memory`.

A slave of few types stands in the line of each of them, and looks at the first
job of each. A slave of many types belongs to a crew, with all others that have
joined the same set, and stands there; so a job costs it no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from heapq import merge

from gloom.broker.jobqueue import first_of, rank_of
from gloom.broker.records import NOBODY, Crew, Job, Line, Slave
from gloom.broker.values import JobKey

# A slave of so many types costs less without a crew.
_FEW_TYPES = 8
# Each job is told to the crews of its line, which costs about what it does to look at so many lines for each.
_TYPES_A_CREW = 8
_MOST_CREWS = 16
#: So many jobs that nobody waits for are dropped for a slave, about 2 ms; then it must ask again.
MOST_DROPPED = 1000
# As many times its hand is walked past for it.
_MOST_WALKS = 20
#: So many places of crews that have gone are cleared at a time, about 1 ms.
MOST_CLEARED = 1000
_ROOMY_BYTES = 200_000


class Pairing:
    """
    The lines of all job types.

    A slave that could take a job and a job that it could take never wait here
    at the same time.

    Args:
        is_dropped: Asked of a job whose first master has gone, before it is
            given to a slave; it may end the job there and then.

    Attributes:
        lines: What each type has waiting, while it has a slave or a job.
        crews: Those that have a slave, by their types.
        postponed: The slaves that are to ask for a job once more (`next_for`),
            since too many that nobody waits for were before it.
        left: Crews that all slaves have left, and that stand in their lines yet.
        places: How many places the joined types take: one for each line of each
            slave and crew.
    """

    def __init__(self, is_dropped: Callable[[Job], bool]) -> None:
        self._is_dropped = is_dropped
        self.lines: dict[str | None, Line] = {}
        self.crews: dict[frozenset[str | None], Crew] = {}
        self.postponed: dict[Slave, None] = {}
        self.left: list[Crew] = []
        self.places = 0
        self._turns = 0

    # Jobs

    def place(self, job: Job) -> Slave | None:
        """Return the slave that could take *job* and is idle longest, no longer idle; else queue the job."""
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
            _tell_crews(job)
        return None

    def next_for(self, slave: Slave) -> Job | None:
        """Take the first job that *slave* could take from its queue; if there is none, let the slave wait."""
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
        """Let *slave* wait behind all others; one that waits already keeps its turn."""
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
        """As `_first_for`, of the jobs that have no ended attempt in this very hand."""
        for _ in range(_MOST_WALKS):
            job = _first_not_in_hand(slave)
            if job is None or not (job.masters[0].is_gone and self._is_dropped(job)):
                return job
        self.postponed[slave] = None
        return None

    def _unidle(self, slave: Slave, stays: bool) -> None:
        """*slave* is given a job: it waits at the end for the next one, or not at all."""
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
        """Have *slave* wait for other jobs than before, and not yet be idle."""
        # Before it leaves: one that joins the same types once more finds its crew still there.
        lines = self._join_lines(dict.fromkeys(types))
        self.leave(slave)
        slave.lines = lines
        slave.joined_slots = slots
        if not slave.is_blocked:
            slave.slots = slots
        self.places += len(lines)

    def leave(self, slave: Slave) -> None:
        """Have *slave* wait for nothing; a large crew that it was the last of is cleared later (`clear_some`)."""
        if slave.turn:
            self._unidle(slave, stays=False)
        self.postponed.pop(slave, None)
        self.places -= len(slave.lines)
        for line in slave.lines:
            if isinstance(line, Crew):
                self._leave_crew(line)
            else:
                self._leave_line(line)
        slave.lines = ()
        slave.slots = slave.joined_slots = 0

    def block(self, slave: Slave) -> None:
        """Give *slave* no job until `unblock`."""
        slave.is_blocked = True
        # Where slots are compared, it is as one without any: that costs a job nothing.
        slave.slots = 0
        if slave.turn:
            self._unidle(slave, stays=False)

    def unblock(self, slave: Slave) -> None:
        """Have *slave* as before `block`, but not yet idle."""
        slave.is_blocked = False
        slave.slots = slave.joined_slots

    def has_slave(self, type: str | None) -> bool:
        """Return whether a slave has joined *type*."""
        line = self.lines.get(type)
        return line is not None and line.joined > sum(not crew.joined for crew in line.crews)

    def places_with(self, types: Sequence[str | None]) -> int:
        """Return how many places are taken once a slave has joined *types*, before it leaves what it had joined."""
        wanted = frozenset(types)
        if len(wanted) <= _FEW_TYPES:
            return self.places + len(wanted)
        crew = self.crews.get(wanted)
        return self.places + (1 + len(wanted) if crew is None else 1 + len(crew.left_out))

    def _join_lines(self, types: dict[str | None, None]) -> tuple[Line | Crew, ...]:
        if len(types) <= _FEW_TYPES:
            return tuple(self._stand_in_line(type) for type in types)
        crew = self._join_crew(frozenset(types))
        return (*(self._stand_in_line(type) for type in crew.left_out), crew)

    # Crews

    def _join_crew(self, types: frozenset[str | None]) -> Crew:
        crew = self.crews.get(types)
        if crew is None:
            crew = self._new_crew(types)
            self.crews[crew.types] = crew
        crew.joined += 1
        return crew

    def _new_crew(self, types: frozenset[str | None]) -> Crew:
        most_crews = min(_MOST_CREWS, len(types) // _TYPES_A_CREW)
        # The untyped jobs are for all crews, however many there are.
        left_out = {type for type in types if type is None or self._crews_of(type) >= most_crews}
        lines = [self._join_line(type) for type in types - left_out]
        # Of the lines' own strings, which the crews of a type share.
        crew = Crew(frozenset(line.type for line in lines) | left_out, left_out, lines)
        for line in lines:
            line.crews = (*line.crews, crew) if line.crews else crew.alone
        self.places += len(lines)
        return crew

    def _crews_of(self, type: str | None) -> int:
        line = self.lines.get(type)
        return 0 if line is None else len(line.crews)

    def _leave_crew(self, crew: Crew) -> None:
        crew.joined -= 1
        if not crew.joined:
            del self.crews[crew.types]
            self.left.append(crew)

    def clear_some(self) -> None:
        """Have some of the places forgotten that crews without a slave have in their lines."""
        for _ in range(MOST_CLEARED):
            if not self.left:
                break
            crew = self.left[-1]
            if crew.lines:
                line = crew.lines.pop()
                line.crews = tuple(other for other in line.crews if other is not crew)
                self.places -= 1
                self._leave_line(line)
            else:
                self.left.pop().alone = ()
        if len(self.lines) < MOST_CLEARED and self.lines.__sizeof__() > _ROOMY_BYTES:
            # By deletion alone it would stay as large as it was.
            self.lines = dict(self.lines)

    # Lines

    def line_of(self, type: str | None) -> Line:
        """Return the line of *type* for one more user."""
        line = self.lines.get(type)
        if line is None:
            line = self.lines[type] = Line(type)
        line.users += 1
        return line

    def unuse(self, line: Line) -> None:
        """One user less; an unused line goes, so that types do not add up for ever."""
        line.users -= 1
        if not line.users:
            del self.lines[line.type]

    def _join_line(self, type: str | None) -> Line:
        line = self.line_of(type)
        line.joined += 1
        return line

    def _stand_in_line(self, type: str | None) -> Line:
        """As `_join_line`, for a slave that stands there itself, and not in a crew."""
        line = self._join_line(type)
        if line.idle is NOBODY:
            line.idle = OrderedDict()
        return line

    def _leave_line(self, line: Line) -> None:
        line.joined -= 1
        self.unuse(line)


def _first_not_in_hand(slave: Slave) -> Job | None:
    for job in merge(*(line.queue for line in slave.lines), key=rank_of):
        if job.id not in slave.hand:
            return job
    return None


def _tell_crews(job: Job) -> None:
    """Let the crews of its line know of *job*, which was queued."""
    queue = job.line.queue
    if queue.peek() is job:
        for crew in job.line.crews:
            crew.queue.expect(job, queue)


def _idle_longest(line: Line, id: JobKey) -> Slave | None:
    """Return who is idle longest of *line*'s slaves and crews, and does not have *id* in hand."""
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
