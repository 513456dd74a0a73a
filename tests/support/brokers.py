"""
Brokers for tests of the blocking client: one of scripted bytes on a socket pair, and a real one.

The scripted broker's bytes are written beforehand, so that a test controls the pieces in which they arrive.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, Self

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from gloom.client.blocking import Master, Slave
from gloom.server.service import BrokerService, memory_surroundings
from gloom.settings import Settings

# A valid JSON integer that Python refuses to parse.
UNREADABLE = b"9" * 5000
LIMIT_BYTES = 64 * 1024

OK = {"ok": True}


def framed(*messages: Any) -> bytes:
    """Return *messages*, values or raw payloads, as frames."""
    payloads = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
    return b"".join(struct.pack("!I", len(payload)) + payload for payload in payloads)


class Scripted:
    """The broker's end of a socket pair."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.settimeout(4)
        self._buffer = b""

    def answering(self, *steps: tuple[Any, ...]) -> Iterator[Any]:
        """Yield the first job of each step; the step's other messages arrive as if sent after that job."""
        for job, *messages in steps:
            self.says(*messages)
            yield job

    def says(self, *messages: Any) -> None:
        """Deliver *messages* to the client in one piece."""
        self.far.sendall(framed(*messages))

    def heard(self) -> list[Any]:
        """Return the messages that the client has sent so far."""
        self.far.setblocking(False)
        try:
            while data := self.far.recv(65536):
                self._buffer += data
        except BlockingIOError:
            pass
        self.far.settimeout(4)
        messages = []
        while self._buffer:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            messages.append(json.loads(self._buffer[4:end]))
            self._buffer = self._buffer[end:]
        return messages

    def hears(self, count: int) -> list[Any]:
        """Wait for *count* messages from the client."""
        with self.far.makefile("rb") as stream:
            return [json.loads(stream.read(int.from_bytes(stream.read(4), "big"))) for _ in range(count)]

    def close(self) -> None:
        self.near.close()
        self.far.close()


def greeted(broker: Scripted, max_frame: int = LIMIT_BYTES) -> Master:
    """Return a master whose ``hello`` and first job, "first", are accepted."""
    master = Master(broker.near)
    broker.says({**OK, "version": 1, "server": "gloom/0", "max_frame": max_frame}, OK)
    master.submit("first")
    broker.heard()
    return master


class Farm:
    """A real broker, for clients that run in threads."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        self._clock: Any = reactor
        self.service = BrokerService(
            reactor,
            memory_surroundings(Settings(max_frame_bytes=LIMIT_BYTES), self._clock),
            [TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")],
            [TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")],
        )
        self.service.startService()
        self.master_port, self.slave_port = (listener.port.getHost().port for listener in self.service.listeners)  # type: ignore[union-attr]
        self._serving: list[Any] = []

    def master(self) -> Master:
        return Master(("127.0.0.1", self.master_port), timeout=20)

    def slave(self, type: str | list[str]) -> Slave:
        slave = Slave(("127.0.0.1", self.slave_port), timeout=20)
        slave.join(type, timeout=20)
        return slave

    def serve(self, type: str, function: Callable[[Any], Any]) -> None:
        """Run a slave in a thread until the broker stops."""

        def run() -> None:
            with self.slave(type) as slave:
                slave.serve(function)

        self._serving.append(deferToThread(run))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop the broker, and wait for its slaves."""
        await self.service.stopService()
        # Work that the broker has left for its next turn.
        await deferLater(self._clock, 0)
        serving, self._serving = self._serving, []
        for slave in serving:
            await slave
