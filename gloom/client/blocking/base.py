"""
`Connection`, the base class of blocking masters and slaves: it connects, and has the default timeout of calls.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self, Unpack

from msgspec import UNSET

from gloom.client.arguments import checked_timeout
from gloom.client.blocking.address import connect, parse_address
from gloom.client.blocking.connection import Wire
from gloom.client.blocking.deadline import Deadline, Timeout, deadline_after
from gloom.client.options import ClientOptions, Credentials
from gloom.client.session import Greeting
from gloom.wire.messages import PROTOCOL_VERSION


class Connection:
    """
    A connection to a broker, for calls that block.

    Args:
        addr: A ``(host, port)`` tuple, a ``"host:port"`` string, a connected
            stream socket (not TLS), or another connection, to share its socket.
        timeout: Time limit in seconds of an attempt to connect, for each address of the host,
            and of each call that has no timeout of its own; None for no limit.
        options: ``token`` and ``tls``; see `gloom.client.options.ClientOptions`. A shared
            socket keeps the token with which it began.

    Raises:
        TypeError: *addr*, or another argument, is of another kind.
        ValueError: An argument is out of its range, *addr* is a string that is
            not an address, or *tls* cannot be used.
        TransportError: The broker cannot be reached; `TimedOut` after *timeout*.
    """

    def __init__(
        self,
        addr: tuple[str, int] | str | socket.socket | Connection,
        timeout: float | None = None,
        **options: Unpack[Credentials],
    ) -> None:
        self._timeout = checked_timeout(timeout)
        checked = ClientOptions(**options)
        if checked.tls is not None and not isinstance(addr, str | tuple):
            raise ValueError("tls goes with an address, not with what is connected already")
        if isinstance(addr, Connection):
            self._wire: Wire = addr._wire
            return
        # Without a heartbeat: between two calls, nothing here could send a ping.
        hello = Greeting(PROTOCOL_VERSION, checked.peer_name, token=checked.token)
        if isinstance(addr, str):
            addr = parse_address(addr)
        if isinstance(addr, tuple):
            if len(addr) != 2:
                raise ValueError(f"addr must be a tuple of a host and a port, got {len(addr)} values")
            self._wire = Wire(connect(addr[0], addr[1], timeout, checked.tls), hello)
            return
        if not isinstance(addr, socket.socket):
            expected = "a (host, port) tuple, a 'host:port' string, a socket or a Connection"
            raise TypeError(f"addr must be {expected}, got {type(addr).__name__}")
        self._wire = Wire(addr, hello)

    def _deadline(self, timeout: Timeout) -> Deadline | None:
        """Return the end of a call that was given *timeout*."""
        return deadline_after(self._timeout if timeout is UNSET else checked_timeout(timeout))

    def disconnect(self) -> None:
        """End the connection; a second time does nothing."""
        self._wire.end("the connection was closed by this program")

    close = disconnect

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disconnect()


#: The types of an address.
Address = tuple[str, int] | str | socket.socket | Connection
