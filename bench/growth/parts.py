"""The parts of `bench.growth`: each compares brokers, or one broker with itself, and returns its rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.growth.broker import Broker
from bench.growth.load import HELLO, Load, answer_all, echo, idle, join, wait_in
from bench.growth.probe import PING, Probe

ROOMY = (
    "--max-jobs=3000000",
    "--max-queued-bytes=8589934592",
    "--master-share=1",
    "--retries=100",
    "--max-frame-bytes=268435456",
    "--max-unread-bytes=1073741824",
)
MIB = 1 << 20
MOST_TIMES = 1.3
MOST_JOB_BYTES = 700
MOST_CONNECTION_BYTES = 12 * 1024
MOST_WAIT_MS = 20
MOST_LEFT = 1.25
MOST_TIMES_LARGE = 5


@dataclass(frozen=True)
class Row:
    """
    One figure.

    Attributes:
        part: The part that measured it.
        name: Its name.
        measured: The figure that the limit applies to.
        unit: Its unit.
        bar: The limit; None where there is none.
        detail: The underlying figures.
    """

    part: str
    name: str
    measured: float
    unit: str
    bar: float | None
    detail: str

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return ""
        return "ok" if self.measured <= self.bar else "OVER"


@dataclass(frozen=True)
class Plan:
    """
    The amount of work.

    Attributes:
        jobs: Number of jobs in one measurement of CPU.
        rounds: Number of repetitions of each; small and large in turn.
        scale: The part of the full numbers of jobs, types and connections that is used.
    """

    jobs: int = 20_000
    rounds: int = 5
    scale: float = 1.0

    @property
    def settle_seconds(self) -> float:
        """Seconds without a change before memory is recorded."""
        return max(0.1, 1.5 * self.scale)

    @property
    def give_back_seconds(self) -> float:
        """As above, where the broker's timer (`gloom.host.malloc.INTERVAL_SECONDS`) returns memory meanwhile."""
        return 2 * self.settle_seconds

    def scaled(self, number: int) -> int:
        """Return *number*, scaled."""
        return max(1, int(number * self.scale))

    def compare(self, small: Callable[[], float], large: Callable[[], float]) -> tuple[float, float]:
        """Return the medians of two measurements, made in turn."""
        smalls, larges = self.in_turn([small, large])
        return statistics.median(smalls), statistics.median(larges)

    def in_turn(self, measurements: Sequence[Callable[[], float]]) -> list[list[float]]:
        """Return the figures of each of *measurements*, made in turn, so that a busy moment affects all."""
        rounds = [[measure() for measure in measurements] for _ in range(self.rounds)]
        return [list(figures) for figures in zip(*rounds, strict=True)]


# For a figure used as a divisor.
_LEAST = 0.01


def _times(part: str, name: str, figures: tuple[float, float], bar: float = MOST_TIMES, what: str = "us a job") -> Row:
    small, large = figures
    # The system counts in steps: a measurement of very few jobs may show zero.
    return Row(part, name, large / max(small, _LEAST), "times", bar, f"{large:.1f} against {small:.1f} {what}")


def _bytes_each(part: str, name: str, grown: int, count: int, bar: float) -> Row:
    return Row(part, name, grown / count, "B", bar, f"+{grown / MIB:.1f} MiB for {count:,}")


def _left(part: str, name: str, before: int, after: int) -> Row:
    return Row(
        part, name, after / before, "times", MOST_LEFT, f"{after / MIB:.1f} after, {before / MIB:.1f} MiB before"
    )


@contextmanager
def _two_brokers() -> Iterator[tuple[Broker, Broker]]:
    with Broker(*ROOMY) as small, Broker(*ROOMY) as large:
        yield small, large


def _compare_loads(plan: Plan, small: Load, large: Load) -> tuple[float, float]:
    return plan.compare(lambda: small.cpu_us_a_job(plan.jobs), lambda: large.cpu_us_a_job(plan.jobs))


