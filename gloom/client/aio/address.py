"""
Addresses of brokers for asyncio: ``HOST:PORT``, ``[IPv6]:PORT``, ``unix:PATH``, or several with commas.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Any

from gloom.client.arguments import checked_string

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,9})")
_UNIX = "unix:"


@dataclass(frozen=True)
class Place:
    """
    The address of one broker.

    Attributes:
        text: The address as it was given.
        host: A name or an IP address; empty for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        path: The file of a Unix socket, else empty.
    """

    text: str
    host: str = ""
    port: int = 0
    path: str = ""

    async def socket_addresses(self, loop: asyncio.AbstractEventLoop) -> list[tuple[int, Any]]:
        """
        Return the family and the address of each socket that may lead there, the likeliest first.

        Raises:
            OSError: The name is unknown.
        """
        if self.path:
            return [(socket.AF_UNIX, self.path)]
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


def places_of(address: str) -> tuple[Place, ...]:
    """
    Return the places that *address* names, in its order.

    Raises:
        ValueError: It is no address; the text says what is allowed.
        TypeError: It is no string.
    """
    return tuple(_place(one.strip()) for one in checked_string("address", address).split(","))


def _place(text: str) -> Place:
    if text.startswith(_UNIX) and len(text) > len(_UNIX):
        return Place(text, path=text.removeprefix(_UNIX))
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"an address must be HOST:PORT, [IPv6]:PORT or unix:PATH, got {text!r}")
    port = int(match["port"])
    if not 0 < port <= 65535:
        raise ValueError(f"a port is 1 to 65535, got {text!r}")
    return Place(text, match["v6"] or match["host"], port)
