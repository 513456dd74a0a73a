"""
Cost of a job through the clients: the Deferred and the blocking master, ``gloom work``, ``gloom map``.

    python bench/clients/cpu.py [--jobs N] [--rounds N] [--concurrency N] [WAY ...]

Starts a broker and ``gloom work`` with an echo function, on
free loopback ports, then one master process per way:

    submit    the Deferred master, 64 jobs in flight; each answer triggers the next submit
    map       the Deferred master's ``map``, with a window of 64
    single    the Deferred master, one job at a time
    blocking  the blocking master, one job at a time
    lines     ``gloom map`` from a file of lines to a file of answers

and prints one line per way: answered jobs a second, the median and the 99th percentile
of the latency, CPU microseconds a job of each process group, from the
operating system, and the master's peak memory. CPU per job is
comparable within one run on one machine only.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BODY = "x" * 98
WINDOW = 64
WAYS = ("submit", "map", "single", "blocking", "lines")
GLOOM = (sys.executable, "-m", "gloom")
START_SECONDS = 30.0


def echo(body: Any) -> Any:
    """Answer a job: the function of the workers."""
    return body


# A master, in a separate process: prints jobs a second and the latencies of its jobs


class Watch:
    """
    Latencies of a master's jobs.

    Attributes:
        times: Latency of each job in seconds, where it is known.
    """

    def __init__(self) -> None:
        self.times: list[float] = []

    def start(self) -> None:
        """Start the clock: all modules are imported, and the master is connected."""
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def told(self, jobs: int) -> str:
        """Return jobs a second, the median and 99th percentile latency, CPU seconds, and the peak memory in KiB."""
        took, cpu = time.perf_counter() - self._clock, time.process_time() - self._cpu
        times = sorted(self.times) or [0.0]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return f"{jobs / took} {times[len(times) // 2]} {times[len(times) * 99 // 100]} {cpu} {memory}"


def master(way: str, port: int, jobs: int) -> None:
    watch = Watch()
    if way == "blocking":
        _blocking(port, jobs, watch)
    else:
        _deferred(way, port, jobs, watch)
    print(watch.told(jobs))


def _blocking(port: int, jobs: int, watch: Watch) -> None:
    from gloom.client.blocking import Master

    with Master(("127.0.0.1", port), timeout=30) as one:
        watch.start()
        for _ in range(jobs):
            begun = time.perf_counter()
            one.submit(type="echo", body=BODY)
            one.receive()
            watch.times.append(time.perf_counter() - begun)


def _deferred(way: str, port: int, jobs: int, watch: Watch) -> None:
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    from gloom.client.deferred import Master

    async def mapped(one: Master) -> None:
        async for answer in one.map("echo", (BODY for _ in range(jobs)), window=WINDOW):
            answer.result()

    async def one_after_the_other(one: Master, count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            await one.submit("echo", BODY)
            watch.times.append(time.perf_counter() - begun)

    async def main(reactor: Any) -> None:
        one = Master(f"127.0.0.1:{port}", reactor=reactor)
        one.startService()
        await one.when_connected()
        watch.start()
        if way == "map":
            await mapped(one)
        else:
            at_once = 1 if way == "single" else WINDOW
            chains = [Deferred.fromCoroutine(one_after_the_other(one, jobs // at_once)) for _ in range(at_once)]
            for chain in chains:
                await chain
        await one.stopService()

    try:
        react(main)
    except SystemExit as end:
        if end.code:
            raise


# The other processes


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """Start a process; yield it and its output so far."""
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options)
        try:
            yield process, log
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def wait_for(pattern: str, log: Any, count: int) -> list[str]:
    """Return the matches of *pattern* in *log*, once there are so many."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        log.seek(0)
        found = re.findall(pattern, log.read())
        if len(found) >= count:
            return found
        time.sleep(0.02)
    log.seek(0)
    raise SystemExit(f"{pattern!r} was waited for in vain in:\n{log.read()}")


