"""
Addresses of brokers, and connecting to them, without Twisted.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from gloom.errors import TimedOut, TransportError
from gloom.wire.tcpoptions import set_tcp_options

if TYPE_CHECKING:
    from gloom.client.tls import ClientTLS, TLSSocket


def connect(host: str, port: int, timeout: float | None, tls: ClientTLS | None = None) -> socket.socket | TLSSocket:
    """
    Return a socket that is connected to *host*.

    Args:
        timeout: Seconds for each address that the host has; None for the system's.
        tls: How to speak TLS there; None for a plain connection.

    Raises:
        SettingsError: *tls* cannot be used.
        TransportError: The broker cannot be reached; `TimedOut` after *timeout*.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout)
        return sock if tls is None else _with_tls(sock, tls, host)
    except OSError as error:
        if timeout is not None and isinstance(error, TimeoutError):
            raise TimedOut(f"cannot connect to {place}: no answer within {timeout:g} s") from None
        raise TransportError(f"cannot connect to {place}: {error.strerror or error}") from error


def _with_tls(sock: socket.socket, tls: ClientTLS, host: str) -> TLSSocket:
    from gloom.client.tls import TLSSocket

    try:
        set_tcp_options(sock)
        return TLSSocket(sock, tls, host)
    except BaseException:
        sock.close()
        raise


def parse_address(text: str) -> tuple[str, int]:
    """
    Return the host and port that *text* names.

    Raises:
        ValueError: It is neither ``host:port`` nor ``[IPv6]:port``.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or (":" in host and not bracketed) or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"an address must be host:port or [host]:port, got {text!r}")
    return host, int(port)
