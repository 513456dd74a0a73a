"""
Counts answers while a load runs, and tells when to stop.
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
    One measurement: a first answer, a warm-up, and the measured time.

    The first answer is not counted, because it includes the start of the workers.

    Args:
        warm_seconds: Duration of the warm-up.
        seconds: Duration of the measured time.
        cpu: Returns the CPU seconds used so far by each part of the system.

    Attributes:
        figures: The results, once `answered` has returned False.
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
            began: Time of the job's submit, by `time.perf_counter`, if latency is measured.

        Returns:
            Whether to go on.
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
    """Return the *percent* percentile of *values* (nearest rank)."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100), 1) - 1]


def one_at_a_time(call: Callable[[str], object], meter: Meter) -> None:
    """Let *call* do jobs one after the other until *meter* has enough."""
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
        wait: Waits for the answer of a handle's job, and returns it.
        window: Number of jobs in flight.
        meter: Counts the answers.
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
