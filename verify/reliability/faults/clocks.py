"""Wall clocks that jump forward and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.peer import OK, Peer
from verify.reliability.faults.scene import RETRIES, Crowd, FaultyBroker, NotPossible, among
from verify.reliability.figures import show

HOUR_SECONDS = 3600
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def clock_jumps(directory: Path, seconds: float, ways: Sequence[str] = ("forward", "back")) -> list[str]:
    """
    Set the wall clock of all processes forward or back by an hour or two: agreed durations do not change.

    Raises:
        NotPossible: libfaketime is not installed.
    """
    if FAKETIME is None:
        raise NotPossible("there is no libfaketime (Debian: faketime)")
    clock = directory / "clock"
    _set_clock(clock, 0)
    names = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    failures = []
    with (
        FaultyBroker(directory, RETRIES, names=names) as broker,
        Crowd(broker.master_port, broker.slave_port, names=names) as crowd,
    ):

        def jump() -> None:
            for way in ways:
                failures.extend(_jumped(broker, clock, way, seconds))

        wrong = among(f"a clock set {' and '.join(ways)}", broker, crowd, jump)
    return failures + wrong


def _jumped(broker: FaultyBroker, clock: Path, way: str, seconds: float) -> list[str]:
    with Peer.tcp(broker.master_port) as master:
        timed = _Timed(master)
        _set_clock(clock, HOUR_SECONDS if way == "forward" else -HOUR_SECONDS)
        timed.wait(seconds)
    show(f"the clock set {way}: {timed.text}")
    return [f"the clock set {way}: {what}" for what in timed.failures]


def _set_clock(clock: Path, seconds: int) -> None:
    new = clock.with_suffix(".new")
    new.write_text(f"{seconds:+d}")
    new.rename(clock)


class _Timed:
    """Jobs of a type that no slave serves: one expires after 1.5 s, the other not during the test."""

    EXPIRES_SECONDS = 1.5

    def __init__(self, master: Peer) -> None:
        self._master = master
        self.failures: list[str] = []
        self.text = ""
        self._master.ask({"action": "hello", "version": 1})
        for id, expires in (("soon", self.EXPIRES_SECONDS), ("never", 600)):
            job = {"action": "submit", "id": id, "type": "of nobody", "body": 0, "expires": expires}
            assert self._master.ask(job) == OK
        self._begun = time.monotonic()

    def wait(self, seconds: float) -> None:
        ended = {}
        ending = self._begun + max(seconds, 2 * self.EXPIRES_SECONDS)
        while (left := ending - time.monotonic()) > 0:
            self._master.socket.settimeout(left)
            try:
                message = self._master.receive()
            except TimeoutError:
                break
            if message is None:
                self.failures.append("the connection was closed")
                break
            ended[message["id"]] = time.monotonic() - self._begun
        late = ended.get("soon", float("inf")) - self.EXPIRES_SECONDS
        if not -0.01 <= late <= 0.5:
            self.failures.append(f"a job that expires after {self.EXPIRES_SECONDS} s did so {late:.2f} s late")
        if "never" in ended:
            self.failures.append(f"a job that expires after 600 s did so after {ended['never']:.2f} s")
        self.text = f"a job that expires after {self.EXPIRES_SECONDS} s did so {late:.3f} s late"
