"""
Good peers are served while hostile ones do their worst: short versions of `verify.reliability.hostile`.

The figures are in the output of ``pytest -s tests/integration/test_hostile.py``.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from twisted.internet import reactor

from tests.support.daemon import Daemon
from verify.reliability import attacks, floods, hostile, shares
from verify.reliability.figures import show
from verify.reliability.floods import FLOODS, Flood

pytestmark = [pytest.mark.faults, pytest.mark.deferred_timeout(60), pytest.mark.usefixtures("untraced")]

Start = Callable[..., Daemon]
CONNECTIONS = 10_000
# One flood of each kind; `verify.reliability.hostile` has the others.
SHORT = [
    flood
    for flood in FLOODS
    if flood.act
    in (
        floods.colliding_ids,
        floods.submits_of_new_types,
        floods.many_pings,
        floods.json_bombs,
        floods.unknown_actions,
        floods.slaves_of_long_types,
    )
]


@pytest.mark.parametrize(
    "attack",
    [
        attacks.slow_loris,
        attacks.oversize,
        attacks.deep_json,
        attacks.invalid_utf8,
        attacks.tls_on_a_plain_port,
        partial(attacks.collisions, times=100),
        partial(attacks.many_types, types=5_000),
    ],
    ids=hostile.name_of,
)
async def test_good_peers_are_served_beside(daemon: Start, attack: hostile.Attack) -> None:
    """The attack ends as its entry says, and each job of the good master has its answer."""
    broker = daemon(*hostile.OPTIONS)
    assert await hostile.beside_good_peers(reactor, broker, attack, quiet_seconds=0.3) == []


@pytest.mark.alone
async def test_a_master_that_never_reads_takes_little_from_others(daemon: Start) -> None:
    """A master that never reads is dropped at the bound, memory is bounded, good peers keep 0.8 of their throughput."""
    assert await hostile.beside_a_slow_reader(reactor, daemon(*hostile.OPTIONS), seconds=3) == []


async def test_a_master_that_drips_takes_little_from_others(daemon: Start) -> None:
    """A master that reads some bytes now and then cannot make the broker hold memory either."""
    broker = daemon(*hostile.OPTIONS)
    assert await hostile.beside_a_slow_reader(reactor, broker, seconds=3, drip_bytes=hostile.DRIP_BYTES) == []


async def test_connections_beyond_the_limit_are_refused_and_harm_nobody(daemon: Start) -> None:
    """Above --max-connections a connection is told busy and closed; the existing ones go on."""
    assert await hostile.too_many(reactor, daemon(*hostile.OPTIONS, "--max-connections=20"), 20) == []


async def test_plain_bytes_on_a_tls_port_are_closed_unheard(tmp_path: Path) -> None:
    """Plain bytes on a TLS port get no plain answer and no endless handshake, and the good TLS peers work on."""
    assert await hostile.plain_beside_tls(tmp_path) == []


@pytest.mark.alone
@pytest.mark.parametrize("flood", SHORT, ids=lambda flood: flood.act.__name__)
async def test_good_peers_keep_a_fair_share_of_the_broker_beside(tmp_path: Path, flood: Flood) -> None:
    """
    Under any attack, good peers have their share of the broker's time, and timers ring.

    The bars are wider than those of `verify.reliability.hostile`: it takes seconds, where this takes one, on
    a machine that may be busy with other things.
    """
    share = await shares.beside(reactor, tmp_path, flood, 1.0, quiet_seconds=0.5, after_seconds=0.5)
    for line in share.lines():
        show(line)
    assert share.failures(least_share=0.25, late_seconds=0.2) == []


async def test_ten_thousand_connections(daemon: Start) -> None:
    """A daemon that a shell starts with 1,024 descriptors makes room for 10,000 connections by itself."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CONNECTIONS + 200:
        pytest.skip(f"the hard limit of descriptors is less than {CONNECTIONS + 200}: ulimit -Hn")
    with few_descriptors():
        broker = daemon(*hostile.OPTIONS)
    attack = partial(attacks.many_connections, connections=CONNECTIONS)
    assert await hostile.beside_good_peers(reactor, broker, attack, quiet_seconds=0.3) == []


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Give processes started in the block a shell's usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def impatient_loris(target: attacks.Target) -> str:
    """Expect the slow loris to be dropped sooner than any broker drops it."""
    return attacks.slow_loris(attacks.Target(target.master_port, target.slave_port, target.pid, 0.02), 2)


async def test_an_attack_that_works_is_reported(daemon: Start) -> None:
    """A broker with another --stall-seconds fails the slow loris: the tests above would report a successful attack."""
    (failure,) = await hostile.beside_good_peers(reactor, daemon(), impatient_loris, quiet_seconds=0.1)
    assert "2 of 2 slow connections are still open" in failure
