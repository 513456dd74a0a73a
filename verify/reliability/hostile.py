"""
Hostile peers beside well-behaved ones: ``python -m verify.reliability.hostile``.

The attacks run one after the other. During each, the broker keeps serving a
well-behaved master and its slaves: each of their jobs gets its answer. Beside the master
that does not read they keep at least 0.8 of their throughput. Beside the floods
(`verify.reliability.floods`), which claim all of the broker's time, they keep at least
half of an equal share of it (`verify.reliability.shares` defines the share).
"""

from __future__ import annotations

import argparse
import multiprocessing
import ssl
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from tests.support.authority import Authority
from tests.support.daemon import Daemon
from verify.reliability import attacks, shares
from verify.reliability.attacks import Target, Unharmed
from verify.reliability.figures import MIB, show, verdict
from verify.reliability.floods import FLOODS
from verify.reliability.load import Load
from verify.reliability.nursery import Nursery

STALL_SECONDS = 1.0
MAX_UNREAD_BYTES = 8 * MIB
OPTIONS = (
    f"--stall-seconds={STALL_SECONDS}",
    f"--max-unread-bytes={MAX_UNREAD_BYTES}",
    f"--max-total-unread-bytes={MAX_UNREAD_BYTES}",
)
LEAST_SHARE = 0.8
# Bytes that a slow master reads per answer of 64 KiB.
DRIP_BYTES = 1024
FINISH_SECONDS = 20.0

Attack = Callable[[Target], str]


def target_of(broker: Daemon) -> Target:
    """Return *broker*, started with `OPTIONS`, as a target."""
    return Target(broker.master_port, broker.slave_port, broker.pid, STALL_SECONDS, MAX_UNREAD_BYTES)


async def beside_good_peers(
    reactor: Any, broker: Daemon, attack: Attack, *, quiet_seconds: float = 1.0, least_share: float = 0.0
) -> list[str]:
    """
    Attack *broker* while well-behaved peers use it.

    Args:
        reactor: Clock and sockets.
        broker: Started with `OPTIONS`.
        attack: The attack. It runs in a separate process, so that it takes time from the broker and not from
            the well-behaved master, which runs in this one.
        quiet_seconds: Seconds for which the peers' throughput is measured before the attack.
        least_share: The part of that throughput that the peers must keep.

    Returns:
        The failures.
    """
    load = Load(reactor, f"127.0.0.1:{broker.master_port}", masters=1, window=8)
    failures: list[str] = []
    with (
        Nursery(broker.slave_port) as nursery,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as attacker,
    ):
        nursery.start(2, job_seconds=0.001)
        await deferToThread(_call, attacker, name_of, attack)  # the attacker has imported its modules
        await load.start()
        before = await _answers_a_second(reactor, load, deferLater(reactor, quiet_seconds, lambda: None))
        act = partial(_call, attacker, attack, target_of(broker))
        outcome = Deferred.fromCoroutine(_done(name_of(attack), act, failures))
        during = await _answers_a_second(reactor, load, outcome)
        failures += await load.finish(FINISH_SECONDS)
    share = during / before
    show(f"    beside it: {load.summary()}; {before:.0f} answers/s before, {during:.0f} meanwhile ({share:.2f})")
    if share < least_share:
        failures.append(f"good peers kept {share:.2f} of their throughput beside {name_of(attack)}")
    return failures


def _call(attacker: Executor, function: Callable[[Any], str], argument: Any) -> str:
    """Call *function* in the process of *attacker*; return its result, or raise its exception."""
    return attacker.submit(function, argument).result()


async def _done(name: str, act: Callable[[], str], failures: list[str]) -> None:
    try:
        show(await deferToThread(act))
    except (Unharmed, OSError) as error:
        failures.append(f"{name}: {error}")


def name_of(attack: Callable[..., str]) -> str:
    """Return the name of *attack*."""
    return str(getattr(attack, "func", attack).__name__)


