"""
The socket under a transport, and its queues as the system reports them.
"""

from __future__ import annotations

import array
import socket
from typing import Any

from twisted.internet.interfaces import IProtocol, ISystemHandle

try:
    from fcntl import ioctl
    from termios import FIONREAD, TIOCOUTQ
except ImportError:  # pragma: no cover (not a Unix system)
    ioctl = None  # type: ignore[assignment]


def has_own_socket(transport: Any) -> bool:
    """
    Return whether *transport* is a socket's own, without a wrapper.

    A wrapper (TLS, the PROXY protocol) is itself the protocol of the transport below.
    It may show the socket of that transport, but has to see all bytes.
    """
    if IProtocol.providedBy(transport) or not ISystemHandle.providedBy(transport):
        return False
    return isinstance(transport.getHandle(), socket.socket)


def socket_under(transport: Any) -> socket.socket | None:
    """Return the socket under *transport*, or None; over TLS it is that of the transport below OpenSSL's."""
    while ISystemHandle.providedBy(transport):
        handle = transport.getHandle()
        if isinstance(handle, socket.socket):
            return handle
        transport = getattr(transport, "transport", None)
    return None


def unacknowledged_bytes(handle: socket.socket | None) -> int:
    """Return how many bytes the system holds that the other end has not acknowledged; 0 where it does not say."""
    return 0 if ioctl is None else _ask_socket(handle, TIOCOUTQ)


def unread_input_bytes(handle: socket.socket | None) -> int:
    """Return how many bytes have arrived and were not read; 0 where the system does not say."""
    return 0 if ioctl is None else _ask_socket(handle, FIONREAD)


def _ask_socket(handle: socket.socket | None, request: int) -> int:
    if handle is None or handle.fileno() < 0:
        return 0
    answer = array.array("i", [0])
    try:
        ioctl(handle, request, answer)
    except OSError:
        return 0
    return answer[0]


def has_unread_input(handle: socket.socket | None) -> bool:
    """Return whether anything has arrived, be it the end of the connection, and was not read."""
    try:
        return handle is not None and bool(handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (OSError, AttributeError):  # the latter on a system without the flag
        return False
