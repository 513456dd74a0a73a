"""
The guarantees of the broker and its clients, under load and under SIGKILL.

The figures are in the output of ``pytest -s tests/integration/test_reliability.py``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

from gloom.client.deferred import Answer, Master, Slave
from tests.support.daemon import Daemon
from tests.support.peer import OK, Peer

# Ten times the number of jobs that may be in flight at once; `verify.reliability.soak` has a million.
JOBS, MASTERS, SLAVES = 10_000, 4, 8


def figure(text: str) -> None:
    """Print a figure, shown with -s."""
    print(f"\n{text}")  # noqa: T201 (that is what -s is for)


@contextmanager
def process(directory: Path, program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs *program*; it is killed at the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def says(started: subprocess.Popen[str], line: str) -> None:
    """Wait until the process prints *line*."""
    assert started.stdout is not None
    assert started.stdout.readline() == line + "\n"


async def started(*services: Master | Slave) -> None:
    for service in services:
        service.startService()
    for service in services:
        await service.when_connected(attempts=3)


async def stopped(*services: Master | Slave) -> None:
    for service in services:
        await service.stopService()


# Ten thousand jobs


@pytest.mark.deferred_timeout(120)
async def test_ten_thousand_jobs_are_each_answered_exactly_once(daemon: Callable[..., Daemon]) -> None:
    """Four masters, eight slaves: every job runs once and every answer is its own."""
    broker = daemon()
    runs = [Counter[int]() for _ in range(SLAVES)]
    answers = Counter[tuple[int, int]]()

    def answer_with(ran: Counter[int]) -> Callable[[int], int]:
        def function(body: int) -> int:
            ran[body] += 1
            return -body

        return function

    slaves = [
        Slave(f"127.0.0.1:{broker.slave_port}", "negate", answer_with(ran), reactor=reactor, name=f"slave {n}")
        for n, ran in enumerate(runs)
    ]
    masters = [Master(f"127.0.0.1:{broker.master_port}", reactor=reactor) for _ in range(MASTERS)]
    await started(*slaves, *masters)

    async def work(master: Master, bodies: range) -> None:
        async for answer in master.map("negate", bodies, window=256):
            answers[bodies[answer.index], answer.result()] += 1

    begun = monotonic()
    await DeferredList(
        [Deferred.fromCoroutine(work(master, range(n, JOBS, MASTERS))) for n, master in enumerate(masters)],
        fireOnOneErrback=True,
    )
    seconds = monotonic() - begun
    figure(f"{JOBS} jobs, {MASTERS} masters, {SLAVES} slaves: {seconds:.1f} s, {JOBS / seconds:.0f} jobs/s")
    assert answers == Counter({(n, -n): 1 for n in range(JOBS)})
    assert sum(runs, Counter[int]()) == Counter(dict.fromkeys(range(JOBS), 1))
    shares = [ran.total() for ran in runs]
    assert min(shares) > JOBS / SLAVES / 2, f"the slaves had {shares}"
    await stopped(*masters, *slaves)


def test_one_slave_serves_in_strict_priority_order(daemon: Callable[..., Daemon]) -> None:
    """Larger priorities first, equal ones by age, over several masters."""
    broker, draw = daemon(), random.Random(2)
    priorities = [draw.choice([-(2**63), -5, -1, 0, 0, 1, 7, 2**63 - 1]) for _ in range(5000)]
    with ExitStack() as peers:
        slave = peers.enter_context(Peer.tcp(broker.slave_port))
        masters = [peers.enter_context(Peer.tcp(broker.master_port)) for _ in range(MASTERS)]
        assert slave.ask({"action": "join", "type": "note"}) == OK
        submit = {"action": "submit", "type": "note"}
        assert masters[0].ask(submit | {"id": "held", "body": "held"}) == OK
        assert slave.receive()["body"] == "held"
        for n, priority in enumerate(priorities):
            # Each reply is awaited, so that the broker receives the jobs of several masters in this order.
            assert draw.choice(masters).ask(submit | {"id": n, "body": n, "priority": priority}) == OK
        served = list[int]()
        for _ in priorities:
            assert slave.ask({"action": "respond", "body": 0}) == OK
            served.append(slave.receive()["body"])
    assert served == sorted(range(len(priorities)), key=lambda n: (-priorities[n], n))
    figure(f"{len(served)} jobs of {len(set(priorities))} priorities from {MASTERS} masters: all in order")


# A slave that dies

IDLE_SLAVE = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from gloom.client.deferred import Slave

def function(body):
    print("in hand", flush=True)
    return Deferred()

Slave(sys.argv[1], "work", function, reactor=reactor).startService()
reactor.run()
"""


