"""
Measure a broker from outside, in a separate process: ``python -m verify.reliability.observer NOTIFY_SOCKET``.

The observer pings the broker as a well-behaved peer would, receives the watchdog's datagrams as
systemd would, and reads the broker's memory. Each round trip and each timer is also counted
without the time for which the broker waited for a processor: that wait is the
machine's, not the broker's. Linux reports it in ``/proc/PID/schedstat``.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.reliability.figures import MIB, resident_bytes, waited_seconds
from verify.reliability.nursery import AskedProcess

PING_EVERY_SECONDS = 0.005
TIMER_SECONDS = 0.02
_PING = b'{"action":"ping"}'
_HELLO = b'{"action":"hello","version":1}'
# systemd's time limit; the broker notifies it three times per limit.
_WATCHDOG = {"WATCHDOG_USEC": str(int(3e6 * TIMER_SECONDS))}


@dataclass
class Seen:
    """
    Measurements between two questions.

    Attributes:
        pings: Number of round trips.
        ping_seconds: The longest round trip, by the clock.
        ping_net_seconds: The longest round trip, without the wait for a processor.
        timer_seconds: The longest delay of a broker's timer, by the clock.
        timer_net_seconds: The longest delay, without the wait for a processor.
        most_bytes: The broker's peak memory.
        dropped: Number of times that the observer's connection ended.
    """

    pings: int = 0
    ping_seconds: float = 0.0
    ping_net_seconds: float = 0.0
    timer_seconds: float = 0.0
    timer_net_seconds: float = 0.0
    most_bytes: int = 0
    dropped: int = 0

    def summary(self) -> str:
        """Return the figures as one line."""
        return (
            f"longest ping {1000 * self.ping_net_seconds:.0f} ms ({1000 * self.ping_seconds:.0f} by the clock), "
            f"latest timer {1000 * self.timer_net_seconds:.0f} ms ({1000 * self.timer_seconds:.0f}), "
            f"memory {self.most_bytes / MIB:.0f} MiB at most"
        )


@dataclass
class Lap:
    """One measured interval: by the clock, and the broker's wait for a processor within it."""

    broker: int
    begun: float = field(default_factory=time.monotonic)
    waited: float = 0.0

    def __post_init__(self) -> None:
        self.waited = waited_seconds(self.broker)

    def take(self) -> tuple[float, float]:
        """Return the seconds since the start, and that time without the broker's wait for a processor."""
        seconds = time.monotonic() - self.begun
        return seconds, seconds - (waited_seconds(self.broker) - self.waited)


class Observer(AskedProcess):
    """
    Parent-side handle of the observer process; use it as a context manager.

    Args:
        directory: Directory of its socket.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "notify"
        self._path.unlink(missing_ok=True)
        super().__init__("verify.reliability.observer", str(self._path))
        assert self._line() == "ready"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Direct the watchdog of a broker that starts within this context to the observer."""
        names = _WATCHDOG | {"NOTIFY_SOCKET": str(self._path)}
        os.environ.update(names)
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]

    def observe(self, master_port: int, pid: int) -> None:
        """Start observing a broker."""
        self._ask(f"{master_port} {pid}")

    def take(self) -> Seen:
        """Stop observing; return the measurements since `observe`."""
        return Seen(**json.loads(self._ask("take")))


class Watch:
    """The observer's loop, over the questions, the watchdog's datagrams and one connection."""

    def __init__(self, notify: socket.socket) -> None:
        self._seen = Seen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._asked)
        self._selector.register(notify, selectors.EVENT_READ, self._told)
        self._notify = notify
        self._broker: int | None = None
        self._peer: socket.socket | None = None
        self._ping: Lap | None = None
        self._next_ping = 0.0
        self._timer: Lap | None = None
        self._ended = False

    def run(self) -> None:
        """Answer questions until the input ends."""
        while not self._ended:
            for key, _ in self._selector.select(PING_EVERY_SECONDS):
                key.data()
            if self._peer is not None and self._ping is None and time.monotonic() >= self._next_ping:
                self._send_ping(self._peer)

    def _asked(self) -> None:
        # Unbuffered: a selector does not see a line that is already in Python's buffer.
        question = os.read(0, 1000).decode().strip()
        if not question:
            self._ended = True
        elif question == "take":
            self._take_laps()
            _say(json.dumps(vars(self._seen)))
            self._disconnect()
            self._broker = None
        else:
            port, self._broker = map(int, question.split())
            self._connect(port)
            _say("ok")

    def _disconnect(self) -> None:
        if self._peer is not None:
            self._selector.unregister(self._peer)
            self._peer.close()
            self._peer = None

    def _connect(self, port: int) -> None:
        self._peer = socket.create_connection(("127.0.0.1", port), 10)
        self._peer.sendall(_framed(_HELLO))
        self._peer.recv(1000)
        self._selector.register(self._peer, selectors.EVENT_READ, self._heard)
        self._seen, self._ping, self._timer = Seen(), None, None

    def _send_ping(self, peer: socket.socket) -> None:
        assert self._broker is not None
        self._ping = Lap(self._broker)
        self._next_ping = self._ping.begun + PING_EVERY_SECONDS
        peer.sendall(_framed(_PING))
        if self._seen.pings % 10 == 0:
            self._seen.most_bytes = max(self._seen.most_bytes, resident_bytes(self._broker))

    def _heard(self) -> None:
        assert self._peer is not None
        try:
            heard = self._peer.recv(1000)
        except OSError:
            heard = b""
        if not heard:
            self._disconnect()
            self._seen.dropped += 1
        elif self._ping is not None:
            self._ping_ended(self._ping)
            self._seen.pings += 1
        self._ping = None

    def _told(self) -> None:
        said = self._notify.recv(1000)
        if b"WATCHDOG=1" in said and self._broker is not None:
            if self._timer is not None:
                self._timer_ended(self._timer)
            self._timer = Lap(self._broker)

    def _take_laps(self) -> None:
        """Count the intervals still open, too: a broker that no longer answers is late."""
        if self._ping is not None:
            self._ping_ended(self._ping)
        if self._timer is not None:
            self._timer_ended(self._timer)

    def _ping_ended(self, lap: Lap) -> None:
        seconds, net = lap.take()
        seen = self._seen
        seen.ping_seconds = max(seen.ping_seconds, seconds)
        seen.ping_net_seconds = max(seen.ping_net_seconds, net)

    def _timer_ended(self, lap: Lap) -> None:
        seconds, net = (one - TIMER_SECONDS for one in lap.take())
        seen = self._seen
        seen.timer_seconds = max(seen.timer_seconds, seconds)
        seen.timer_net_seconds = max(seen.timer_net_seconds, net)


def _framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def _say(line: Any) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    # The observer sleeps almost always but must be punctual. Without permission it keeps its priority.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(sys.argv[1])
        _say("ready")
        Watch(notify).run()


if __name__ == "__main__":
    main()
