"""
Who takes which job: what waits for each job type, jobs in order or slaves in order of idleness.

Implements the orders of docs/protocol.md, sections 3.4 and 3.5. Here is kept
only what waits, and which lines a slave has joined; that a job is in a slave's
hand, and what becomes of it, is the business of `gloom.broker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gloom.jobqueue import first_of
from gloom.jobs import Job, JobKey, Line, Slave


class Pairing:
    """
    The lines of all job types.

    A slave that could take a job and a job that it could take never wait here
    at the same time.

    Args:
        is_dropped: Asked of a job whose first master has gone, before it is
            given to a slave; it may end the job there and then.
    """

    def __init__(self, is_dropped: Callable[[Job], bool]) -> None:
        self._is_dropped = is_dropped
        self.lines: dict[str | None, Line] = {}

    # Jobs

    def place(self, job: Job) -> Slave | None:
        """Return the slave that could take *job* and is idle longest, no longer idle; else queue the job."""
        idle = job.line.idle
        if idle:
            slave: Slave | None = next(iter(idle))
            if job.id in slave.hand:  # type: ignore[union-attr]
                slave = _first_without(idle, job.id)
            if slave is not None:
                self._unidle(slave)
                return slave
        job.line.queue.push(job)
        return None

    def next_for(self, slave: Slave) -> Job | None:
        """Take the first job that *slave* could take from its queue; if there is none, let the slave wait."""
        job = self._first_for(slave)
        if job is not None:
            if job.id not in slave.hand:
                job.line.queue.pop()
            else:
                job = self._take_past_ended_attempts(slave)
        if job is None:
            for line in slave.lines:
                line.idle[slave] = None  # one that waits already keeps its place
        elif slave in job.line.idle:
            self._unidle(slave)
        return job

    def _first_for(self, slave: Slave) -> Job | None:
        while True:
            first = None
            for line in slave.lines:
                if line.queue.entries:
                    job = line.queue.peek()
                    if job is not None:
                        first = job if first is None else first_of(first, job)
            if first is None or not (first.masters[0].is_gone and self._is_dropped(first)):
                return first

    def _take_past_ended_attempts(self, slave: Slave) -> Job | None:
        """As `next_for`, where an ended attempt of the first job is still in this very hand."""
        # The same id twice in one hand would let a late answer end the later attempt.
        skipped = []
        while (job := self._first_for(slave)) is not None and job.id in slave.hand:
            skipped.append(job.line.queue.pop())
        if job is not None:
            job.line.queue.pop()
        for other in skipped:
            other.line.queue.push(other)
        return job

    def _unidle(self, slave: Slave) -> None:
        """*slave* is given a job: it waits at the end for the next one, or not at all."""
        if len(slave.hand) + 1 < slave.slots:
            for line in slave.lines:
                line.idle.move_to_end(slave)
        else:
            for line in slave.lines:
                del line.idle[slave]

    # Slaves

    def join(self, slave: Slave, types: Sequence[str | None], slots: int) -> None:
        """Have *slave* wait for other jobs than before, and not yet be idle."""
        self.leave(slave)
        slave.lines = tuple(self.line_of(type) for type in dict.fromkeys(types))
        slave.slots = slots
        for line in slave.lines:
            line.slaves += 1

    def leave(self, slave: Slave) -> None:
        """Have *slave* wait for nothing."""
        lines, slave.lines = slave.lines, ()
        for line in lines:
            line.idle.pop(slave, None)
            line.slaves -= 1
            self.unuse(line)

    def has_slave(self, type: str | None) -> bool:
        """Return whether a slave has joined *type*."""
        line = self.lines.get(type)
        return line is not None and line.slaves > 0

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


def _first_without(idle: Iterable[Slave], id: JobKey) -> Slave | None:
    return next((slave for slave in idle if id not in slave.hand), None)
