"""Answers of 8 MiB."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from threading import Thread

from tests.support.commands import GLOOM
from tests.support.peer import Peer
from verify.reliability.faults.scene import FaultyBroker, children, until
from verify.reliability.figures import MIB, show
from verify.reliability.jobs import TYPE
from verify.reliability.nursery import environment


def large_answers(directory: Path, slaves: int = 12, answer_bytes: int = 8 * MIB) -> list[str]:
    """Let twelve slaves answer 8 MiB at once to a master that only reads."""
    name = f"{slaves} answers of {answer_bytes // MIB} MiB"
    with FaultyBroker(directory) as broker, Peer.tcp(broker.master_port) as master:
        threads = [Thread(target=_answer_one, args=(broker.slave_port, answer_bytes)) for _ in range(slaves)]
        for thread in threads:
            thread.start()
        for number in range(slaves):
            master.send({"action": "submit", "id": number, "type": TYPE, "body": 0})
        heard, problem = _read_outcomes(master.socket, slaves)
        for thread in threads:
            thread.join(10)
        dropped = broker.dropped()
    whole = sum(size > answer_bytes for size in heard)
    show(f"{name}: {whole} came to a master that reads all the time")
    wrong = [] if whole == slaves else [f"{name}: only {whole} came, {problem}"]
    return wrong + [f"{name}: {line}" for line in dropped]


def _answer_one(slave_port: int, answer_bytes: int) -> None:
    with Peer.tcp(slave_port) as slave:
        try:
            slave.ask({"action": "join", "type": TYPE})
            slave.receive()
            slave.ask({"action": "respond", "body": "x" * answer_bytes})
        except OSError:
            pass


def _read_outcomes(master: socket.socket, count: int) -> tuple[list[int], str]:
    """Return the sizes of the messages other than replies."""
    master.settimeout(30)
    sizes: list[int] = []
    try:
        while len(sizes) < count:
            left = size = int.from_bytes(_exactly(master, 4))
            while left:
                left -= len(_exactly(master, min(left, 64 * 1024)))
            if size > 100:
                sizes.append(size)
    except OSError as error:
        return sizes, str(error)
    return sizes, ""


def _exactly(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = source.recv(length - len(data))
        if not piece:
            raise ConnectionError("the broker has closed the connection")
        data += piece
    return data


def mapped_large_answers(directory: Path, jobs: int = 16, answer_bytes: int = 8 * MIB) -> list[str]:
    """Run jobs with answers of 8 MiB through `gloom map` and `gloom work`."""
    name = f"gloom map and gloom work with {jobs} answers of {answer_bytes // MIB} MiB"
    with FaultyBroker(directory) as broker:
        work_command = [str(GLOOM), "work", "-c", "4", "--slave", f"127.0.0.1:{broker.slave_port}"]
        with subprocess.Popen(
            [*work_command, "verify.reliability.faults.sizes:large"], env=environment(), stderr=subprocess.DEVNULL
        ) as work:
            try:
                until(lambda: len(children(work.pid)) >= 4, "gloom work has no children")
                lines = "".join(f"{answer_bytes + number}\n" for number in range(jobs))
                mapped = subprocess.run(
                    [str(GLOOM), "map", "--quiet", "--raw", "--master", f"127.0.0.1:{broker.master_port}", "large"],
                    input=lines.encode(),
                    capture_output=True,
                    timeout=180,
                    check=False,
                )
            finally:
                work.terminate()
        dropped = broker.dropped()
    sizes = sorted(map(len, mapped.stdout.split()))
    show(f"{name}: {len(sizes)} came")
    right = sizes == [answer_bytes + number for number in range(jobs)]
    wrong = [] if right else [f"{name}: {len(sizes)} came, {mapped.stderr.decode()[:300]}"]
    return wrong + [f"{name}: {line}" for line in dropped]


def large(body: int) -> str:
    """Answer with so many characters."""
    return "x" * body
