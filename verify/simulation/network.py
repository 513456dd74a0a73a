"""
In-memory TCP: bytes arrive in pieces, late or never, and always in order.

Each end has a socket with a buffer of its own size. As in Twisted, the transport
buffers the bytes that the socket does not take, aborts in a later
turn, and asks a pull producer for more when its buffer is empty. So the
broker runs the same code path as on a real socket.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ISystemHandle,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .clock import Clock, VirtualTime


class _Socket(socket.socket):
    """The socket that `FrameSender` sends on; not a socket of the system."""

    family = socket.AF_UNIX  # it takes no TCP options

    def __init__(self, end: End) -> None:
        # No call of the base's __init__: it would open a socket.
        self.send = end.send  # type: ignore[assignment, method-assign]
        self.recv = end.peek  # type: ignore[assignment, method-assign]


@implementer(ITCPTransport, ISystemHandle, IConsumer)
class End:
    """
    One end of a connection.

    Attributes:
        inbox: Bytes that have arrived in this end's socket, unread.
        capacity: Size of the socket's buffer.
        ended: Why nothing arrives after the inbox; None while data may arrive.
        stalled_until: Until that time no data reaches the program.
        lost: Whether the program was notified that the connection has ended.
        taken: Times at which the other end's socket took bytes of this end's program, and how many.
        born: Time of its creation.
        heard: Time at which this end's program last read data.
        full_since: Time since which the other end's socket has not taken all data of this end's program.
    """

    def __init__(self, network: Network, near: IPv4Address, far: IPv4Address, capacity: int) -> None:
        self.network = network
        self.inbox = bytearray()
        self.capacity = capacity
        self.ended: Exception | None = None
        self.stalled_until = 0.0
        self.reading = True
        self.lost = False
        self.taken: deque[tuple[float, int]] = deque(maxlen=1000)
        self.born = self.heard = self.full_since = network.time.now
        self._is_full = False
        self.listed = False
        self.is_brokers = False
        self.protocol: Any = None
        self.other: End
        self._near, self._far = near, far
        self.socket = _Socket(self)
        self._unsent = bytearray()
        self._producer: Any = None
        self._is_streaming = False
        self._aborting = False
        self._closing = False
        self._closing_write = False
        self._write_closed = False

    # The socket

    def send(self, data: Any) -> int:
        other = self.other
        if self.lost or self._write_closed:
            raise BrokenPipeError
        if other.lost:
            return len(data)  # this end has not been notified yet
        room = other.capacity - len(other.inbox)
        if room < len(data) and not self._is_full:
            self._is_full, self.full_since = True, self.network.time.now
        if room <= 0:
            raise BlockingIOError
        other.inbox += data[:room]
        self.taken.append((self.network.time.now, min(room, len(data))))
        if not other.listed:
            self.network.has_news(other)
        return min(room, len(data))

    def peek(self, count: int, flags: int) -> bytes:
        """Return the first *count* bytes that have arrived, and leave them there."""
        assert flags == socket.MSG_PEEK | socket.MSG_DONTWAIT
        if self.stalled_until > self.network.time.now or not (self.inbox or self.ended):
            raise BlockingIOError
        return bytes(self.inbox[:count])

    def getHandle(self) -> _Socket:
        return self.socket

    # The transport

    def write(self, data: bytes) -> None:
        if not self.lost and not self._write_closed:
            self._unsent += data
            self.network.wants_to_send(self)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self._producer is None
        self._producer, self._is_streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        # The buffer is empty.
        self._producer = None
        self._is_full = False
        self.network.wants_to_send(self)

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if not self._closing and not self._aborting and not self.lost:
            self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        self._closing = True
        self.reading = False
        self.network.wants_to_send(self)

    def loseWriteConnection(self) -> None:
        self._closing_write = True
        self.network.wants_to_send(self)

    def abortConnection(self) -> None:
        if not self.lost and not self._aborting:
            self._aborting = True
            self.reading = False
            self.network.wants_to_send(self)

    def getPeer(self) -> IPv4Address:
        return self._far

    def getHost(self) -> IPv4Address:
        return self._near

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def taken_since(self, since: float) -> int:
        """Return the number of bytes that the other end's socket took after *since*."""
        return sum(count for when, count in self.taken if when > since)

    # The network

    def do_write(self) -> None:
        """Send the buffered data, as far as the other end has room; then the data that follows."""
        if self.lost:
            return
        if self._aborting:
            self.lose(ConnectionAborted())
            return
        if self._unsent:
            try:
                del self._unsent[: self.send(self._unsent)]
            except OSError:
                return
        if self._unsent:
            return
        if self._producer is not None:
            if not self._is_streaming:
                self._producer.resumeProducing()
        elif self._closing:
            self.lose(ConnectionDone())
        elif self._closing_write and not self._write_closed:
            self._write_closed = True
            self.other.end_with(ConnectionDone())

    def is_readable(self) -> bool:
        """Return whether the program would read, and the data in the socket can reach it."""
        return self.reading and not self.lost and self.stalled_until <= self.network.time.now

    def has_to_send(self) -> bool:
        return bool(self._unsent) or self._producer is not None

    def read(self, most: int) -> int:
        """Pass *most* bytes, or the end of the stream, to the program; return their number."""
        inbox = self.inbox
        if not inbox:
            self.lose(self.ended)
            return 0
        if most >= len(inbox):
            data = bytes(inbox)
            inbox.clear()
        else:
            data = bytes(inbox[:most])
            del inbox[:most]
        self.heard = self.network.time.now
        if self.other.has_to_send():
            self.network.wants_to_send(self.other)
        self.protocol.dataReceived(data)
        return len(data)

    def end_with(self, reason: Exception) -> None:
        """End the incoming stream."""
        if self.ended is None and not self.lost:
            self.ended = reason
            if not self.listed:
                self.network.has_news(self)
            if self.has_to_send():
                self.network.wants_to_send(self)

    def lose(self, reason: Any) -> None:
        """End the connection here; the other end is notified later, and may miss the last bytes."""
        if self.lost:
            return
        self.lost = True
        self.inbox.clear()
        other = self.other
        if isinstance(reason, ConnectionDone):
            other.end_with(ConnectionDone())
        else:
            other.end_with(ConnectionLost())
            if other.inbox:
                del other.inbox[self.network.random.randrange(len(other.inbox) + 1) :]
        protocol, self.protocol, self._producer = self.protocol, None, None
        protocol.connectionLost(Failure(reason))


