"""
The lines of all job types: a line exists while a slave, a crew or a job uses it.
"""

from __future__ import annotations

from collections.abc import Iterator

from gloom.broker.records import Line

# A smaller dict is not worth a copy; and a copy of so many entries takes no time.
_ROOMY_BYTES = 200_000
_FEW_LINES = 1000


class Lines:
    """The lines by their types. Iteration yields the lines."""

    __slots__ = ("_by_type",)

    def __init__(self) -> None:
        self._by_type: dict[str | None, Line] = {}

    def __len__(self) -> int:
        return len(self._by_type)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._by_type.values())

    def get(self, type: str | None) -> Line | None:
        """Return the line of *type* if there is one."""
        return self._by_type.get(type)

    def use(self, type: str | None) -> Line:
        """Return the line of *type*, and count one more user of it."""
        line = self._by_type.get(type)
        if line is None:
            line = self._by_type[type] = Line(type)
        line.users += 1
        return line

    def release(self, line: Line) -> None:
        """Count one user less; a line without users is forgotten, so that types do not add up."""
        line.users -= 1
        if not line.users:
            del self._by_type[line.type]

    def join(self, type: str | None) -> Line:
        """Return the line of *type*, with a slave or crew more."""
        line = self.use(type)
        line.joined += 1
        return line

    def leave(self, line: Line) -> None:
        """Count a slave or crew less."""
        line.joined -= 1
        self.release(line)

    def has_slave(self, type: str | None) -> bool:
        """Return whether a slave has joined *type*, by itself or in a crew."""
        line = self._by_type.get(type)
        return line is not None and line.joined > sum(not crew.joined for crew in line.crews)

    def shrink(self) -> None:
        """Give back the memory of lines that were forgotten: deletions alone never shrink a dict."""
        if len(self._by_type) < _FEW_LINES and self._by_type.__sizeof__() > _ROOMY_BYTES:
            self._by_type = dict(self._by_type)
