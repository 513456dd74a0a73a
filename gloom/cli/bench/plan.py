"""The plan of ``gloom bench``: the peers, the load and the length that the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchOptions:
    """
    What ``gloom bench`` was asked to do.

    Attributes:
        masters: How many submit.
        slaves: How many answer.
        slots: How many jobs each slave has in hand at once.
        window: Unanswered jobs at a time of each master, where there is no rate.
        rate: Jobs a second in all, or None for a closed loop.
        body_bytes: Of a body as JSON, its quotes included.
        seconds: How long each part submits, or None.
        jobs: How many jobs each part submits, or None.
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
        """Return how long a part is."""
        jobs = None if self.jobs is None else _count(self.jobs, "job")
        seconds = None if self.seconds is None else f"{self.seconds:g} s"
        return " or ".join(limit for limit in (jobs, seconds) if limit)


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"
