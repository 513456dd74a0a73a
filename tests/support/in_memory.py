"""Connections in memory to the factories of a `gloom.server.service.BrokerService`."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol

from gloom.server.peers import PeerFactory
from gloom.testing import MemoryTransport

HERE = IPv4Address("TCP", "127.0.0.1", 9998)


class Reader(Protocol):
    """
    The peer's end of a connection.

    Attributes:
        received: The received bytes.
    """

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


def connect(factory: PeerFactory[Any], reads: bool = True) -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of a new connection to *factory*, the peer's first."""
    near, far = MemoryTransport(HERE, HERE), MemoryTransport(HERE, HERE)
    near.link(far)
    near.stalled = not reads
    for transport, protocol in ((near, Reader()), (far, factory.buildProtocol(HERE))):
        transport.protocol = protocol
        protocol.makeConnection(transport)
    return near, far


def carry(*ends: MemoryTransport) -> None:
    while any(end.carry() for end in ends):
        pass
