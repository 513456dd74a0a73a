"""
A double for tests: the real broker, protocols and clients over an in-memory wire and a clock.

There is no socket, no reactor and no waiting: `MemoryGloom.advance` moves time
and carries bytes until none are left. A test of a program that uses gloom
passes `MemoryGloom.master_endpoint`, `MemoryGloom.slave_endpoint` and
`MemoryGloom.clock` to its clients instead of real ones:

    gloom = MemoryGloom()
    slave = Slave(gloom.slave_endpoint, "double", lambda n: 2 * n, reactor=gloom.clock)
    master = Master(gloom.master_endpoint, reactor=gloom.clock)
    slave.startService(), master.startService()
    answer = master.submit("double", 21)
    gloom.advance()
    assert gloom.result(answer) == 42
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from gloom.server.access import Access
from gloom.server.peers import PeerFactory
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.server.service import memory_surroundings
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.transport.framing import FrameProtocol
from gloom.wire.largebytes import Payload

Result = TypeVar("Result")

# As Twisted's own transports.
_FULL_BYTES = 64 * 1024


@implementer(ITransport, IPushProducer, IConsumer)
class MemoryTransport:
    """
    One end of an in-memory connection.

    Attributes:
        connected: Whether this end still takes writes.
        stalled: Set it to deliver nothing to this end, as if it did not read.
    """

    def __init__(self, host: IPv4Address, peer: IPv4Address) -> None:
        self.connected = True
        self.stalled = False
        self.protocol: IProtocol | None = None
        self._host = host
        self._peer_address = peer
        self._other: MemoryTransport | None = None
        self._output = bytearray()
        self._reading = True
        self._producer: Any = None
        self._is_producer_paused = False
        self._closing = False

    def link(self, other: MemoryTransport) -> None:
        """Connect this end to *other*."""
        self._other, other._other = other, self

    def write(self, data: bytes) -> None:
        if self.connected:
            self._output += data
            if self._producer is not None and not self._is_producer_paused and len(self._output) > _FULL_BYTES:
                self._is_producer_paused = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if not streaming:
            raise NotImplementedError("only push producers")
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None
        self._is_producer_paused = False

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        self._reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        self._closing = True

    def abortConnection(self) -> None:
        self._output.clear()
        self._end(ConnectionAborted())

    def getPeer(self) -> IPv4Address:
        return self._peer_address

    def getHost(self) -> IPv4Address:
        return self._host

    def carry(self) -> bool:
        """Deliver the output of this end to the other end; return whether anything happened."""
        other = self._other
        if not self.connected or other is None or other.stalled or not other._reading:
            return False
        if self._output:
            data = bytes(self._output)
            self._output.clear()
            cast(IProtocol, other.protocol).dataReceived(data)
            if self._is_producer_paused:
                self._is_producer_paused = False
                self._producer.resumeProducing()
            return True
        if self._closing:
            self._end(ConnectionDone())
            return True
        return False

    def _end(self, reason: Exception) -> None:
        for end in (self, self._other):
            if end is not None and end.connected:
                end.connected = False
                cast(IProtocol, end.protocol).connectionLost(Failure(reason))
        other, self._other = self._other, None
        if other is not None:
            # `MemoryEndpoint.connections` keeps the client's end, which must not keep the broker's.
            other._other = None


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """
    A client endpoint that reaches a server factory without a network.

    Attributes:
        refusing: Set it to refuse connections, as if the broker were down.
        connections: The client's end of each connection, oldest first.
    """

    def __init__(self, server: IProtocolFactory, port: int) -> None:
        self.server = server
        self.refusing = False
        self.connections: list[MemoryTransport] = []
        self._port = port

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        if self.refusing:
            return fail(ConnectError(string="the broker is down"))
        near_address = IPv4Address("TCP", "127.0.0.1", 50000 + len(self.connections))
        far_address = IPv4Address("TCP", "127.0.0.1", self._port)
        near, far = MemoryTransport(near_address, far_address), MemoryTransport(far_address, near_address)
        near.link(far)
        client, server = factory.buildProtocol(far_address), self.server.buildProtocol(near_address)
        self.connections += [near]
        near.protocol, far.protocol = client, server
        for transport in (far, near):
            transport.protocol.makeConnection(transport)  # type: ignore[union-attr]
        return succeed(client)

    def carry(self) -> bool:
        """Move bytes once in both directions of every connection; return whether anything happened."""
        ends = [end for near in self.connections for end in (near, near._other) if end is not None]
        return sum(end.carry() for end in ends) > 0


class RawPeer(FrameProtocol):
    """
    A peer that writes and reads raw messages, as a client in another language would.

    Attributes:
        frames: The received payloads that were not taken yet, as bytes.
    """

    def __init__(self, gloom: MemoryGloom) -> None:
        super().__init__(2**31, gloom.flushes, gloom.clock)
        self.frames: list[bytes] = []
        self._gloom = gloom

    def stringReceived(self, string: Payload) -> None:
        self.frames.append(bytes(string))  # a very large payload is no bytes object

    def send(self, message: Any) -> None:
        """Send *message*, bytes as they are or any other value as JSON, and carry it."""
        self.sendString(message if isinstance(message, bytes) else json.dumps(message).encode())
        self._gloom.advance()

    def send_bytes(self, data: bytes) -> None:
        """Send *data* without a header, and carry it."""
        self.transport.write(data)
        self._gloom.advance()

    def take(self) -> list[Any]:
        """Return the messages received since the last call."""
        frames, self.frames = self.frames, []
        return [json.loads(frame) for frame in frames]

    def ask(self, message: Any) -> list[Any]:
        """Send *message* and return the replies."""
        self.send(message)
        return self.take()

    def drop(self) -> None:
        """End the connection."""
        self.transport.loseConnection()
        self._gloom.advance()


class MemoryGloom:
    """
    A whole broker in memory.

    Args:
        settings: The broker's limits; the defaults if absent.
        access: The access rules; without any, everyone may do everything.

    Attributes:
        broker: The real in-memory broker.
        clock: Time for everything; also the ``reactor`` of clients.
        master_endpoint: Where masters connect.
        slave_endpoint: Where slaves connect.
    """

    def __init__(self, settings: Settings | None = None, access: Access | None = None) -> None:
        self.settings = Settings() if settings is None else settings
        self.clock = Clock()
        self.access = access
        self.restart()
        self.master_endpoint = MemoryEndpoint(self.masters, MASTER_PORT)
        self.slave_endpoint = MemoryEndpoint(self.slaves, SLAVE_PORT)

    def restart(self) -> None:
        """Start an empty broker, as after a crash; call `drop_all` for the connections."""
        around = memory_surroundings(self.settings, self.clock, self.access)
        self.broker = around.broker
        self.flushes = around.flushes
        self.masters = PeerFactory(MasterProtocol, around)
        self.slaves = PeerFactory(SlaveProtocol, around)
        if hasattr(self, "master_endpoint"):
            self.master_endpoint.server = self.masters
            self.slave_endpoint.server = self.slaves

    def advance(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, and carry bytes meanwhile, until none are left."""
        end = self.clock.seconds() + seconds
        while self.master_endpoint.carry() | self.slave_endpoint.carry() or self._pass_to_next_call(end):
            pass
        self.clock.rightNow = max(end, self.clock.rightNow)

    def _pass_to_next_call(self, end: float) -> bool:
        """Let time pass to the next delayed call, unless that is after *end*; return whether there was one."""
        due = min((call.getTime() for call in self.clock.getDelayedCalls()), default=None)
        if due is None or due > end:
            return False
        # Set exactly: adding a difference of floats may fall short of it.
        self.clock.rightNow = max(due, self.clock.rightNow)
        self.clock.advance(0)
        return True

    def master(self) -> RawPeer:
        """Return a new raw connection on the master port."""
        return self._raw(self.master_endpoint)

    def slave(self) -> RawPeer:
        """Return a new raw connection on the slave port."""
        return self._raw(self.slave_endpoint)

    def _raw(self, endpoint: MemoryEndpoint) -> RawPeer:
        peer = RawPeer(self)
        endpoint.connect(_Once(lambda: peer))
        return peer

    def drop_all(self) -> None:
        """End every connection, as in a crash of the broker."""
        for endpoint in (self.master_endpoint, self.slave_endpoint):
            # A client may reconnect at once; its new connection stays.
            connections, endpoint.connections = endpoint.connections, []
            for transport in connections:
                transport.abortConnection()

    @staticmethod
    def result(deferred: Deferred[Result]) -> Result:
        """
        Return the result of *deferred*, or raise its failure.

        Raises:
            AssertionError: It has not fired.
        """
        if not deferred.called or deferred.paused:
            raise AssertionError("the Deferred has not fired")
        results: list[Any] = []
        deferred.addBoth(results.append)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]


@implementer(IProtocolFactory)
class _Once:
    """A factory for one protocol."""

    def __init__(self, build: Callable[[], RawPeer]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Any:
        return self._build()

    def doStart(self) -> None: ...

    def doStop(self) -> None: ...
