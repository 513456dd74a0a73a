"""
Connecting an asyncio protocol to a broker: looking up, TCP or Unix socket, TLS.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from gloom.client.aio.address import Place
from gloom.client.tls import ClientTLS
from gloom.errors import TransportError
from gloom.wire.tcpoptions import set_tcp_options

# For each of the addresses that a name has; and for the handshake of TLS.
_CONNECT_SECONDS = 10.0

Connected = TypeVar("Connected", bound=asyncio.BaseProtocol)


class Connector:
    """
    Connects to places, with TLS or without.

    Args:
        places: Where it will connect.
        tls: How TLS is spoken there; None for not at all.

    Raises:
        ValueError: *tls* cannot be used, or does not name the broker behind a Unix socket.
    """

    def __init__(self, places: tuple[Place, ...], tls: ClientTLS | None) -> None:
        self._server_name = None if tls is None else tls.server_name
        self._context = None if tls is None else tls.ssl_context()
        for place in places:
            if tls is not None and not (place.host or tls.server_name):
                raise ValueError(f"TLS at {place.text!r} needs server_name: the name in the broker's certificate")

    @property
    def speaks_tls(self) -> bool:
        """Whether it speaks TLS."""
        return self._context is not None

    async def connect(self, place: Place, factory: Callable[[], Connected]) -> Connected:
        """
        Return a protocol that is connected to *place*.

        Raises:
            TransportError: The broker cannot be reached; or the two do not agree on TLS.
        """
        loop = asyncio.get_running_loop()
        connected = await self._socket_to(place, loop)
        protocol = factory()
        connect = loop.create_unix_connection if place.path else loop.create_connection
        try:
            await connect(lambda: protocol, sock=connected, **self._tls_options(place))
        except BaseException as error:
            # It may have begun by now, and uvloop does not tell it of the end.
            protocol.connection_lost(None)
            if isinstance(error, OSError):
                raise TransportError(f"cannot connect to {place.text}: {_handshake_text(error)}") from error
            raise
        return protocol

    def _tls_options(self, place: Place) -> dict[str, Any]:
        if self._context is None:
            return {}
        return {
            "ssl": self._context,
            "server_hostname": self._server_name or place.host,
            "ssl_handshake_timeout": _CONNECT_SECONDS,
        }

    async def _socket_to(self, place: Place, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """Return the first socket that connects."""
        failed: Exception = OSError("its name has no address")
        try:
            for family, address in await place.socket_addresses(loop):
                try:
                    return await _connected_socket(loop, family, address)
                except OSError as error:
                    failed = error
        except (OSError, UnicodeError) as error:  # the name
            failed = error
        raise TransportError(f"cannot connect to {place.text}: {_text(failed)}") from failed


async def _connected_socket(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        set_tcp_options(sock)
        async with asyncio.timeout(_CONNECT_SECONDS):
            await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _text(error: Exception) -> str:
    if type(error) is TimeoutError and not error.args:
        return f"no answer within {_CONNECT_SECONDS:g} s"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)  # asyncio has a text of its own, with the address once more
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _handshake_text(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        text = f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
        return f"{text}; does the broker speak TLS here?" if "wrong version" in text else text
    return f"TLS: {_text(error)}"
