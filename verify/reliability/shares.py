"""
The share of a broker that well-behaved peers keep beside an attack, independent of the machine.

**The equal share.** N connections of the attacker compete for service, and G of
the good peers. A broker that gives each connection the same time
gives the good ones ``G / (G + N)`` of its time; more, if the attacker takes less
than its own part; and never more than they request. So, in jobs a second::

    equal share = least of (asked, greatest of (G / (G + N) * time, time - taken) / cost)

- *cost* is the broker's processor time per good job, measured before the
  attack, with no other peer connected.
- *time* is the part of each second for which the broker had a processor or
  needed none. Processor time that the machine did not give it does not count against it.
- *taken* is the attacker's part: the broker's processor time in each second of
  the attack, less *cost* for each good job.
- *asked* is the rate of the same good peers with another broker, beside
  processes that only consume processor time, as much as the attacker and
  *taken* together. The cost of that to the good peers' own processes, on two
  cores, says nothing about the broker.

A job passes through the broker four times, and each time it waits for a processor on a
machine that is busy with other things. If the broker waited for more than `MOST_WAITED`
of the time, the share is printed, and not judged.

Good peers must keep `LEAST_SHARE` of the equal share. No ping of a good peer and
no timer of the broker may be later than `LATE_SECONDS` (`verify.reliability.observer`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.support.daemon import Daemon
from verify.reliability.attacker import Attacker
from verify.reliability.attacks import Target
from verify.reliability.figures import MIB, quantile, resident_bytes, run_seconds, show, waited_seconds
from verify.reliability.floods import Flood
from verify.reliability.load import Load
from verify.reliability.nursery import Nursery
from verify.reliability.observer import Observer, Seen

LEAST_SHARE = 0.5
LATE_SECONDS = 0.1
MOST_WAITED = 0.5
# Memory growth that the broker may keep after the attacker has gone.
MOST_KEPT_BYTES = 64 * MIB
SLAVES = 2
# The master, and its slaves.
GOOD = 1 + SLAVES
WINDOW = 8
FINISH_SECONDS = 15.0
# Seconds after the attack: its connections end, memory is freed, and the good peers are still observed.
AFTER_SECONDS = 2.0
_START_SECONDS = 0.3
NOT_JUDGED = ": the machine is too busy, and the share is not judged"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stretch:
    """
    Some seconds of good peers' work.

    Attributes:
        seconds: Duration.
        jobs: Number of answered jobs.
        p99_seconds: The 99th percentile of the latency.
        broker_seconds: The broker's processor time.
        waited_seconds: The broker's wait for a processor.
    """

    seconds: float
    jobs: int
    p99_seconds: float
    broker_seconds: float
    waited_seconds: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds

    @property
    def cost_seconds(self) -> float:
        """The broker's time per job, if it did no other work."""
        return self.broker_seconds / max(1, self.jobs)


@dataclass(frozen=True)
class Share:
    """The result of one attack; the head of this module defines the terms."""

    flood: Flood
    alone: Stretch
    beside: Stretch
    asked: float
    seen: Seen
    kept_bytes: int
    lost: list[str]

    @property
    def waited(self) -> float:
        """The part of the time for which the broker waited for a processor."""
        return self.beside.waited_seconds / self.beside.seconds

    @property
    def equal(self) -> float:
        """The equal share, in jobs a second."""
        time = 1 - self.waited
        part = max(GOOD / (GOOD + self.flood.connections) * time, time - taken(self.alone, self.beside))
        return min(self.asked, part / self.alone.cost_seconds)

    @property
    def part(self) -> float:
        """The part of the equal share that the good peers kept."""
        return self.beside.rate / max(1e-9, self.equal)

    def failures(self, least_share: float = LEAST_SHARE, late_seconds: float = LATE_SECONDS) -> list[str]:
        """Return the failures."""
        seen, name = self.seen, self.flood.name
        return [
            *(f"{name}: {one}" for one in self.lost),
            *(
                [f"{name}: good peers kept {self.part:.2f} of the equal share"]
                if self.part < least_share and self.waited <= MOST_WAITED
                else []
            ),
            *([f"{name}: a ping took {seen.ping_net_seconds:.3f} s"] if seen.ping_net_seconds > late_seconds else []),
            *(
                [f"{name}: a timer was {seen.timer_net_seconds:.3f} s late"]
                if seen.timer_net_seconds > late_seconds
                else []
            ),
            *([f"{name}: the connection of a good peer that pings has ended"] if seen.dropped else []),
            *([f"{name}: {self.kept_bytes / MIB:.0f} MiB were kept"] if self.kept_bytes > MOST_KEPT_BYTES else []),
        ]

    def lines(self) -> list[str]:
        """Return the figures."""
        alone, beside, name = self.alone, self.beside, self.flood.name
        used = beside.broker_seconds / beside.seconds
        return [
            f"{name}: {beside.rate:.0f} jobs/s, {self.part:.2f} of the equal share of {self.equal:.0f}",
            f"    alone {alone.rate:.0f} jobs/s (kept {beside.rate / alone.rate:.2f}), asked for {self.asked:.0f}; "
            f"p99 {1000 * alone.p99_seconds:.1f} ms alone and {1000 * beside.p99_seconds:.0f} ms beside it",
            f"    the broker had {used:.2f} of a processor, {taken(alone, beside):.2f} of it for the attacker, "
            f"and waited for one for {self.waited:.2f} of the time{NOT_JUDGED if self.waited > MOST_WAITED else ''}",
            f"    {self.seen.summary()}, {self.kept_bytes / MIB:+.0f} MiB kept afterwards",
        ]


