"""
Counts answers while a load runs, and says when it is enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from bench.clients.user_level.echo import BODY, check

Cpu = Callable[[], dict[str, float]]


class Meter:
    """
    One measurement: a first answer, a warm-up, and the time that counts.

    The first answer is not counted, since it waits for workers to start.

    Args:
        warm_seconds: How long the warm-up is.
        seconds: How long the time that counts is.
        cpu: Returns the CPU seconds that each part of the system has used so far.

    Attributes:
        figures: What was measured, once `answered` has returned False.
    """

    def __init__(self, warm_seconds: float, seconds: float, cpu: Cpu) -> None:
        self.figures: dict[str, Any] = {}
        self._phases = [warm_seconds, seconds]
        self._cpu = cpu
        self._used: dict[str, float] = {}
        self._jobs = 0
        self._latencies: list[float] = []
        self._start = self._until = 0.0

    def answered(self, began: float | None = None) -> bool:
        """
        Count an answer.

        Args:
            began: When its job was submitted, by `time.perf_counter`, where that is measured.

        Returns:
            Whether another one is wanted.
        """
        now = perf_counter()
        self._jobs += 1
        if began is not None:
            self._latencies.append(now - began)
        if now < self._until:
            return True
        if self._phases:
            self._begin(self._phases.pop(0))
            return True
        self._end(now)
        return False

    def _begin(self, seconds: float) -> None:
        self._used = self._cpu()
        self._jobs, self._latencies = 0, []
        self._start = perf_counter()
        self._until = self._start + seconds

    def _end(self, now: float) -> None:
        used = {part: seconds - self._used.get(part, 0.0) for part, seconds in self._cpu().items()}
        self.figures = {
            "jobs": self._jobs,
            "seconds": now - self._start,
            "jobs_per_second": self._jobs / (now - self._start),
            "cpu_ms_per_job": sum(used.values()) / self._jobs * 1e3,
            "cpu_ms_per_job_of": {part: seconds / self._jobs * 1e3 for part, seconds in used.items()},
        }
        if self._latencies:
            self.figures["p50_ms"] = percentile(self._latencies, 50) * 1e3
            self.figures["p99_ms"] = percentile(self._latencies, 99) * 1e3


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least of *values* that *percent* of them do not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def one_at_a_time(call: Callable[[str], object], meter: Meter) -> None:
    """Have *call* do jobs, each when the one before is answered, until *meter* has enough."""
    more = True
    while more:
        began = perf_counter()
        check(call(BODY))
        more = meter.answered(began)


def in_order(submit: Callable[[str], Any], wait: Callable[[Any], object], window: int, meter: Meter) -> None:
    """
    Keep *window* jobs in flight, and take their answers in order, until *meter* has enough.

    Args:
        submit: Submits a job with a body, and returns a handle.
        wait: Returns the answer of a handle's job when it is there.
        window: How many jobs are in flight.
        meter: Counts.
    """
    in_flight = deque(submit(BODY) for _ in range(window))
    more = True
    while more:
        check(wait(in_flight.popleft()))
        more = meter.answered()
        if more:
            in_flight.append(submit(BODY))
    for handle in in_flight:
        wait(handle)
