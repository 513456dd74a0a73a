"""A network that splits, merges, delays, stalls and resets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from verify.reliability import proxy
from verify.reliability.faults.scene import HEARTBEAT_SECONDS, RETRIES, Crowd, FaultyBroker, among
from verify.reliability.proxy import Proxy


def bad_network(
    directory: Path, seconds: float, ways: Sequence[str] = ("splits", "merges", "delays", "stalls", "resets")
) -> list[str]:
    """Put a proxy between peers and broker that splits, merges, delays, stalls and resets."""
    name = f"a network that {', '.join(ways)}, for {seconds:g} s each"
    with (
        FaultyBroker(directory, RETRIES) as broker,
        Proxy(broker.master_port) as masters,
        Proxy(broker.slave_port) as slaves,
        Crowd(masters.port, slaves.port) as crowd,
    ):

        def disturb() -> None:
            for way in ways:
                _disturb(way, (masters, slaves), seconds)

        return among(name, broker, crowd, disturb)


def _disturb(way: str, proxies: Sequence[Proxy], seconds: float) -> None:
    ending = time.monotonic() + seconds
    for one in proxies:
        one.merges = way == "merges"
        one.send = {"splits": proxy.split, "delays": proxy.delayed}.get(way, proxy.whole)
    while time.monotonic() < ending:
        for one in proxies:
            if way == "resets":
                one.reset()
            elif way == "stalls":
                # Shorter than a third of the heartbeat, so that no peer misses its heartbeat.
                one.stall()
                time.sleep(HEARTBEAT_SECONDS / 4)
                one.flow()
        time.sleep(0.3)
    for one in proxies:
        one.merges, one.send = False, proxy.whole