async def beside(
    reactor: Any,
    directory: Path,
    flood: Flood,
    seconds: float,
    *,
    quiet_seconds: float = 1.5,
    after_seconds: float = AFTER_SECONDS,
) -> Share:
    """Attack a separate broker for so many *seconds*, and return the result."""
    with Observer(directory) as observer, Attacker() as attacker, Attacker() as spinner:
        async with _good_peers(reactor, directory, observer) as (broker, load, lost):
            target = Target(broker.master_port, broker.slave_port, broker.pid)
            # For 0 seconds: imports and prepares the data.
            await _attack(attacker, flood, target, 0)
            alone, _ = await _stretch(reactor, broker, load, _pause(reactor, quiet_seconds))
            observer.observe(broker.master_port, broker.pid)
            before = resident_bytes(broker.pid)
            attack = _attack(attacker, flood, target, seconds)
            attacked, (did, attacker_seconds) = await _stretch(reactor, broker, load, attack)
            await _pause(reactor, after_seconds)
            seen, kept = observer.take(), resident_bytes(broker.pid) - before
        async with _good_peers(reactor, directory, observer) as (broker, load, _):
            part = (taken(alone, attacked) + attacker_seconds / attacked.seconds) / 2
            spinning = gatherResults([deferToThread(one.spin, part, quiet_seconds) for one in (attacker, spinner)])
            asked, _ = await _stretch(reactor, broker, load, spinning)
    show(f"{flood.name}: {did}")
    return Share(flood, alone, attacked, asked.rate, seen, kept, lost)


@asynccontextmanager
async def _good_peers(
    reactor: Any, directory: Path, observer: Observer
) -> AsyncIterator[tuple[Daemon, Load, list[str]]]:
    """Run a broker with a master and slaves at work; at the end, add the failures to the list."""
    broker, lost = Daemon(directory), list[str]()
    with observer.watched():
        await deferToThread(broker.start)
    try:
        load = Load(reactor, f"127.0.0.1:{broker.master_port}", masters=1, window=WINDOW, counts_wire=False)
        with Nursery(broker.slave_port) as nursery:
            nursery.start(SLAVES, job_seconds=0)
            await load.start()
            await _pause(reactor, _START_SECONDS)
            yield broker, load, lost
            lost += await load.finish(FINISH_SECONDS)
    finally:
        broker.kill()


def taken(alone: Stretch, attacked: Stretch) -> float:
    """Return the part of a processor that the broker spent on the attacker."""
    return max(0.0, attacked.broker_seconds - attacked.jobs * alone.cost_seconds) / attacked.seconds


def _pause(reactor: Any, seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


async def _stretch(reactor: Any, broker: Daemon, load: Load, until: Deferred[Result]) -> tuple[Stretch, Result]:
    load.take_seconds()
    begun, answered = reactor.seconds(), load.answered
    used, waited = run_seconds(broker.pid), waited_seconds(broker.pid)
    result = await until
    stretch = Stretch(
        reactor.seconds() - begun,
        load.answered - answered,
        quantile(load.take_seconds(), 0.99),
        run_seconds(broker.pid) - used,
        waited_seconds(broker.pid) - waited,
    )
    return stretch, result


def _attack(attacker: Attacker, flood: Flood, target: Target, seconds: float) -> Deferred[tuple[str, float]]:
    return deferToThread(attacker.attack, flood.name, target, seconds)