class Network:
    """
    All connections.

    Attributes:
        listeners: The factory that answers on each port.
        ends: Every end that was not lost at the last check; the client's first.
        stands_still: Whether the broker's program is stopped: its sockets fill, and connecting fails.
    """

    def __init__(self, time: VirtualTime, random: Random) -> None:
        self.time = time
        self.random = random
        self.listeners: dict[int, Any] = {}
        self.ends: list[End] = []
        self._news: list[End] = []
        self._senders: deque[End] = deque()
        self._port = 10_000
        self.stands_still = False
        # Start and end of each pause of the broker, latest last.
        self._gaps: deque[tuple[float, float]] = deque(maxlen=100)

    def stood_still(self, since: float) -> None:
        """Record a pause of the broker's program from *since* until now."""
        self._gaps.append((since, self.time.now))

    def ran_since(self, since: float) -> float:
        """Return the seconds for which the broker's program has run after *since*."""
        gaps = sum(ended - max(begun, since) for begun, ended in self._gaps if ended > since)
        return self.time.now - since - gaps

    def has_news(self, end: End) -> None:
        end.listed = True
        self._news.append(end)

    def wants_to_send(self, end: End) -> None:
        self._senders.append(end)

    def connect(self, port: int, build: Callable[[Any], Any]) -> End | None:
        """Connect the protocol of *build* to *port*; return its end, or None without a listener."""
        factory = self.listeners.get(port)
        if factory is None or self.stands_still:
            return None
        self._port += 1
        near, far = IPv4Address("TCP", "127.0.0.1", self._port), IPv4Address("TCP", "127.0.0.1", port)
        # Small sockets, so that they fill.
        sizes = [self.random.choice((200, 1000, 65536)) for _ in range(2)]
        client, server = End(self, near, far, sizes[0]), End(self, far, near, sizes[1])
        client.other, server.other = server, client
        server.is_brokers = True
        server.protocol, client.protocol = factory.buildProtocol(near), build(far)
        self.ends += [client, server]
        server.protocol.makeConnection(server)
        client.protocol.makeConnection(client)
        return client

    def turn(self) -> bool:
        """Let every transport send; return whether one tried."""
        senders, self._senders = self._senders, deque()
        tried = False
        for end in senders:
            if self.stands_still and end.is_brokers:
                self._senders.append(end)
            else:
                end.do_write()
                tried = True
        return tried

    def deliver(self) -> bool:
        """Let one end, chosen at random, read something; return whether one could."""
        news, random = self._news, self.random.random
        for _ in range(4):
            if not news:
                return False
            index = int(random() * len(news))
            end = news[index]
            if end.lost or not (end.inbox or end.ended):
                news[index] = news[-1]
                news.pop()
                end.listed = False
            elif end.is_readable() and not (self.stands_still and end.is_brokers):
                end.read(self._piece())
                return True
        return False

    def broker_has_unread(self) -> bool:
        """Return whether the broker's sockets hold data that it would read."""
        return any(end.is_brokers and end.is_readable() and (end.inbox or end.ended) for end in self._news)

    def broker_reads(self) -> None:
        """Let the broker read all data in its sockets, as its poll does."""
        for end in [end for end in self._news if end.is_brokers]:
            if end.is_readable() and (end.inbox or end.ended):
                end.read(65536)

    def _piece(self) -> int:
        chance = self.random.random()
        if chance < 0.8:
            return 65536
        return 1 + int(self.random.random() * (200 if chance < 0.95 else 6))

    def alive(self) -> list[End]:
        """Return the ends that are not lost."""
        self.ends = [end for end in self.ends if not end.lost]
        return self.ends


class _Port:
    def __init__(self, network: Network, port: int) -> None:
        self._network = network
        self._port = port

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self._port)

    def stopListening(self) -> Deferred[None]:
        del self._network.listeners[self._port]
        return succeed(None)


@implementer(IStreamServerEndpoint)
class ListeningEndpoint:
    """The broker's listening endpoint."""

    def __init__(self, network: Network, port: int) -> None:
        self._network = network
        self._port = port

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        self._network.listeners[self._port] = protocolFactory
        return succeed(_Port(self._network, self._port))


@implementer(IStreamClientEndpoint)
class ConnectingEndpoint:
    """A library client's endpoint: it connects after a moment, and the client may be gone by then."""

    def __init__(self, network: Network, clock: Clock, port: int) -> None:
        self._network = network
        self._clock = clock
        self._port = port

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        random = self._network.random.random
        if random() < 0.05:
            return fail(ConnectError(string="no route"))
        connected: Deferred[Any] = Deferred(lambda _: call.cancel())
        call = self._clock.callLater(random() * 0.01, self._connect, protocolFactory, connected)
        return connected

    def _connect(self, factory: Any, connected: Deferred[Any]) -> None:
        end = self._network.connect(self._port, factory.buildProtocol)
        if end is None:
            connected.errback(ConnectError(string="refused"))
        else:
            connected.callback(end.protocol)
