"""
A long steady load: ``python -m verify.reliability.soak --minutes 10 --rate R``.

Every ten seconds it records the broker's memory, its file descriptors and the
latencies. It passes if, after the first minute, memory grew by less
than 5 %, the number of descriptors did not change, and the p99 stayed flat: its
median over the last third at most 1.5 times that over the first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from tests.support.daemon import Daemon
from verify.reliability.figures import MIB, cpu_seconds, descriptors, quantile, resident_bytes, show, verdict
from verify.reliability.load import Load
from verify.reliability.nursery import Nursery

SAMPLE_SECONDS = 10.0
WARM_SECONDS = 60.0
MOST_GROWTH = 1.05
MOST_SLOWER = 1.5
FINISH_SECONDS = 30.0


@dataclass(frozen=True)
class Sample:
    """
    One sample.

    Attributes:
        at: Seconds since the start.
        resident: The broker's memory, bytes.
        descriptors: The broker's open files.
        cpu: The broker's CPU use, as a part of a core.
        answers: Answers per second.
        p50: Median latency, seconds.
        p99: 99th percentile of the latency, seconds.
    """

    at: float
    resident: int
    descriptors: int
    cpu: float
    answers: float
    p50: float
    p99: float

    def line(self) -> str:
        """Return it as a line of the table."""
        return (
            f"{self.at:6.0f} {self.resident / MIB:9.1f} {self.descriptors:6d} {100 * self.cpu:6.0f} "
            f"{self.answers:10.0f} {1000 * self.p50:8.2f} {1000 * self.p99:8.2f}"
        )


HEADING = "     s   RSS MiB    fds  CPU %  answers/s   p50 ms   p99 ms"


def judge(samples: Sequence[Sample]) -> list[str]:
    """Return the figures that changed too much; *samples* are those after the warm-up."""
    if len(samples) < 3:
        return [f"{len(samples)} samples after the first minute are too few to judge: run longer"]
    first, last = samples[0], samples[-1]
    third = max(1, len(samples) // 3)
    early, late = (statistics.median(one.p99 for one in part) for part in (samples[:third], samples[-third:]))
    counts = {one.descriptors for one in samples}
    growth = last.resident / first.resident
    show(
        f"after the first minute: memory {100 * (growth - 1):+.1f} %, {min(counts)} to {max(counts)} descriptors, "
        f"p99 {1000 * early:.2f} ms in the first third and {1000 * late:.2f} ms in the last"
    )
    return [
        *([f"memory grew by {100 * (growth - 1):.1f} %"] if growth >= MOST_GROWTH else []),
        *([f"the descriptors did not stay: {sorted(counts)}"] if len(counts) > 1 else []),
        *([f"the p99 went from {early:.4f} s to {late:.4f} s"] if late > MOST_SLOWER * early else []),
    ]


async def soak(reactor: Any, broker: Daemon, seconds: float, rate: float, slaves: int = 8) -> list[str]:
    """Submit *rate* jobs a second for so long; return the failures."""
    load = Load(reactor, f"127.0.0.1:{broker.master_port}", rate=rate, counts_wire=False)
    samples: list[Sample] = []
    with Nursery(broker.slave_port) as nursery:
        nursery.start(slaves, job_seconds=0)
        await load.start()
        begun, cpu = reactor.seconds(), cpu_seconds(broker.pid)
        show(HEADING)
        for number in range(1, int(seconds / SAMPLE_SECONDS) + 1):
            await deferLater(reactor, max(0, begun + number * SAMPLE_SECONDS - reactor.seconds()), lambda: None)
            took, used = load.take_seconds(), cpu_seconds(broker.pid)
            sample = Sample(
                reactor.seconds() - begun,
                resident_bytes(broker.pid),
                descriptors(broker.pid),
                (used - cpu) / SAMPLE_SECONDS,
                len(took) / SAMPLE_SECONDS,
                quantile(took, 0.5),
                quantile(took, 0.99),
            )
            cpu = used
            samples.append(sample)
            show(sample.line())
        failures = await load.finish(FINISH_SECONDS)
    show(f"{rate:g} jobs a second wanted; {load.summary()}")
    return failures + judge([sample for sample in samples if sample.at >= WARM_SECONDS])


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=1500, help="jobs a second; half of what the machine does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        broker = Daemon(Path(name))
        await deferToThread(broker.start)
        try:
            failures = await soak(reactor, broker, 60 * options.minutes, options.rate)
        finally:
            broker.kill()
    raise SystemExit(verdict(failures))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
