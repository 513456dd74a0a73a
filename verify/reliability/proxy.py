"""
A bad network between peers and a broker, on this host: connections that stall, split, merge, delay and reset.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

_READ_BYTES = 64 * 1024
_MERGE_SECONDS = 0.05
_DELAY_SECONDS = 0.1
_RESET = struct.pack("ii", 1, 0)

Send = Callable[[socket.socket, bytes], None]


def whole(to: socket.socket, data: bytes) -> None:
    """Forward data unchanged."""
    to.sendall(data)


def split(to: socket.socket, data: bytes) -> None:
    """Forward each byte in a packet of its own."""
    for place in range(len(data)):
        to.sendall(data[place : place + 1])


def delayed(to: socket.socket, data: bytes) -> None:
    """Forward data 0.1 s later."""
    time.sleep(_DELAY_SECONDS)
    to.sendall(data)


class Proxy:
    """
    A port of this host that forwards to another; use it as a context manager.

    Args:
        port: The destination.

    Attributes:
        port: The port to connect to.
        send: Forwarding mode: `whole`, `split` or `delayed`; may be set at any time.
        merges: Whether to collect bytes for 0.05 s before forwarding.
    """

    def __init__(self, port: int) -> None:
        self.send: Send = whole
        self.merges = False
        self._target = port
        self._flows = Event()
        self._flows.set()
        self._ended = False
        self._lock = Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]

    def stall(self) -> None:
        """Stop forwarding, until `flow`."""
        self._flows.clear()

    def flow(self) -> None:
        """Resume forwarding, starting with the data received meanwhile."""
        self._flows.set()

    def reset(self) -> None:
        """Reset all connections, on both sides; new ones are accepted."""
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # A close does not wake a thread that is blocked on the socket.
                one.shutdown(socket.SHUT_RD)

    def __enter__(self) -> Self:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self.flow()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 10)
            except OSError:
                near.close()
                continue
            pair = (near, far)
            with self._lock:
                self._sockets.update(pair)
            for one in pair:
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, to in (pair, pair[::-1]):
                Thread(target=self._pass_on, args=(source, to), daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_READ_BYTES):
                if self.merges:
                    time.sleep(_MERGE_SECONDS)
                    with suppress(BlockingIOError):
                        data += source.recv(1 << 20, socket.MSG_DONTWAIT)
                self._flows.wait()
                self.send(to, data)
        # End both directions: half a connection is of no use here.
        for one in (source, to):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            with self._lock:
                known = one in self._sockets
                self._sockets.discard(one)
            if not known:
                # Both directions have ended.
                one.close()
