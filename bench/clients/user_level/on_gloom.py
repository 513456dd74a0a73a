"""
gloom: the broker by ``twist``, ``gloom work``, and the client for programs on Twisted.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter
from typing import Any

from twisted.internet.task import react

from bench.clients.user_level.echo import BODY, WAIT_SECONDS, check
from bench.clients.user_level.farm import Farm, free_port
from bench.clients.user_level.meter import Meter
from gloom.client.deferred import Master

_master_port, _slave_port = free_port(), free_port()


def start(farm: Farm, workers: int) -> None:
    """Start the broker, and a worker with *workers* processes."""
    ports = (f"--master-port={_master_port}", f"--slave-port={_slave_port}")
    farm.start_python("broker", "-m", "twisted", "gloom", *ports)
    farm.wait_for_port(_slave_port)
    slave = f"--slave=127.0.0.1:{_slave_port}"
    farm.start_python("workers", "-m", "gloom", "work", f"-c{workers}", slave, "bench.clients.user_level.echo:echo")


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight, as completed."""

    async def both(reactor: Any) -> None:
        master = Master(f"127.0.0.1:{_master_port}", reactor=reactor)
        master.startService()
        await master.submit("echo", BODY).addTimeout(WAIT_SECONDS, reactor)
        await _one_at_a_time(master, one)
        await _as_completed(master, many, window)
        await master.stopService()

    try:
        react(both)
    except SystemExit as ended:
        if ended.code:
            raise


async def _one_at_a_time(master: Master, meter: Meter) -> None:
    more = True
    while more:
        began = perf_counter()
        check(await master.submit("echo", BODY))
        more = meter.answered(began)


async def _as_completed(master: Master, meter: Meter, window: int) -> None:
    answers = master.map("echo", repeat(BODY), window=window)
    async for answer in answers:
        check(answer.result())
        if not meter.answered():
            break
    answers.cancel()
