"""
The asyncio master beside the Deferred master: calls a second, latency, CPU a call; import time and memory.

    python bench/clients/beside.py [--jobs N] [--rounds N]

Starts a broker and ``gloom work`` with an echo function, on
free loopback ports. In each round each client makes N calls one at a time and N
calls with 64 in flight. Each client runs in a separate process, and they take turns.
Compare the ratios of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

BODY = "x" * 98
WINDOW = 64
CLIENTS = ("deferred", "aio")
WAYS = ("single", "submit", "map")
MODULES = {"deferred": "gloom.client.deferred", "aio": "gloom.client.aio", "blocking": "gloom.client.blocking"}


class Watch:
    """Latencies of calls."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def start(self) -> None:
        """Start the clock: all modules are imported, and the client is connected."""
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def told(self, jobs: int) -> str:
        """Return calls a second, median milliseconds, CPU microseconds a call, and the peak memory in MiB."""
        took, cpu = time.perf_counter() - self._clock, time.process_time() - self._cpu
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        median = statistics.median(self.times) if self.times else 0.0
        return f"{jobs / took} {1e3 * median} {1e6 * cpu / jobs} {memory}"


async def calls(
    way: str, one: Any, jobs: int, watch: Watch, start: Callable[[Awaitable[None]], Awaitable[None]]
) -> None:
    async def chain(count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            await one.submit("echo", BODY)
            watch.times.append(time.perf_counter() - begun)

    watch.start()
    if way == "map":
        async for answer in one.map("echo", (BODY for _ in range(jobs)), window=WINDOW):
            answer.result()
        return
    at_once = 1 if way == "single" else WINDOW
    for running in [start(chain(jobs // at_once)) for _ in range(at_once)]:
        await running


def on_asyncio(way: str, port: int, jobs: int, watch: Watch) -> None:
    from gloom.client.aio import Master

    async def main() -> None:
        async with Master(f"127.0.0.1:{port}") as one:
            await one.when_connected()
            await calls(way, one, jobs, watch, asyncio.ensure_future)

    asyncio.run(main())


def on_twisted(way: str, port: int, jobs: int, watch: Watch) -> None:
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from gloom.client.deferred import Master

    async def main(reactor: Any) -> None:
        one = Master(f"127.0.0.1:{port}", reactor=reactor)
        one.startService()
        await one.when_connected()
        await calls(way, one, jobs, watch, Deferred.fromCoroutine)  # type: ignore[arg-type]
        await one.stopService()

    try:
        react(main)
    except SystemExit as end:
        if end.code:
            raise


def one_client(client: str, way: str, port: int, jobs: int) -> None:
    watch = Watch()
    {"aio": on_asyncio, "deferred": on_twisted}[client](way, port, jobs, watch)
    print(watch.told(jobs))


def importing(module: str) -> tuple[float, float]:
    """Return the import time of *module* in milliseconds and its memory in MiB, each the least of five."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "pages = lambda: int(Path('/proc/self/statm').read_text().split()[1]); before = pages()\n"
        f"begun = time.perf_counter(); import {module}; took = time.perf_counter() - begun\n"
        "print(took, pages() - before)"
    )
    outs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(5)]
    rows = [out.stdout.split() for out in outs]
    return 1e3 * min(float(row[0]) for row in rows), min(int(row[1]) for row in rows) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        client, way, port = options.one
        one_client(client, way, int(port), options.jobs)
        return
    from cpu import farm

    for name, module in MODULES.items():
        milliseconds, memory = importing(module)
        print(f"import {name:9} {milliseconds:7.1f} ms {memory:7.1f} MiB")
    rows: dict[tuple[str, str], list[list[float]]] = {(way, client): [] for way in WAYS for client in CLIENTS}
    with farm(2) as (port, _):
        for round_ in range(options.rounds):
            for way in WAYS:
                for client in CLIENTS if round_ % 2 else CLIENTS[::-1]:
                    command = [sys.executable, __file__, "--jobs", str(options.jobs), "--one", client, way, str(port)]
                    told = subprocess.run(
                        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent
                    )
                    rows[way, client].append([float(value) for value in told.stdout.split()])
    print(f"{'':16} calls/s   p50 ms  CPU us/call  MiB   (medians of {options.rounds} rounds)")
    for (way, client), values in rows.items():
        rate, p50, cpu, memory = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{way:7} {client:9} {rate:7.0f} {p50:8.3f} {cpu:12.1f} {memory:5.1f}")
    for way in WAYS:
        for column, what in ((0, "calls/s"), (2, "CPU")):
            pairs = zip(rows[way, "aio"], rows[way, "deferred"], strict=True)
            ratios = [aio[column] / deferred[column] for aio, deferred in pairs]
            median, least, most = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{way:7} aio / deferred, {what:7} {median:.2f} ({least:.2f} to {most:.2f})")


if __name__ == "__main__":
    main()
