"""
Chaos with real processes: ``python -m verify.reliability.chaos --seconds 60``.

Slaves and the broker are killed, stopped and cut off while masters submit
continuously. Each job must have exactly one outcome, and the correct answer.
`verify.reliability.faults` covers host faults: stopped processes, a bad network,
clock jumps, exhausted descriptors, a full disk.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from gloom.client.deferred import Master, Slave
from tests.support.daemon import Daemon
from verify.reliability import faults
from verify.reliability.figures import quantile, show, verdict
from verify.reliability.jobs import HELD
from verify.reliability.load import Load
from verify.reliability.network import NotPermitted, OtherHost
from verify.reliability.nursery import Nursery, environment

KILL_EVERY_SECONDS = 0.1
# Margin over the agreed heartbeat, for the timers of two processes and a loaded machine.
LATE_SECONDS = 0.5
# Keepalive of 30 s + 3 x 10 s, and a margin.
KEEPALIVE_SECONDS = 65.0
FINISH_SECONDS = 30.0


def _address(port: int, host: str = "127.0.0.1") -> str:
    return f"{host}:{port}"


def _tick(reactor: Any, seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


async def storm(reactor: Any, broker: Daemon, seconds: float, slaves: int = 6) -> list[str]:
    """Kill a slave every 100 ms and start another; return the failures."""
    load, chance, killed, longest = Load(reactor, _address(broker.master_port), window=16), random.Random(1), 0, 0.0
    with Nursery(broker.slave_port) as nursery:
        nursery.start(slaves)
        await load.start()
        ending = reactor.seconds() + seconds
        while reactor.seconds() < ending:
            await _tick(reactor, KILL_EVERY_SECONDS)
            nursery.kill(chance.randrange(len(nursery.pids)))
            nursery.start()
            killed += 1
        failures = await load.finish(FINISH_SECONDS)
    longest = max(load.seconds, default=0)
    show(
        f"storm: {killed} slaves killed in {seconds:g} s; {load.summary()}; "
        f"median {1000 * quantile(load.seconds, 0.5):.0f} ms, longest {longest:.2f} s"
    )
    return failures


async def restarts(reactor: Any, broker: Daemon, times: int, slaves: int = 4, pause_seconds: float = 1.0) -> list[str]:
    """Kill the broker so many *times*, restarting it on the same ports; return the failures."""
    load, away = Load(reactor, _address(broker.master_port), window=16), list[float]()
    with Nursery(broker.slave_port) as nursery:
        nursery.start(slaves)
        await load.start()
        for _ in range(times):
            await _tick(reactor, pause_seconds)
            begun, before = reactor.seconds(), load.answered
            await deferToThread(broker.kill)
            await deferToThread(broker.start_again)
            while load.answered == before and reactor.seconds() < begun + FINISH_SECONDS:
                await _tick(reactor, 0.01)
            away.append(reactor.seconds() - begun)
        failures = await load.finish(FINISH_SECONDS)
    show(
        f"restarts: the broker killed {times} times; {load.summary()}; "
        f"answers again after {', '.join(f'{one:.2f}' for one in away)} s"
    )
    return failures


async def stopped(reactor: Any, broker: Daemon, heartbeat_seconds: float) -> list[str]:
    """Stop a slave with SIGSTOP; fail unless another slave answers its job within the heartbeat."""
    address = _address(broker.slave_port)
    with _holder(address, heartbeat_seconds) as holder:

        def stop() -> None:
            os.kill(holder.pid, signal.SIGSTOP)

        seconds = await _until_rescued(reactor, broker, holder, stop, "127.0.0.1", heartbeat_seconds + 10)
    show(f"stopped: {seconds:.2f} s from SIGSTOP to the answer by another slave, heartbeat {heartbeat_seconds:g} s")
    return _late("a stopped slave's job was elsewhere", seconds, heartbeat_seconds)


async def half_open(reactor: Any, directory: Path, heartbeat_seconds: float) -> list[str]:
    """
    Cut a slave's host off; as `stopped`. A heartbeat of 0 leaves detection to TCP keepalive.

    Raises:
        NotPermitted: This process may not create a network.
    """
    limit = heartbeat_seconds or KEEPALIVE_SECONDS
    with OtherHost() as other:
        broker = Daemon(directory)
        await deferToThread(broker.start, f"--interface={other.here}")
        try:
            with _holder(_address(broker.slave_port, other.here), heartbeat_seconds, other.prefix) as holder:
                seconds = await _until_rescued(reactor, broker, holder, other.cut, other.here, limit + 10)
        finally:
            broker.kill()
    how = f"heartbeat {heartbeat_seconds:g} s" if heartbeat_seconds else "no heartbeat, TCP keepalive only"
    show(f"half-open: {seconds:.2f} s from the cut to the answer by another slave, {how}")
    return _late("the job of a slave that was cut off was elsewhere", seconds, limit)


def _late(what: str, seconds: float, limit: float) -> list[str]:
    return [f"{what} after {seconds:.2f} s"] if seconds > limit + LATE_SECONDS else []


@contextmanager
def _holder(address: str, heartbeat_seconds: float, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [*prefix, sys.executable, "-m", "verify.reliability.holder", address, str(heartbeat_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()


async def _until_rescued(
    reactor: Any,
    broker: Daemon,
    holder: subprocess.Popen[str],
    harm: Callable[[], None],
    host: str,
    most_seconds: float,
) -> float:
    """Give *holder* a job, harm it, and return the seconds until another slave has answered the job."""
    master = Master(_address(broker.master_port, host), reactor=reactor)
    rescuer = Slave(_address(broker.slave_port, host), HELD, lambda body: body + 1, reactor=reactor)
    master.startService()
    answer = master.submit(HELD, 1)
    assert holder.stdout is not None
    await deferToThread(holder.stdout.readline)
    rescuer.startService()
    await rescuer.when_connected()
    begun = reactor.seconds()
    await deferToThread(harm)
    try:
        assert await answer.addTimeout(most_seconds, reactor, onTimeoutCancel=lambda *_: 2) == 2
    finally:
        await master.stopService()
        await rescuer.stopService()
    return float(reactor.seconds() - begun)


async def everything(reactor: Any, seconds: float, times: int, *, keepalive: bool) -> list[str]:
    """Run every scenario, one broker at a time; return the failures."""
    failures = list[str]()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)

        async def with_broker(deed: Callable[[Daemon], Coroutine[Any, Any, list[str]]]) -> None:
            # By default a job fails after four lost attempts. That is specified, but this test does not count it.
            broker = Daemon(directory)
            await deferToThread(broker.start, "--retries=100")
            try:
                failures.extend(await deed(broker))
            finally:
                broker.kill()

        await with_broker(lambda broker: storm(reactor, broker, seconds))
        await with_broker(lambda broker: restarts(reactor, broker, times))
        await with_broker(lambda broker: stopped(reactor, broker, 3.0))
        try:
            failures += await half_open(reactor, directory, 3.0)
            if keepalive:
                failures += await half_open(reactor, directory, 0)
        except NotPermitted as error:
            show(f"half-open: skipped, no network of our own: {error}")
    return failures


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="seconds of killing slaves")
    parser.add_argument("--restarts", type=int, default=5, help="number of times to kill the broker")
    parser.add_argument("--quick", action="store_true", help="stop processes for 3 s, not for 5 and 30")
    parser.add_argument("--only-faults", action="store_true", help="only the faults of verify.reliability.faults")
    parser.add_argument("--fault", metavar="TEXT", default="", help="of these, only those with TEXT in their names")
    parser.add_argument("--no-keepalive", action="store_true", help="skip the scenarios that take another minute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        failures = await deferToThread(faults.everything, Path(name), quick=options.quick, names=options.fault)
    if not options.only_faults:
        failures += await everything(reactor, options.seconds, options.restarts, keepalive=not options.no_keepalive)
    raise SystemExit(verdict(failures))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
