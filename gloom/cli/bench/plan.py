"""The plan of ``gloom bench``: the peers, the load and the length that the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchOptions:
    """
    The options of ``gloom bench``.

    Attributes:
        masters: Number of masters.
        slaves: Number of slaves.
        slots: Jobs that each slave has in hand at once.
        window: Unanswered jobs of each master, if there is no rate.
        rate: Jobs a second in all, or None for a closed loop.
        body_bytes: Size of a body as JSON, its quotes included.
        seconds: How long each part submits, or None for no limit.
        jobs: How many jobs each part submits, or None for no limit.
        as_json: Whether the figures are printed as JSON.
    """

    masters: int
    slaves: int
    slots: int
    window: int
    rate: int | None
    body_bytes: int
    seconds: float | None
    jobs: int | None
    as_json: bool

    def __str__(self) -> str:
        slots = "" if self.slots == 1 else f" of {self.slots} slots"
        return (
            f"{_count(self.masters, 'master')}, {_count(self.slaves, 'slave')}{slots}, "
            f"bodies of {self.body_bytes:,} bytes"
        )

    def limits(self) -> str:
        """Return the length of a part, for a person."""
        jobs = None if self.jobs is None else _count(self.jobs, "job")
        seconds = None if self.seconds is None else f"{self.seconds:g} s"
        return " or ".join(limit for limit in (jobs, seconds) if limit)


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
