"""
Measure a broker from outside, in a process of its own: ``python -m verify.reliability.observer NOTIFY_SOCKET``.

It pings the broker as a good peer would, receives the watchdog's datagrams as
systemd would, and reads the broker's memory. A round trip, or a timer, counts
without the time for which the broker waited for a processor: that time is the
machine's. Linux tells it in ``/proc/PID/schedstat``.
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
# systemd's time limit; the broker pings three times within it.
_WATCHDOG = {"WATCHDOG_USEC": str(int(3e6 * TIMER_SECONDS))}


@dataclass
class Seen:
    """
    What was measured between two questions.

    Attributes:
        pings: How many round trips there were.
        ping_seconds: The longest round trip, by the clock.
        ping_net_seconds: The longest one without waiting for a processor.
        timer_seconds: The latest timer of the broker, by the clock.
        timer_net_seconds: The latest one without waiting for a processor.
        most_bytes: The broker's memory at its largest.
        dropped: How often the observer's connection ended.
    """

    pings: int = 0
    ping_seconds: float = 0.0
    ping_net_seconds: float = 0.0
    timer_seconds: float = 0.0
    timer_net_seconds: float = 0.0
    most_bytes: int = 0
    dropped: int = 0

    def summary(self) -> str:
        """Return the figures in a line."""
        return (
            f"longest ping {1000 * self.ping_net_seconds:.0f} ms ({1000 * self.ping_seconds:.0f} by the clock), "
            f"latest timer {1000 * self.timer_net_seconds:.0f} ms ({1000 * self.timer_seconds:.0f}), "
            f"memory {self.most_bytes / MIB:.0f} MiB at most"
        )


@dataclass
class Lap:
    """One time that is taken: by the clock, and how long the broker waited for a processor in it."""

    broker: int
    begun: float = field(default_factory=time.monotonic)
    waited: float = 0.0

    def __post_init__(self) -> None:
        self.waited = waited_seconds(self.broker)

    def take(self) -> tuple[float, float]:
        """Return the seconds since it began, and how many of them the broker did not wait for a processor."""
        seconds = time.monotonic() - self.begun
        return seconds, seconds - (waited_seconds(self.broker) - self.waited)


class Observer(AskedProcess):
    """
    The observing process, as its user sees it; use it as a context manager.

    Args:
        directory: Where its socket is made.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "notify"
        self._path.unlink(missing_ok=True)
        super().__init__("verify.reliability.observer", str(self._path))
        assert self._line() == "ready"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have a broker that is started meanwhile ping its watchdog here."""
        names = _WATCHDOG | {"NOTIFY_SOCKET": str(self._path)}
        os.environ.update(names)
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]

    def observe(self, master_port: int, pid: int) -> None:
        """Begin with a broker."""
        self._ask(f"{master_port} {pid}")

    def take(self) -> Seen:
        """Return what was seen since `observe`; this is the end of it."""
        return Seen(**json.loads(self._ask("take")))


class Watch:
    """The loop of the observing process, over the questions, the watchdog's datagrams and one connection."""

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
        """Answer questions until there are no more."""
        while not self._ended:
            for key, _ in self._selector.select(PING_EVERY_SECONDS):
                key.data()
            if self._peer is not None and self._ping is None and time.monotonic() >= self._next_ping:
                self._send_ping(self._peer)

    def _asked(self) -> None:
        # Unbuffered: a selector sees no line that Python holds already.
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
        """Count what has not come yet, too: a broker that answers nothing any more is late."""
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
    # It sleeps nearly always, and is to be punctual; who may not have that goes without.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(sys.argv[1])
        _say("ready")
        Watch(notify).run()


if __name__ == "__main__":
    main()
