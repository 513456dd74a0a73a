"""The plan of a run: the loads, their order, and the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.wire.measure import SHAPES, Load, LoadFailed, Measurement, measure
from bench.wire.systems import CannotStart, System

RATE_SECONDS = 3
# Cap on the total bytes of bodies in one measurement, over all masters.
MOST_BODY_BYTES = 300_000_000
# One job at a time takes longer, and varies less.
SYNC_PART = 4
# A table of many jobs is rebuilt now and then: a measurement must include its share of that, not one by chance.
FILLED_TIMES = 5
CAN_FILL = ("gloom", "gearmand")


@dataclass(frozen=True)
class Case:
    """One load for several systems."""

    shape: str
    body_bytes: int = 100
    rate: float = 0
    fill: int = 0

    @property
    def title(self) -> str:
        """Description, in lines."""
        window = self.load(1).window
        loop = f"{self.rate:,.0f} jobs/s offered" if self.rate else f"window {window}"
        queued = f"\n{self.fill:,} other jobs queued" if self.fill else ""
        return f"{self.shape}: {SHAPES[self.shape].peers}\n{_size(self.body_bytes)}, {loop}{queued}"

    @property
    def name(self) -> str:
        """Description, in one line."""
        return self.title.replace("\n", ", ")

    def load(self, jobs: int) -> Load:
        """Return the load, of *jobs* or fewer."""
        if self.rate:
            jobs = round(self.rate * RATE_SECONDS)
        elif self.shape == "S":
            jobs //= SYNC_PART
        elif self.fill:
            jobs *= FILLED_TIMES
        jobs = max(1, min(jobs, MOST_BODY_BYTES // self.body_bytes))
        return Load(SHAPES[self.shape], jobs, self.body_bytes, self.rate, self.fill)

    def takes(self, system: System) -> bool:
        """Whether *system* supports this load."""
        return not self.fill or system.name in CAN_FILL


@dataclass(frozen=True)
class Plan:
    """The measurements of a run."""

    shapes: Sequence[str]
    bodies: Sequence[int]  # the first in all shapes, the others in the first shape
    rates: Sequence[float]
    queued: int
    rounds: int
    jobs: int

    def cases(self) -> Iterator[Case]:
        """Yield the loads, in display order."""
        first, *others = self.bodies
        yield from (Case(shape, first) for shape in self.shapes)
        yield from (Case(self.shapes[0], body) for body in others)
        if self.queued:
            yield Case(self.shapes[0], first, fill=self.queued)
        yield from (Case(self.shapes[0], first, rate=rate) for rate in self.rates)


@dataclass
class Results:
    """The results of a run: measurements by case and system, one a round."""

    measured: dict[Case, dict[str, list[Measurement]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> list[dict[str, Any]]:
        """Return every measurement, flat."""
        return [
            {**vars(case), "window": case.load(1).window, "system": name, "round": number, **measurement.as_json()}
            for case, systems in self.measured.items()
            for name, measurements in systems.items()
            for number, measurement in enumerate(measurements, 1)
        ]


def run(plan: Plan, systems: Sequence[System], tell: Callable[[str], None]) -> Results:
    """
    Measure all of *plan*, the systems in turn within each round. *tell* receives the name of each measurement.

    Each system is restarted for each measurement, so that none has a past.
    """
    results = Results()
    for case in plan.cases():
        able = [system for system in systems if case.takes(system)]
        measured = results.measured[case] = {system.name: [] for system in able}
        for number in range(1, plan.rounds + 1):
            for system in able:
                tell(f"{case.name}: round {number} of {plan.rounds}, {system.name}")
                try:
                    measured[system.name].append(measure(system, case.load(plan.jobs)))
                except (CannotStart, LoadFailed) as error:
                    results.failures.append(f"{case.name}: {error}")
    return results


def _size(body_bytes: int) -> str:
    for unit, factor in (("MB", 1_000_000), ("KB", 1000)):
        if body_bytes >= factor:
            return f"{body_bytes / factor:g} {unit}"
    return f"{body_bytes} B"
