"""The curves of `bench.growth`: the CPU of a job at several sizes, each measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench.growth.broker import Broker, Connection
from bench.growth.load import Load, echo, idle, join, wait_in
from bench.growth.parts import ROOMY, Plan

LEAST_BODY_BYTES = 100
# One measurement echoes so many jobs, or fewer large ones.
MOST_ECHOES = 1000
ECHOED_BYTES = 64_000_000


@dataclass(frozen=True)
class Curve:
    """
    The cost of a job as a function of a size.

    Attributes:
        name: The size that grows.
        load: The broker's load meanwhile.
        sizes: The size at each point.
        cpu_us: The CPU of a job at each point, in microseconds, once for each round.
        proportional: Whether the cost must grow with the size; the plot then shows both.
    """

    name: str
    load: str
    sizes: list[int]
    cpu_us: list[list[float]]
    proportional: bool = False

    @property
    def medians(self) -> list[float]:
        return [statistics.median(figures) for figures in self.cpu_us]

    def __str__(self) -> str:
        points = zip(self.sizes, self.medians, strict=True)
        return f"{self.name}: " + ", ".join(f"{median:,.1f} us at {size:,}" for size, median in points)


def _sizes(plan: Plan, *sizes: int, least: int = 0) -> list[int]:
    """Return *sizes* scaled for *plan*: 0 remains, and equal sizes are merged."""
    return sorted({max(least, size and plan.scaled(size)) for size in sizes})


def _brokers(stack: ExitStack, count: int) -> list[Broker]:
    return [stack.enter_context(Broker(*ROOMY)) for _ in range(count)]


def _echo_load(stack: ExitStack, broker: Broker) -> Load:
    return stack.enter_context(Load(broker, [join("echo")] * 8, ["echo"]))


def _in_turn(plan: Plan, loads: Sequence[Load]) -> list[list[float]]:
    return plan.in_turn([partial(load.cpu_us_a_job, plan.jobs) for load in loads])


def queued(plan: Plan) -> Curve:
    """Let up to 1,000,000 jobs of another type wait."""
    sizes = _sizes(plan, 0, 1000, 10_000, 100_000, 1_000_000)
    with ExitStack() as stack:
        brokers = _brokers(stack, len(sizes))
        loads = [_echo_load(stack, broker) for broker in brokers]
        for broker, size in zip(brokers, sizes, strict=True):
            wait_in(broker, size, ["other"])
        return Curve("other jobs queued", "8 slaves", sizes, _in_turn(plan, loads))


def types(plan: Plan) -> Curve:
    """Use up to 10,000 job types in turn, spread over 10 slaves."""
    sizes, slaves = _sizes(plan, 1, 10, 100, 1000, 10_000), 10
    with ExitStack() as stack:
        loads = []
        for broker, size in zip(_brokers(stack, len(sizes)), sizes, strict=True):
            names = [f"type {number}" for number in range(size)]
            joins = [join(*names[number % size :: slaves]) for number in range(slaves)]
            loads.append(stack.enter_context(Load(broker, joins, names)))
        return Curve("job types in use", "10 slaves", sizes, _in_turn(plan, loads))


def connected(plan: Plan) -> Curve:
    """Connect up to 5,000 slaves of another type."""
    sizes = _sizes(plan, 8, 100, 1000, 5000)
    with ExitStack() as stack:
        brokers = _brokers(stack, len(sizes))
        loads = [_echo_load(stack, broker) for broker in brokers]
        for broker, size in zip(brokers, sizes, strict=True):
            idle(broker.connect_slave, [join("other")] * size, 2)
        return Curve("idle slaves connected", "8 slaves", sizes, _in_turn(plan, loads))


def bodies(plan: Plan) -> Curve:
    """Echo jobs with bodies of up to 64 MB, one after the other."""
    sizes = _sizes(plan, 100, 1000, 10_000, 100_000, 10**6, 16 * 10**6, 64 * 10**6, least=LEAST_BODY_BYTES)
    with Broker(*ROOMY) as broker:
        master, slave = broker.connect_master(), broker.connect_slave()
        slave.ask(join("echo"), 2)
        echo(master, slave, sizes[-1])
        figures = plan.in_turn([partial(_echo_cpu_us, broker, master, slave, size) for size in sizes])
    return Curve("bytes of the body", "one job at a time", sizes, figures, proportional=True)


def _echo_cpu_us(broker: Broker, master: Connection, slave: Connection, body_bytes: int) -> float:
    jobs = max(1, min(MOST_ECHOES, ECHOED_BYTES // body_bytes))
    begun = broker.rested_cpu_us()
    for _ in range(jobs):
        echo(master, slave, body_bytes)
    return (broker.rested_cpu_us() - begun) / jobs


CURVES = {curve.__name__: curve for curve in (queued, types, connected, bodies)}