async def _answers_a_second(reactor: Any, load: Load, until: Deferred[Any]) -> float:
    begun, answered = reactor.seconds(), load.answered
    await until
    return float((load.answered - answered) / (reactor.seconds() - begun))


ATTACKS: tuple[Attack, ...] = (
    attacks.slow_loris,
    attacks.oversize,
    attacks.deep_json,
    attacks.invalid_utf8,
    attacks.tls_on_a_plain_port,
    attacks.collisions,
    attacks.many_connections,
)


async def beside_a_slow_reader(reactor: Any, broker: Daemon, seconds: float, drip_bytes: int = 0) -> list[str]:
    """Let one master read nothing, or a little now and then; the other peers must keep their share of throughput."""
    attack = partial(attacks.slow_reader, seconds=seconds, drip_bytes=drip_bytes)
    return await beside_good_peers(reactor, broker, attack, quiet_seconds=seconds, least_share=LEAST_SHARE)


async def too_many(reactor: Any, broker: Daemon, allowed: int) -> list[str]:
    """Open more connections than a *broker* with ``--max-connections`` of *allowed* admits."""
    return await beside_good_peers(reactor, broker, partial(attacks.too_many_connections, allowed=allowed))


def with_certificate(directory: Path) -> tuple[list[str], ssl.SSLContext]:
    """Return the options of a broker with TLS, and those of a client that trusts it."""
    authority = Authority(directory)
    certificate, key = authority.issue("broker", "broker")
    return [f"--tls-cert={certificate}", f"--tls-key={key}"], ssl.create_default_context(cafile=str(authority.file))


async def plain_beside_tls(directory: Path) -> list[str]:
    """Send plain bytes to a broker with TLS; the attack brings well-behaved TLS peers of its own."""
    options, trusting = with_certificate(directory)
    failures: list[str] = []
    broker = Daemon(directory)
    await deferToThread(broker.start, *OPTIONS, *options)
    try:
        attack = attacks.plain_on_a_tls_port
        await _done(name_of(attack), partial(attack, target_of(broker), trusting), failures)
    finally:
        broker.kill()
    return failures


async def everything(reactor: Any, seconds: float) -> list[str]:
    """Run every attack; return the failures."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        broker = Daemon(directory)
        await deferToThread(broker.start, *OPTIONS)
        try:
            for attack in ATTACKS:
                failures += await beside_good_peers(reactor, broker, attack)
            failures += await beside_a_slow_reader(reactor, broker, seconds)
            failures += await beside_a_slow_reader(reactor, broker, seconds, DRIP_BYTES)
            # Last, because its memory use would hide that of the other attacks.
            failures += await beside_good_peers(reactor, broker, attacks.many_types)
        finally:
            broker.kill()
        await deferToThread(broker.start, *OPTIONS, "--max-connections=50")
        try:
            failures += await too_many(reactor, broker, 50)
        finally:
            broker.kill()
        failures += await plain_beside_tls(directory)
    return failures


async def floods(reactor: Any, seconds: float, names: str = "") -> list[str]:
    """Run every flood with *names* in its name, for so many seconds each; return the failures."""
    failures: list[str] = []
    for flood in (one for one in FLOODS if names in one.name):
        with tempfile.TemporaryDirectory() as name:
            try:
                share = await shares.beside(reactor, Path(name), flood, seconds)
            except (AssertionError, OSError) as error:
                failures.append(f"{flood.name}: {error}")
                continue
        for line in share.lines():
            show(line)
        failures += share.failures()
    return failures


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="seconds for which one master does not read")
    parser.add_argument("--flood-seconds", type=float, default=4, help="seconds of each flood")
    parser.add_argument("--flood", metavar="TEXT", help="only the floods with TEXT in their names")
    options = parser.parse_args()
    failures = await floods(reactor, options.flood_seconds, options.flood or "")
    if options.flood is None:
        failures += await everything(reactor, options.seconds)
    raise SystemExit(verdict(failures))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
