"""Load one system once: the load generator's options, and its results."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from bench.wire.programs import compiled
from bench.wire.systems import System, started

RUN_SECONDS = 100
# Above this part of one core, the load generator itself may limit the throughput.
BUSY_LOAD = 0.9
# No bodies of 1 MB with a window of 64: that would measure memory.
MOST_BYTES_IN_FLIGHT = 8_000_000


class LoadFailed(Exception):
    """The load generator saw something unexpected; the text says what."""


@dataclass(frozen=True)
class Shape:
    """Number of masters, of slaves, and of jobs in flight for each master."""

    masters: int
    slaves: int
    window: int

    @property
    def peers(self) -> str:
        """Masters and slaves, as text."""
        return ", ".join(
            f"{count} {noun}{'s' * (count > 1)}" for count, noun in ((self.masters, "master"), (self.slaves, "slave"))
        )

    def __str__(self) -> str:
        return f"{self.peers}, window {self.window}"


SHAPES = {"A": Shape(4, 8, 64), "B": Shape(1, 4, 4), "C": Shape(8, 64, 64), "S": Shape(1, 1, 1)}


@dataclass(frozen=True)
class Load:
    """One load."""

    shape: Shape
    jobs: int
    body_bytes: int = 100
    rate: float = 0  # jobs offered a second; 0: a closed loop
    fill: int = 0  # jobs of another type that are queued before

    @property
    def window(self) -> int:
        """Jobs in flight for each master."""
        return max(1, min(self.shape.window, MOST_BYTES_IN_FLIGHT // self.body_bytes))

    def arguments(self) -> list[str]:
        """Return it as options of the load generator."""
        options = {
            "masters": self.shape.masters,
            "slaves": self.shape.slaves,
            "window": self.window,
            "jobs": self.jobs,
            "body": self.body_bytes,
            "rate": self.rate,
            "fill": self.fill,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Measurement:
    """The result of one load of one freshly started system."""

    jobs: int
    seconds: float
    cpu_seconds: float  # of the system's process, all threads
    load_cpu_seconds: float
    peak_bytes: int  # resident memory of the system's process
    p50_us: float
    p99_us: float
    p99_9_us: float
    max_us: float
    late_p99_us: float  # how late the load generator sent the planned jobs

    @property
    def cpu_us(self) -> float:
        """CPU of the system for each job, in microseconds."""
        return self.cpu_seconds / self.jobs * 1e6

    @property
    def jobs_per_second(self) -> float:
        """Answered jobs a second."""
        return self.jobs / self.seconds

    @property
    def load_is_busy(self) -> bool:
        """Whether the load generator may have limited the throughput."""
        return self.load_cpu_seconds / self.seconds > BUSY_LOAD

    def as_json(self) -> dict[str, Any]:
        """Return it as values for a JSON file, with the derived values."""
        return {
            **asdict(self),
            "cpu_us": self.cpu_us,
            "jobs_per_second": self.jobs_per_second,
            "load_is_busy": self.load_is_busy,
        }


def measure(system: System, load: Load) -> Measurement:
    """Start *system*, give it *load*, stop it. Raises CannotStart and LoadFailed."""
    with started(system) as running:
        ports = ["--port", str(running.port), "--slave-port", str(running.slave_port), "--pid", str(running.pid)]
        slots = ["--slots", str(system.slots)]
        command = [str(compiled("load")), "--system", system.wire, *ports, *slots, *load.arguments()]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"{system.name} was not done within {RUN_SECONDS} s") from None
        if result.returncode:
            raise LoadFailed(result.stderr.strip() or f"the load generator ended with status {result.returncode}")
        return Measurement(**json.loads(result.stdout), peak_bytes=running.peak_bytes())
