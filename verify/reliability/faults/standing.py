"""Stopped processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.commands import GLOOM
from tests.support.peer import OK, Peer
from verify.reliability.crowd import MASTERS
from verify.reliability.faults.scene import RETRIES, WARM_SECONDS, Crowd, FaultyBroker, among, children, until
from verify.reliability.figures import MIB, show
from verify.reliability.jobs import TYPE
from verify.reliability.nursery import environment


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Stop a process, and wait until it has stopped: the signal alone takes effect only when it is next scheduled."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", "it goes on")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def stop(pid: int, seconds: float) -> None:
    """Stop a process for so many seconds."""
    with standing_still(pid):
        time.sleep(seconds)


def stopped_broker(directory: Path, seconds: float) -> list[str]:
    """Stop the broker: it must not treat a ping as late, nor an answer that was sent in time."""
    name = f"the broker stopped for {seconds:g} s"
    with FaultyBroker(directory, RETRIES) as broker, Crowd(broker.master_port, broker.slave_port) as crowd:
        failures = among(name, broker, crowd, lambda: stop(broker.pid, seconds))
    return failures + answered_meanwhile(directory, seconds)


def answered_meanwhile(directory: Path, seconds: float) -> list[str]:
    """Answer a job, and ping, while the broker is stopped for longer than both deadlines."""
    name = f"an answer sent while the broker stood still for {seconds:g} s"
    limit = seconds / 2
    with (
        FaultyBroker(directory) as broker,
        Peer.tcp(broker.master_port) as master,
        Peer.tcp(broker.slave_port) as slave,
    ):
        hello = {"action": "hello", "version": 1, "heartbeat": limit}
        master.ask(hello), slave.ask(hello)
        assert slave.ask({"action": "join", "type": TYPE}) == OK
        job = {"action": "submit", "id": 1, "type": TYPE, "body": 1, "timeout": limit, "retries": 0}
        assert master.ask(job) == OK
        assert slave.receive()["id"] == 1
        # By now the broker waits for a socket or a timer, its usual state.
        time.sleep(0.05)
        with standing_still(broker.pid):
            slave.send({"action": "respond", "body": 2})
            ending = time.monotonic() + seconds
            while time.monotonic() < ending:
                for one in (slave, master):
                    one.send({"action": "ping"})
                time.sleep(limit / 4)
        outcome = _outcome_of(master)
        time.sleep(0.2)
        failures = [f"{name}: {line}" for line in broker.dropped()]
    show(f"{name}: the outcome is {outcome}")
    return failures + ([] if outcome == {"id": 1, "body": 2} else [f"{name}: the outcome is {outcome}"])


def _outcome_of(master: Peer) -> Any:
    try:
        while (message := master.receive()) is not None:
            if "id" in message:
                return message
    except OSError as error:
        return error
    return "the connection was closed"


def stopped_member(directory: Path, kind: str, seconds: float) -> list[str]:
    """Stop one peer: the broker drops it within its heartbeat, if it has one, and drops no other peer."""
    name = f"a {kind} stopped for {seconds:g} s"
    load_name = "load 0" if kind == "deferred-master" else kind
    with FaultyBroker(directory, RETRIES) as broker, Crowd(broker.master_port, broker.slave_port) as crowd:
        return among(name, broker, crowd, lambda: stop(crowd.members[kind].pid, seconds), gone=[load_name])


def stopped_slave_with_large_jobs(directory: Path, seconds: float, body_bytes: int = 4 * MIB) -> list[str]:
    """Let a silent slave read none of its large jobs: its heartbeat still expires, and the broker drops it."""
    name, heartbeat_seconds, jobs = f"a silent slave with bodies of {body_bytes // MIB} MiB", 1.0, 8
    answered = 0
    with (
        FaultyBroker(directory) as broker,
        Peer.tcp(broker.master_port) as master,
        Peer.tcp(broker.slave_port) as silent,
        Peer.tcp(broker.slave_port) as other,
    ):
        silent.ask({"action": "hello", "version": 1, "heartbeat": heartbeat_seconds})
        assert silent.ask({"action": "join", "type": TYPE, "slots": jobs}) == OK
        for number in range(jobs):
            assert master.ask({"action": "submit", "id": number, "type": TYPE, "body": "x" * body_bytes}) == OK
        begun = time.monotonic()
        other.socket.settimeout(heartbeat_seconds + seconds)
        other.send({"action": "join", "type": TYPE})
        try:
            while answered < jobs and (message := other.receive()) is not None:
                if "body" in message:
                    other.send({"action": "respond", "body": 1})
                    answered += 1
        except TimeoutError:
            pass
        took = time.monotonic() - begun
    text = f"{name}: another slave had {answered} of {jobs} jobs after {took:.1f} s, heartbeat {heartbeat_seconds:g} s"
    show(text)
    return [] if answered == jobs else [text]


def stopped_child(directory: Path, seconds: float) -> list[str]:
    """Stop one process of `gloom work`, then the command itself: their jobs finish late, but correctly."""
    name = f"a child of gloom work stopped for {seconds:g} s, then the command"
    with FaultyBroker(directory, RETRIES) as broker:
        command = [str(GLOOM), "work", "-c", "2", "--slave", f"127.0.0.1:{broker.slave_port}"]
        with subprocess.Popen(
            [*command, "verify.reliability.member:increment"], env=environment(), stderr=subprocess.DEVNULL
        ) as work:
            try:
                until(lambda: len(children(work.pid)) >= 2, "gloom work has no children")
                with Crowd(broker.master_port, broker.slave_port, kinds=MASTERS) as crowd:

                    def stop_both() -> None:
                        stop(children(work.pid)[-1], seconds)
                        time.sleep(WARM_SECONDS)
                        stop(work.pid, seconds)

                    return among(name, broker, crowd, stop_both)
            finally:
                work.terminate()
