"""A peer of the broker on a plain socket of any kind."""

from __future__ import annotations

import json
import socket
import struct
from types import TracebackType
from typing import Any, Self

SECONDS = 10.0


class Peer:
    """
    One connection that speaks whole messages; close it, or use it as a context manager.

    Args:
        connected: A socket that is connected; this closes it.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(SECONDS)

    @classmethod
    def tcp(cls, port: int, host: str = "127.0.0.1") -> Self:
        """Connect to a port of this host."""
        return cls(socket.create_connection((host, port), SECONDS))

    @classmethod
    def unix(cls, path: str) -> Self:
        """Connect to a socket file."""
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(path)
        return cls(connected)

    def send(self, message: Any) -> None:
        payload = json.dumps(message).encode()
        self.socket.sendall(struct.pack(">I", len(payload)) + payload)

    def receive(self) -> Any:
        """Return the next message, or None when the broker has closed the connection."""
        header = self._read(4)
        return json.loads(self._read(*struct.unpack(">I", header))) if header else None

    def ask(self, message: Any) -> Any:
        """Return the reply to *message*."""
        self.send(message)
        return self.receive()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length and (piece := self.socket.recv(length - len(data))):
            data += piece
        return data


OK = {"ok": True}


def do_jobs(master: Peer, slave: Peer, count: int = 1) -> None:
    """Have *slave* answer *count* jobs of *master*, and check every message on both ends."""
    assert slave.ask({"action": "join", "type": "double"}) == OK
    for number in range(count):
        assert master.ask({"action": "submit", "id": number, "type": "double", "body": number}) == OK
        assert slave.receive() == {"action": "job", "id": number, "type": "double", "body": number}
        assert slave.ask({"action": "respond", "body": 2 * number}) == OK
        assert master.receive() == {"id": number, "body": 2 * number}
