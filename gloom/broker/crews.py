"""
The crews: slaves that have joined the same set of many types share one place in the line of each (decision 15).

A slave of few types stands in the line of each type itself, which is
`gloom.broker.pairing`'s business.
"""

from __future__ import annotations

from gloom.broker.lines import Lines
from gloom.broker.records import Crew, Job, Line

# A job is told to every crew of its line; to tell one costs as much as to compare the first jobs of so many lines.
_TYPES_A_CREW = 8
_MOST_CREWS = 16
#: Places of deserted crews that are cleared in one step, about 1 ms.
MOST_CLEARED = 1000


class Crews:
    """
    The crews, and the places that they take in the lines.

    Args:
        lines: The lines of all types.

    Attributes:
        by_types: The crews that have a slave, by their sets of types.
        deserted: The crews that all slaves have left, until their places are cleared.
        places: The number of places that all crews take in lines.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.by_types: dict[frozenset[str | None], Crew] = {}
        self.deserted: list[Crew] = []
        self.places = 0

    def join(self, types: frozenset[str | None]) -> Crew:
        """Return the crew of *types*, a new one if there is none, with one more slave."""
        crew = self.by_types.get(types)
        if crew is None:
            crew = self._form(types)
            self.by_types[crew.types] = crew
        crew.joined += 1
        return crew

    def _form(self, types: frozenset[str | None]) -> Crew:
        most_crews = min(_MOST_CREWS, len(types) // _TYPES_A_CREW)
        # Untyped jobs are for all slaves: their line would have every crew.
        left_out = {type for type in types if type is None or self._crews_of(type) >= most_crews}
        lines = [self._lines.join(type) for type in types - left_out]
        # The strings of the lines, which all crews of a type share.
        crew = Crew(frozenset(line.type for line in lines) | left_out, left_out, lines)
        for line in lines:
            line.crews = (*line.crews, crew) if line.crews else crew.alone
        self.places += len(lines)
        return crew

    def _crews_of(self, type: str | None) -> int:
        line = self._lines.get(type)
        return 0 if line is None else len(line.crews)

    def leave(self, crew: Crew) -> None:
        """Count a slave less; the places of a crew without slaves are cleared later, by `clear_some`."""
        crew.joined -= 1
        if not crew.joined:
            del self.by_types[crew.types]
            self.deserted.append(crew)

    def clear_some(self) -> None:
        """Clear some of the places of deserted crews."""
        for _ in range(MOST_CLEARED):
            if not self.deserted:
                break
            crew = self.deserted[-1]
            if crew.lines:
                self._clear(crew, crew.lines.pop())
            else:
                # Break the reference cycle: `alone` holds the crew itself.
                self.deserted.pop().alone = ()
        self._lines.shrink()

    def _clear(self, crew: Crew, line: Line) -> None:
        line.crews = tuple(other for other in line.crews if other is not crew)
        self.places -= 1
        self._lines.leave(line)


def tell_crews(job: Job) -> None:
    """Tell the crews of a line about *job*, which has just been queued there, if it is the first one."""
    queue = job.line.queue
    if queue.peek() is job:
        for crew in job.line.crews:
            crew.queue.expect(job, queue)
