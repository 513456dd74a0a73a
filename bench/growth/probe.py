"""
A peer beside others: ``python -m bench.growth.probe MASTER_PORT SLAVE_PORT``.

It pings and has one job answered, repeatedly, and measures each wait for
the broker. For each line on standard input it prints the longest and the median
wait since the last one, in milliseconds.
"""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from bench.growth.broker import OK, Broker, Connection, frame
from bench.growth.load import HELLO, RESPOND, join

TYPE = "probe"
PING = frame(b'{"action":"ping"}')
SUBMIT = frame(b'{"action":"submit","id":"probe","type":"probe","body":1}')
# The probe must detect a stall without loading the broker: a pause hides at most its own length of one.
PAUSE_SECONDS = 0.0005


@dataclass(frozen=True)
class Waits:
    """The waits of a peer for the broker since the last question: the longest, and the median."""

    longest_ms: float
    median_ms: float


class Probe:
    """Parent-side handle of the process that probes *broker*; use it as a context manager."""

    def __init__(self, broker: Broker) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.growth.probe", str(broker.master_port), str(broker.slave_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.waits()

    def waits(self) -> Waits:
        """Return the waits since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        return Waits(**json.loads(self._process.stdout.readline()))

    def waits_during(self, act: Callable[[], Any]) -> Waits:
        """Return the waits while *act* runs."""
        self.waits()
        act()
        return self.waits()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


def one_round(master: Connection, slave: Connection) -> list[float]:
    """Ping, and have a job answered; return the seconds of each wait for the broker."""
    return [
        _wait(master, PING, lambda payload: payload == OK),
        _wait(slave, SUBMIT, lambda payload: payload != OK, sender=master),
        _wait(master, RESPOND, lambda payload: payload != OK, sender=slave),
    ]


def _wait(
    receiver: Connection, request: bytes, is_it: Callable[[bytes], bool], sender: Connection | None = None
) -> float:
    begun = time.perf_counter()
    (sender or receiver).send(request)
    while not any(map(is_it, receiver.frames())):
        pass
    return time.perf_counter() - begun


def main() -> None:
    master = Connection(int(sys.argv[1]))
    slave = Connection(int(sys.argv[2]))
    master.ask(HELLO, 1)
    slave.ask(join(TYPE), 2)
    seconds: list[float] = []
    while True:
        seconds += one_round(master, slave)
        if select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(
                json.dumps({"longest_ms": 1000 * max(seconds), "median_ms": 1000 * statistics.median(seconds)}) + "\n"
            )
            sys.stdout.flush()
            seconds = []


if __name__ == "__main__":
    main()
