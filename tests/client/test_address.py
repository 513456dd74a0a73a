"""`gloom.client.deferred.address`: where a broker is, as a person writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, UNIXClientEndpoint, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock

from gloom.client.deferred.address import client_endpoint


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("broker.example.org:1", "broker.example.org", 1),
        (" localhost:65535\n", "localhost", 65535),
        ("[fe80::1%eth0]:9998", "fe80::1%eth0", 9998),
    ],
)
def test_host_and_port(address: str, host: str, port: int) -> None:
    """HOST:PORT is a name, or an address with a zone, that is looked up."""
    endpoint = client_endpoint(reactor, address)
    assert isinstance(endpoint, HostnameEndpoint)
    assert (endpoint._hostText, endpoint._port) == (host, port)


@pytest.mark.parametrize(("address", "host"), [("127.0.0.1:9998", "127.0.0.1"), ("[::1]:9998", "::1")])
def test_an_address_is_not_looked_up(address: str, host: str) -> None:
    """An IP address, that of IPv6 in brackets, is connected to at once, without a resolver's thread."""
    memory = MemoryReactorClock()
    client_endpoint(memory, address).connect(Factory.forProtocol(Protocol))
    assert [client[:2] for client in memory.tcpClients] == [(host, 9998)]


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("tcp:127.0.0.1:9998", TCP4ClientEndpoint),
        ("tcp:host=127.0.0.1:port=9998:timeout=3", TCP4ClientEndpoint),
        ("unix:/run/gloom/masters.sock", UNIXClientEndpoint),
    ],
)
def test_a_description_of_twisted(description: str, kind: type) -> None:
    """Any endpoint of Twisted, or of a plugin for it."""
    assert isinstance(client_endpoint(reactor, description), kind)


@pytest.mark.parametrize("address", ["", "9998", "host", "host:", ":9998", "host:name", "::1:9998", "carrier:pigeon:1"])
def test_any_other_address_is_refused(address: str) -> None:
    """The ValueError names the allowed forms and the value."""
    with pytest.raises(ValueError, match="expected HOST:PORT or a Twisted client endpoint description, got ") as raised:
        client_endpoint(reactor, address)
    assert repr(address) in str(raised.value)


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999999"])
def test_a_port_has_sixteen_bits(port: str) -> None:
    """ValueError for a port that no host has."""
    with pytest.raises(ValueError, match="a port is 1 to 65535, got 'localhost:"):
        client_endpoint(reactor, f"localhost:{port}")


class Greeting(Protocol):
    """Closes once it has been reached."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]


async def test_an_address_reaches_its_listener(tmp_path: Path) -> None:
    """A port by number, and a socket in the file system."""
    for listening in ("tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/socket"):
        port = await serverFromString(reactor, listening).listen(Factory.forProtocol(Greeting))
        host = port.getHost()
        address = f"127.0.0.1:{host.port}" if hasattr(host, "port") else f"unix:{tmp_path}/socket"
        connected = await client_endpoint(reactor, address).connect(Factory.forProtocol(Greeting))
        assert isinstance(connected, Greeting)
        await port.stopListening()
