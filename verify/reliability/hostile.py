"""
Hostile peers beside good ones: ``python -m verify.reliability.hostile``.

One attack after the other. Beside each, a master and slaves that behave are
served all the time: each of their jobs has its answer, and beside the master
that does not read they keep at least 0.8 of their throughput. Beside the floods
(`verify.reliability.floods`), which want all of the broker's time, they keep at least
half of an equal share of it (`verify.reliability.shares` says how that is computed).
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
# What a dripping master reads for each answer of 64 KiB.
DRIP_BYTES = 1024
FINISH_SECONDS = 20.0

Attack = Callable[[Target], str]


def target_of(broker: Daemon) -> Target:
    """Return *broker*, started with `OPTIONS`, as what is attacked."""
    return Target(broker.master_port, broker.slave_port, broker.pid, STALL_SECONDS, MAX_UNREAD_BYTES)


async def beside_good_peers(
    reactor: Any, broker: Daemon, attack: Attack, *, quiet_seconds: float = 1.0, least_share: float = 0.0
) -> list[str]:
    """
    Attack *broker* while good peers use it.

    Args:
        reactor: Clock and sockets.
        broker: Started with `OPTIONS`.
        attack: What is done to it, in a process of its own: it is to take time from the broker, not from
            the good master that is in this one.
        quiet_seconds: For how long the good peers' throughput is measured before.
        least_share: Which part of it they must keep.

    Returns:
        What did not hold.
    """
    load = Load(reactor, f"127.0.0.1:{broker.master_port}", masters=1, window=8)
    failures: list[str] = []
    with (
        Nursery(broker.slave_port) as nursery,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as attacker,
    ):
        nursery.start(2, job_seconds=0.001)
        await deferToThread(_call, attacker, name_of, attack)  # now it has started, and imported all it needs
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
    """Return what *function* returns in the process of *attacker*, and raise what it raises there."""
    return attacker.submit(function, argument).result()


async def _done(name: str, act: Callable[[], str], failures: list[str]) -> None:
    try:
        show(await deferToThread(act))
    except (Unharmed, OSError) as error:
        failures.append(f"{name}: {error}")


def name_of(attack: Callable[..., str]) -> str:
    """Return what *attack* is called."""
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
    """Have one master read nothing, or a drop now and then; good peers must keep their share of throughput."""
    attack = partial(attacks.slow_reader, seconds=seconds, drip_bytes=drip_bytes)
    return await beside_good_peers(reactor, broker, attack, quiet_seconds=seconds, least_share=LEAST_SHARE)


async def too_many(reactor: Any, broker: Daemon, allowed: int) -> list[str]:
    """Take more connections than a *broker* with ``--max-connections`` of *allowed* gives."""
    return await beside_good_peers(reactor, broker, partial(attacks.too_many_connections, allowed=allowed))


def with_certificate(directory: Path) -> tuple[list[str], ssl.SSLContext]:
    """Return the options of a broker with TLS, and what a client that trusts it uses."""
    authority = Authority(directory)
    certificate, key = authority.issue("broker", "broker")
    return [f"--tls-cert={certificate}", f"--tls-key={key}"], ssl.create_default_context(cafile=str(authority.file))


async def plain_beside_tls(directory: Path) -> list[str]:
    """Send plain bytes to a broker that speaks TLS; good TLS peers are among the attack's own."""
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
    """Do all of it; return what did not hold."""
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
            # Last, since the memory that it took would hide what the others take.
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
    """Flood a broker in every way that has *names* in its name, for so long each; return what did not hold."""
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
    parser.add_argument("--seconds", type=float, default=10, help="how long one master does not read")
    parser.add_argument("--flood-seconds", type=float, default=4, help="how long each flood takes")
    parser.add_argument("--flood", metavar="TEXT", help="only the floods with TEXT in their names")
    options = parser.parse_args()
    failures = await floods(reactor, options.flood_seconds, options.flood or "")
    if options.flood is None:
        failures += await everything(reactor, options.seconds)
    raise SystemExit(verdict(failures))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
