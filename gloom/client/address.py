"""
Where a broker is, as a person writes it: ``HOST:PORT`` or a Twisted client endpoint description.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d+)")


def client_endpoint(reactor: Any, address: str) -> IStreamClientEndpoint:
    """
    Return the endpoint that reaches *address*.

    Args:
        reactor: What the endpoint connects with.
        address: ``HOST:PORT``, ``[IPv6]:PORT``, or a Twisted client endpoint
            description such as ``unix:/run/gloom/masters.sock``.

    Raises:
        ValueError: It is none of these; the text says what is allowed.
    """
    match = _HOST_AND_PORT.fullmatch(address.strip())
    if match:
        port = int(match["port"])
        if not 0 < port <= 65535:
            raise ValueError(f"a port is 1 to 65535, got {address!r}")
        return HostnameEndpoint(reactor, match["v6"] or match["host"], port)
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, address)
    except Exception as error:
        # Whatever a parser of Twisted or of another package raises: the value is wrong.
        raise ValueError(
            f"expected HOST:PORT or a Twisted client endpoint description, got {address!r}: {error}"
        ) from None
    return endpoint