@pytest.mark.alone
@pytest.mark.deferred_timeout(60)
async def test_the_job_of_a_killed_slave_is_answered_by_another_at_once(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Another slave's answer arrives within 100 ms from the death of the process."""
    broker = daemon()
    address = f"127.0.0.1:{broker.slave_port}"
    master = Master(f"127.0.0.1:{broker.master_port}", reactor=reactor)
    rescuer = Slave(address, "work", lambda body: body + 1, reactor=reactor)
    await started(master)
    seconds = list[float]()
    for n in range(3):
        with process(tmp_path, IDLE_SLAVE, address) as victim:
            answer = master.submit("work", n)
            await deferToThread(says, victim, "in hand")
            await started(rescuer)
            killed = monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            assert await answer == n + 1
            seconds.append(monotonic() - killed)
        await stopped(rescuer)
    figures = ", ".join(f"{1000 * one:.1f}" for one in seconds)
    figure(f"from SIGKILL of the slave to the answer: {figures} ms")
    # Take the quickest run: a busy machine delays some runs, a broker that waits delays all.
    assert min(seconds) < 0.1, f"{figures} ms"
    await stopped(master)


# A broker that dies


@pytest.mark.deferred_timeout(60)
async def test_a_map_survives_a_killed_broker(daemon: Callable[..., Daemon]) -> None:
    """With three kills and restarts during a map of 2,000 bodies, each body is answered exactly once."""
    broker = daemon()
    ran = Counter[int]()

    def function(body: int) -> int:
        ran[body] += 1
        return 2 * body

    slaves = [Slave(f"127.0.0.1:{broker.slave_port}", "double", function, reactor=reactor) for _ in range(3)]
    master = Master(f"127.0.0.1:{broker.master_port}", reactor=reactor)
    await started(master, *slaves)
    answers, away = list[Answer](), list[float]()
    async for answer in master.map("double", range(2000), window=100):
        answers.append(answer)
        if len(answers) in (300, 900, 1500):
            await deferToThread(broker.kill)
            begun = monotonic()
            await deferToThread(broker.start_again)
            await master.when_connected()
            away.append(monotonic() - begun)
    assert sorted((answer.index, answer.result()) for answer in answers) == [(n, 2 * n) for n in range(2000)]
    assert set(ran) == set(range(2000))
    figure(
        f"2000 bodies, 3 brokers killed: {len(answers)} answers, {ran.total() - 2000} jobs ran twice, "
        f"connected again {', '.join(f'{one:.2f}' for one in away)} s after the death"
    )
    assert master.unanswered == 0
    await stopped(master, *slaves)


# A master that dies

BUSY_MASTER = """
import sys
from gloom.client.blocking import Master

master = Master(sys.argv[1])
for n in range(1, 200):
    master.submit(n, "work", "of the dead")
print("submitted", flush=True)
master.receive()
"""


def test_a_killed_master_leaves_no_work_and_no_ids(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A lost master's queued jobs are dropped, its running job completes undelivered, and its ids are free again."""
    broker = daemon()
    submit = {"action": "submit", "type": "work", "body": "of the living"}
    with Peer.tcp(broker.slave_port) as slave, Peer.tcp(broker.master_port) as master:
        assert slave.ask({"action": "join", "type": "work"}) == OK
        with process(tmp_path, BUSY_MASTER, f"127.0.0.1:{broker.master_port}") as victim:
            says(victim, "submitted")
            assert slave.receive()["id"] == 1
            assert master.ask(submit | {"id": 199})["error"] == "id_exists"
            os.kill(victim.pid, signal.SIGKILL)
            seconds = _until_ok(master, submit | {"id": 199})
        assert master.ask(submit | {"id": 1}) == {"error": "id_exists", "reason": "1"}
        for n in range(2, 199):
            assert master.ask(submit | {"id": n}) == OK
        assert slave.ask({"action": "respond", "body": "for nobody"}) == OK
        assert master.ask(submit | {"id": 1}) == OK
        served = list[Any]()
        for _ in range(199):
            job = slave.receive()
            served.append((job["id"], job["body"]))
            assert slave.ask({"action": "respond", "body": 0}) == OK
        outcomes = [master.receive() for _ in range(199)]
    assert served == [(n, "of the living") for n in (199, *range(2, 199), 1)]
    assert outcomes == [{"id": n, "body": 0} for n, _ in served]
    figure(f"198 queued jobs and their ids were gone {1000 * seconds:.1f} ms after SIGKILL of the master")


def _until_ok(peer: Peer, message: Any) -> float:
    """Repeat the request, one at a time, until the reply is ok; return the elapsed seconds."""
    begun = monotonic()
    while (reply := peer.ask(message)) != OK:
        assert monotonic() < begun + 10, f"the last reply was {reply}"
    return monotonic() - begun