def queued(plan: Plan) -> list[Row]:
    """Queue 1,000,000 jobs of another type, load the broker, and disconnect their master."""
    part, few, many = "queued", plan.scaled(1000), plan.scaled(1_000_000)
    with _two_brokers() as (small, large), ExitStack() as stack:
        loads = [stack.enter_context(Load(broker, [join("echo")] * 8, ["echo"])) for broker in (small, large)]
        for load in loads:
            load.cpu_us_a_job(plan.jobs)
        before = large.settled_bytes(plan.settle_seconds)
        masters = [wait_in(small, few, ["other"])]
        with Probe(large) as probe:
            submitting = probe.waits_during(lambda: masters.append(wait_in(large, many, ["other"])))
        grown = large.settled_bytes(plan.settle_seconds) - before
        times = _compare_loads(plan, *loads)
        with Probe(large) as probe:
            quiet = probe.waits_during(lambda: large.settled_bytes(plan.settle_seconds))
            begun = large.cpu_us()
            leaving = probe.waits_during(lambda: (masters[1].close(), large.settled_bytes(plan.settle_seconds)))
        forgetting = large.cpu_us() - begun
        after = large.settled_bytes(plan.give_back_seconds)
    return [
        _times(part, f"CPU with {many:,} jobs of another type queued, against {few:,}", times),
        _bytes_each(part, "memory of a queued job of 100 B", grown, many, MOST_JOB_BYTES),
        Row(
            part, "longest wait of others while their master disconnects", leaving.longest_ms, "ms", MOST_WAIT_MS,
            f"{quiet.longest_ms:.1f} ms in quiet before, median {quiet.median_ms:.2f}",
        ),
        Row(
            part, "longest wait of others while they are submitted", submitting.longest_ms, "ms", None,
            f"median {submitting.median_ms:.2f}",
        ),
        _left(part, "memory after the disconnect", before, after),
        # The probe's part is small. Unfinished removal shows in the memory.
        Row(part, "CPU of forgetting them", forgetting / many, "us", None, f"a job; {forgetting / 1e6:.1f} s in all"),
    ]  # fmt: skip


def behind(plan: Plan) -> list[Row]:
    """Let 1,000,000 jobs of the same type wait behind the load, and answer them all."""
    part, few, many = "behind", plan.scaled(1000), plan.scaled(1_000_000)

    def cpu(broker: Broker) -> float:
        # New slaves each time: at the end of a load each slave holds a job that waited.
        with Load(broker, [join("echo")] * 8, ["echo"]) as load:
            return load.cpu_us_a_job(plan.jobs)

    with _two_brokers() as (small, large):
        cpu(small), cpu(large)
        before = large.settled_bytes(plan.settle_seconds)
        masters = [wait_in(small, few, ["echo"]), wait_in(large, many, ["echo"])]
        times = plan.compare(lambda: cpu(small), lambda: cpu(large))
        begun = large.cpu_us()
        answer_all(large, masters[1], "echo", many)
        each = (large.cpu_us() - begun) / many
        after = large.settled_bytes(plan.give_back_seconds)
    return [
        _times(part, f"CPU with {many:,} jobs of the same type queued, of lower priority, against {few:,}", times),
        _left(part, "memory after all of them are answered", before, after),
        Row(part, "CPU of answering them, a slave with 1,000 slots", each, "us", None, "a job"),
    ]


def types(plan: Plan) -> list[Row]:
    """Use 10,000 job types, or let jobs of them wait."""
    part, count = "types", plan.scaled(10_000)
    names = [f"type {number}" for number in range(count)]
    rows = []
    with _two_brokers() as (small, large):
        for first in range(0, count, 1000):
            (slave,) = idle(large.connect_slave, [join(*names[first : first + 1000])], 2)
            slave.close()
        masters = [wait_in(small, count, ["other"]), wait_in(large, count, names)]
        with Load(small, [join("echo")] * 8, ["echo"]) as one, Load(large, [join("echo")] * 8, ["echo"]) as all:
            times = _compare_loads(plan, one, all)
        for master in masters:
            master.close()
        rows.append(_times(part, f"CPU with jobs of {count:,} other types queued, against one", times))
    for slaves, what in ((10, "slaves of 1,000 types each"), (5000, "slaves of 2 types each")):
        slaves = min(plan.scaled(slaves) if slaves > 10 else slaves, count)
        joins = [join(*names[number::slaves]) for number in range(slaves)]
        with (
            _two_brokers() as (small, large),
            Load(small, [join(names[0])] * slaves, names[:1]) as one,
            Load(large, joins, names) as all,
        ):
            times = _compare_loads(plan, one, all)
        rows.append(_times(part, f"CPU with {count:,} types in use, {slaves:,} {what}, against one", times))
    return rows