@contextmanager
def farm(concurrency: int) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """Start a broker and its worker; yield the master port, and process ids by group."""
    broker_command = [
        sys.executable,
        "-m",
        "twisted",
        "--log-format=text",
        "gloom",
        "--master-port",
        "0",
        "--slave-port",
        "0",
    ]
    with started(broker_command) as (broker, broker_log):
        ports = dict(
            re.split(" on 127.0.0.1:", text)
            for text in wait_for(r"(?:masters|slaves) on 127\.0\.0\.1:\d+", broker_log, 2)
        )
        slave = f"--slave=127.0.0.1:{ports['slaves']}"
        command = [*GLOOM, "work", "cpu:echo", slave, "-c", str(concurrency)]
        with started(command, cwd=Path(__file__).parent) as (worker, worker_log):
            wait_for(" joined ", worker_log, 1)
            children = children_of(worker.pid, concurrency)
            time.sleep(1.0)  # the others join
            yield int(ports["masters"]), {"broker": [broker.pid], "parent": [worker.pid], "children": children}


def children_of(pid: int, count: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if len(children) != count:
        raise SystemExit(f"the worker has {len(children)} children, not {count}")
    return [int(child) for child in children]


def cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_way(way: str, port: int, jobs: int) -> list[float]:
    """Let a master do *jobs*; return the figures of `Watch.told`."""
    if way == "lines":
        return _lines(port, jobs)
    command = [sys.executable, __file__, "--master", way, str(port), str(jobs)]
    return [float(figure) for figure in subprocess.check_output(command).split()]


def _lines(port: int, jobs: int) -> list[float]:
    with tempfile.TemporaryFile() as lines, tempfile.TemporaryFile() as answers:
        for number in range(jobs):
            lines.write(b"%d %b\n" % (number, b"x" * 90))
        lines.seek(0)
        begun = time.perf_counter()
        command = [*GLOOM, "map", "-q", "echo", f"--master=127.0.0.1:{port}"]
        process = subprocess.Popen(command, stdin=lines, stdout=answers)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - begun
        answers.seek(0)
        if status or sum(1 for _ in answers) != jobs:
            raise SystemExit("gloom map failed")
    return [jobs / took, 0.0, 0.0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]


def measure(way: str, jobs: int, concurrency: int) -> dict[str, float]:
    with farm(concurrency) as (port, groups):
        run_way("map", port, 2000)  # warm
        before = {group: cpu_seconds(pids) for group, pids in groups.items()}
        rate, median, most, cpu, memory = run_way(way, port, jobs)
        figures = {group: (cpu_seconds(pids) - before[group]) / jobs * 1e6 for group, pids in groups.items()}
    return {
        "rate": rate,
        "median": median * 1e6,
        "most": most * 1e6,
        "master": cpu / jobs * 1e6,
        "memory": memory / 1024,
        **figures,
    }


COLUMNS = {
    "jobs/s": "rate",
    "p50 us": "median",
    "p99 us": "most",
    "master us": "master",
    "broker us": "broker",
    "parent us": "parent",
    "children us": "children",
    "master MiB": "memory",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", metavar="WAY", help="one of those above; all when absent")
    parser.add_argument("--jobs", type=int, default=40_000, help="a tenth of them for the ways with one job at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=2, help="of gloom work")
    parser.add_argument("--master", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.master:
        way, port, jobs = arguments.master
        master(way, int(port), int(jobs))
        return
    if unknown := set(arguments.ways) - set(WAYS):
        parser.error(f"unknown way {unknown.pop()!r}, choose from {', '.join(WAYS)}")
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in arguments.ways or WAYS}
    for _ in range(arguments.rounds):
        for way, figures in rounds.items():
            jobs = arguments.jobs // 10 if way in ("single", "blocking") else arguments.jobs
            figures.append(measure(way, jobs, arguments.concurrency))
    print(f"medians of {arguments.rounds}; gloom work -c {arguments.concurrency}")
    print(f"{'way':10}", *(f"{column:>12}" for column in COLUMNS))
    for way, figures in rounds.items():
        print(f"{way:10}", *(f"{statistics.median(one[key] for one in figures):12,.1f}" for key in COLUMNS.values()))


if __name__ == "__main__":
    main()
