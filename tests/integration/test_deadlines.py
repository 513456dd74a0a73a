"""
Times that a master asks for, on a real clock: never early, and at most 50 ms late.

The figures are in the output of ``pytest -s tests/integration/test_deadlines.py``.
"""

from __future__ import annotations

import random
import select
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.peer import OK, Peer

JOBS = 200
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 0.6
MOST_LATE_SECONDS = 0.05
HANG_SECONDS = 20
HELLO = {"action": "hello", "version": 1}
# Tolerate a clock that is set forward a little during the test.
PRECISION_SECONDS = 0.001


class Pinging:
    """One ping after the other on *peer*, delayed by a busy machine as the jobs are."""

    def __init__(self, peer: Peer) -> None:
        self.socket = peer.socket
        self.longest_seconds = 0.0
        self._peer = peer
        self._ping()

    def heard(self) -> None:
        """Take the reply, and ping again."""
        assert self._peer.receive() == OK
        self.longest_seconds = max(self.longest_seconds, monotonic() - self._begun)
        self._ping()

    def _ping(self) -> None:
        self._begun = monotonic()
        self._peer.send({"action": "ping"})


def moments_of(is_it: Callable[[Any], bool], peers: list[Peer], pinging: Pinging) -> dict[int, float]:
    """Return the time of each job's first message that *is_it* accepts."""
    moments: dict[int, float] = {}
    by_socket = {peer.socket: peer for peer in peers}
    hangs = monotonic() + HANG_SECONDS
    while len(moments) < JOBS:
        assert monotonic() < hangs, f"only {len(moments)} of {JOBS} came"
        for heard in select.select([pinging.socket, *by_socket], [], [])[0]:
            if heard is pinging.socket:
                pinging.heard()
            elif is_it(message := by_socket[heard].receive()):
                moments.setdefault(message["id"], monotonic())
    return moments


@pytest.mark.alone
@pytest.mark.parametrize(
    ("field", "joins", "is_it"),
    [
        ("expires", "another", lambda message: message.get("error") == "expired"),
        ("timeout", "timed", lambda message: message.get("error") == "timeout"),
        ("delay", "timed", lambda message: message.get("action") == "job"),
    ],
    ids=["expires", "timeout", "delay"],
)
def test_many_times_at_once_are_kept_to_50_ms(
    daemon: Callable[..., Daemon], field: str, joins: str, is_it: Callable[[Any], bool]
) -> None:
    """Of jobs with times of some tenths of a second none is early, and none 50 ms later than the slowest ping."""
    broker, draw = daemon(), random.Random(3)
    seconds = [draw.uniform(SHORTEST_SECONDS, LONGEST_SECONDS) for _ in range(JOBS)]
    submitted = list[float]()
    with ExitStack() as stack:
        ports = (broker.master_port, broker.slave_port, broker.master_port)
        master, slave, third = (stack.enter_context(Peer.tcp(port)) for port in ports)
        for peer in (master, slave, third):
            assert peer.ask(HELLO)["ok"]
        assert slave.ask({"action": "join", "type": joins, "slots": JOBS}) == OK
        pinging = Pinging(third)
        for number, one in enumerate(seconds):
            submitted.append(monotonic())
            master.send({"action": "submit", "id": number, "type": "timed", "body": 0, "retries": 0, field: one})
        moments = moments_of(is_it, [master, slave], pinging)
    late = [moments[number] - submitted[number] - seconds[number] for number in range(JOBS)]
    figures = (
        f"{1000 * min(late):.1f} to {1000 * max(late):.1f} ms late; "
        f"the slowest ping took {1000 * pinging.longest_seconds:.1f} ms"
    )
    print(f"\n{JOBS} jobs with {field}: {figures}")  # noqa: T201 (-s shows it)
    assert min(late) > -PRECISION_SECONDS, figures
    assert max(late) < MOST_LATE_SECONDS + pinging.longest_seconds, figures