def connected(plan: Plan) -> list[Row]:
    """Hold 5,000 idle connections, and 5,000 slaves where the load needs few of them."""
    part, few, many = "connected", plan.scaled(8), plan.scaled(5000)
    rows = [_idle_masters(plan, part, many)]
    with _two_brokers() as (small, large), ExitStack() as stack:
        loads = [stack.enter_context(Load(broker, [join("echo")] * 8, ["echo"])) for broker in (small, large)]
        for load in loads:
            load.cpu_us_a_job(plan.jobs)
        before = large.settled_bytes(plan.settle_seconds)
        slaves = idle(small.connect_slave, [join("other")] * few, 2)
        slaves += idle(large.connect_slave, [join("other")] * many, 2)
        grown = large.settled_bytes(plan.settle_seconds) - before
        rows.append(_bytes_each(part, "memory of an idle slave", grown, many, MOST_CONNECTION_BYTES))
        times = _compare_loads(plan, *loads)
        rows.append(_times(part, f"CPU with {many:,} idle slaves of another type, against {few:,}", times))
        for slave in slaves:
            slave.close()
    with (
        _two_brokers() as (small, large),
        Load(small, [join("echo")] * 8, ["echo"], masters=1, window=4) as some,
        Load(large, [join("echo")] * many, ["echo"], masters=1, window=4) as all,
    ):
        times = _compare_loads(plan, some, all)
    rows.append(_times(part, f"CPU with {many:,} slaves of the same type, nearly all idle, against 8", times))
    return rows


def _idle_masters(plan: Plan, part: str, count: int) -> Row:
    with Broker(*ROOMY) as broker, Load(broker, [join("echo")] * 8, ["echo"]) as load:
        load.cpu_us_a_job(plan.jobs)
        before = broker.settled_bytes(plan.settle_seconds)
        masters = idle(broker.connect_master, [HELLO] * count, 1)
        grown = broker.settled_bytes(plan.settle_seconds) - before
        for master in masters:
            master.close()
    return _bytes_each(part, "memory of an idle master", grown, count, MOST_CONNECTION_BYTES)


def large(plan: Plan) -> list[Row]:
    """Echo a job of 64 MiB, and one of 16 MiB."""
    with Broker(*ROOMY) as broker:
        master, slave = broker.connect_master(), broker.connect_slave()
        slave.ask(join("echo"), 2)

        def cpu_of_echo(body_bytes: int) -> float:
            begun = broker.rested_cpu_us()
            echo(master, slave, body_bytes)
            return broker.rested_cpu_us() - begun

        small, big = (plan.scaled(size * MIB) for size in (16, 64))
        cpu_of_echo(big)
        times = plan.compare(lambda: cpu_of_echo(small) / 1000, lambda: cpu_of_echo(big) / 1000)
    return [_times("large", "CPU of a job of 64 MiB, against 16 MiB", times, MOST_TIMES_LARGE, "ms")]


def frames(plan: Plan) -> list[Row]:
    """Send 10,000 small frames at once, and 100 at a time."""
    with Broker(*ROOMY) as broker:
        master, count = broker.connect_master(), plan.scaled(10_000)
        master.ask(HELLO, 1)

        def pings(at_once: int) -> float:
            begun = broker.rested_cpu_us()
            for _ in range(count // at_once):
                master.ask(PING * at_once, at_once)
            return (broker.rested_cpu_us() - begun) / count

        some = max(1, count // 100)
        times = plan.compare(lambda: pings(some), lambda: pings(count))
    return [
        _times("frames", f"CPU of a ping of {count:,} in one send, against {some:,} in one", times, what="us a ping")
    ]


PARTS = {part.__name__: part for part in (queued, behind, types, connected, large, frames)}
