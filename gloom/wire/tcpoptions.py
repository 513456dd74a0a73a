"""
The options of gloom's TCP sockets, for brokers and all clients.
"""

from __future__ import annotations

import socket

# A dead host is detected within about a minute: on an idle connection by
# keepalive (30 s + 3 x 10 s), with unacknowledged data by the user timeout.
# The user timeout also ends a connection to a live peer that reads nothing for
# as long, while more data waits for it than the sockets hold.
_TCP_OPTIONS = [
    (getattr(socket, option), value)
    for option, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", 30),  # seconds
        ("TCP_KEEPINTVL", 10),  # seconds
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60_000),  # milliseconds
    )
    if hasattr(socket, option)  # some systems lack some of them
]


def set_tcp_options(sock: socket.socket) -> None:
    """Set the options on *sock* if it is a TCP socket."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _TCP_OPTIONS:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
