"""
Addresses of brokers: from ``HOST:PORT`` or a Twisted client endpoint description to an endpoint.
"""

from __future__ import annotations

import re

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    clientFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import IReactorTCP, IStreamClientEndpoint

from gloom.client.deferred.openssl import client_options
from gloom.client.tls import ClientTLS

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d+)")


def client_endpoint(reactor: IReactorTCP, address: str, tls: ClientTLS | None = None) -> IStreamClientEndpoint:
    """
    Return the endpoint that reaches *address*.

    Args:
        reactor: Connects; a host's name needs its resolver, a description perhaps more.
        address: ``HOST:PORT``, ``[IPv6]:PORT``, or a Twisted client endpoint
            description such as ``unix:/run/gloom/masters.sock``.
        tls: How to speak TLS there; None for a plain connection.

    Raises:
        ValueError: *address* is none of these; the text lists them. Or *tls* cannot be used,
            or lacks the ``server_name`` that a description needs.
    """
    match = _HOST_AND_PORT.fullmatch(address.strip())
    if match:
        port = int(match["port"])
        if not 0 < port <= 65535:
            raise ValueError(f"a port is 1 to 65535, got {address!r}")
        host = match["v6"] or match["host"]
        endpoint = _at(reactor, host, port)
    else:
        host = ""
        endpoint = _described(reactor, address)
    if tls is None:
        return endpoint
    if not (host or tls.server_name):
        raise ValueError(f"TLS at {address!r} needs server_name: whose certificate it must be")
    wrapped: IStreamClientEndpoint = wrapClientTLS(client_options(tls, host), endpoint)
    return wrapped


def _at(reactor: IReactorTCP, host: str, port: int) -> IStreamClientEndpoint:
    # HostnameEndpoint would resolve an address in a thread, as it does a name.
    if isIPAddress(host):
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(reactor, host, port)
    elif isIPv6Address(host) and "%" not in host:
        endpoint = TCP6ClientEndpoint(reactor, host, port)
    else:
        # The zone of an IPv6 address has to be resolved to the number of its interface.
        endpoint = HostnameEndpoint(reactor, host, port)
    return endpoint


def _described(reactor: IReactorTCP, address: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, address)
    except Exception as error:
        # A parser of Twisted or of another package may raise anything for a wrong value.
        raise ValueError(
            f"expected HOST:PORT or a Twisted client endpoint description, got {address!r}: {error}"
        ) from None
    return endpoint
