"""
One connection to a broker that comes back by itself.

`BrokerConnection` is a client's end of the wire over a `Session`;
`BrokerLink` is the Service that connects, says ``hello``, keeps the heartbeat
and connects again. `gloom.client.deferred` builds masters and slaves on it.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gloom.client.address import client_endpoint
from gloom.client.session import Event, Reply, Session
from gloom.errors import GloomError, ProtocolError, TransportError
from gloom.framing import FlushTurn, FrameProtocol
from gloom.messages import PROTOCOL_VERSION, Hello, Ping, Request
from gloom.settings import GIB

# A broker's answers are its slaves' answers: the limit is the protocol's own.
_MAX_ANSWER_BYTES = 2 * GIB
_HELLO_SECONDS = 10.0
# Pings in one agreed heartbeat; the same number of silent ones ends the connection.
_PINGS_A_HEARTBEAT = 3

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 15.0
_DELAY_FACTOR = 1.7


def default_name() -> str:
    """Return how this process names itself to a broker: ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"[:255]


def retry_delay_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row: growing, and jittered so that a farm spreads out."""
    # The exponent is bounded: a float overflows after some days of failing.
    longest = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * _DELAY_FACTOR ** min(failures, 64))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


class BrokerConnection(FrameProtocol):
    """
    A client's end of one connection.

    Attributes:
        max_frame_bytes: The broker's limit for one frame, known once `welcomed` has fired.
        welcomed: Fires when the broker has answered ``hello``.
        ended: Fires with the reason, an exception, when the connection has ended.
    """

    log = Logger()

    def __init__(self, link: BrokerLink, flushes: FlushTurn, clock: IReactorTime) -> None:
        super().__init__(_MAX_ANSWER_BYTES, flushes, clock)
        self.max_frame_bytes = _MAX_ANSWER_BYTES
        self.welcomed: Deferred[None] = Deferred()
        self.ended: Deferred[BaseException | None] = Deferred()
        self._link = link
        self._session = Session()
        self._ping: IDelayedCall | None = None
        self._silent_pings = 0

    def ask(self, request: Request) -> None:
        """Send *request*; its reply comes to the link as an event."""
        self.sendString(self._session.ask(request))

    def connectionMade(self) -> None:
        super().connectionMade()
        self.ask(Hello(PROTOCOL_VERSION, self._link.name, self._link.heartbeat_seconds))

    def dataReceived(self, data: bytes) -> None:
        self._silent_pings = 0
        super().dataReceived(data)

    def stringReceived(self, string: bytes) -> None:
        try:
            event = self._session.receive(string)
        except ProtocolError as error:
            self._give_up(error)
            return
        if event is None:
            return
        if type(event) is Reply and type(event.request) is Hello:
            self._welcome(event)
        else:
            self._link.heard(self, event)

    def lengthLimitExceeded(self, length: int) -> None:
        self._give_up(ProtocolError(f"the broker sent a frame of {length} bytes"))

    def _give_up(self, error: GloomError) -> None:
        self.log.error("the connection to the broker is dropped: {error}", error=error)
        self.transport.abortConnection()  # type: ignore[union-attr]

    def _welcome(self, reply: Reply) -> None:
        if reply.error is not None:
            if not self.welcomed.called:
                self.welcomed.errback(reply.error)
            return
        self.max_frame_bytes = reply.message.max_frame or _MAX_ANSWER_BYTES
        self._keep_heartbeat(reply.message.heartbeat)
        if not self.welcomed.called:
            self.welcomed.callback(None)

    def _keep_heartbeat(self, heartbeat_seconds: float) -> None:
        if heartbeat_seconds and not self.lost:
            interval = heartbeat_seconds / _PINGS_A_HEARTBEAT
            self._ping = self._clock.callLater(interval, self._send_ping, heartbeat_seconds)

    def _send_ping(self, heartbeat_seconds: float) -> None:
        self._ping = None
        if self._silent_pings >= _PINGS_A_HEARTBEAT:
            self._give_up(TransportError(f"it was silent for {heartbeat_seconds} s"))
            return
        self._silent_pings += 1
        self.ask(Ping())
        self._keep_heartbeat(heartbeat_seconds)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None
        if not self.welcomed.called:
            self.welcomed.errback(TransportError(f"the connection ended before the broker said hello: {reason.value}"))
        self.ended.callback(reason.value)


class BrokerLink(Service):
    """
    Keeps one connection to a broker while the service runs.

    Args:
        endpoint: Where the broker is: an `IStreamClientEndpoint`, or a string
            that `gloom.client.address.client_endpoint` understands.
        reactor: Clock, and what a string connects with.
        name: How the broker names this peer; ``host:pid`` when absent.
        heartbeat_seconds: Longest silence that either side accepts; 0 for none.

    Attributes:
        connection: The connection that is up and welcomed, or None.
    """

    log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any,
        name: str | None = None,
        heartbeat_seconds: float = 30.0,
    ) -> None:
        self.name = default_name() if name is None else name
        self.heartbeat_seconds = heartbeat_seconds
        self.connection: BrokerConnection | None = None
        self._endpoint = client_endpoint(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        self._reactor = reactor
        self._flushes = FlushTurn(reactor)
        self._loop: Deferred[None] | None = None
        self._failures = 0
        self._waiting: list[tuple[int | None, Deferred[None]]] = []

    # What subclasses say

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        """Take what the broker sent."""
        raise NotImplementedError

    def connected(self, connection: BrokerConnection) -> None:
        """Begin on a new connection."""
        raise NotImplementedError

    def disconnected(self) -> None:
        """Learn that the connection has ended."""
        raise NotImplementedError

    async def wind_down(self) -> None:
        """Finish what must be finished before the connection is closed on purpose."""
        raise NotImplementedError

    # What users call

    def when_connected(self, attempts: int | None = None) -> Deferred[None]:
        """
        Wait for the connection.

        Args:
            attempts: Give up after so many failures in a row; None waits for ever.

        Returns:
            Fires when the broker has answered ``hello``; at once if it has.

        Raises:
            TransportError: *attempts* have failed, or the service was stopped.
        """
        waiting: Deferred[None] = Deferred()
        if self.connection is not None:
            waiting.callback(None)
        else:
            self._waiting.append((attempts, waiting))
        return waiting

    def startService(self) -> None:
        super().startService()
        self._loop = Deferred.fromCoroutine(self._run())

    def stopService(self) -> Deferred[None]:
        """Wind down and disconnect; the Deferred fires when nothing is left running."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.wind_down()
        loop, self._loop = self._loop, None
        if self.connection is not None:
            self.connection.close()
        elif loop is not None:
            loop.cancel()
        if loop is not None:
            await loop
        for _, waiting in self._take_waiting():
            waiting.errback(TransportError("the service was stopped"))

    async def _run(self) -> None:
        try:
            while self.running:
                await self._connect_once()
                if self.running:
                    await deferLater(self._reactor, retry_delay_seconds(self._failures))
        except CancelledError:
            pass  # stopped while connecting or pausing

    async def _connect_once(self) -> None:
        """Connect and stay until the connection ends; a failure is counted and told."""
        try:
            connection = await self._welcomed_connection()
        except CancelledError:
            raise
        except Exception as error:
            # Whatever the endpoint raises: there is no connection, and the next try may find one.
            self._failed(error)
            return
        self._failures = 0
        self.connection = connection
        self.connected(connection)
        for _, waiting in self._take_waiting():
            waiting.callback(None)
        why = await connection.ended
        self.connection = None
        if self.running:
            self.log.warn("{name}: the connection to the broker ended: {why}", name=self.name, why=_text(why))
        self.disconnected()

    async def _welcomed_connection(self) -> BrokerConnection:
        factory = _ConnectionFactory(self, self._flushes, self._reactor)
        connection = cast(BrokerConnection, await self._endpoint.connect(factory))

        def too_late(_result: object, _seconds: float) -> None:
            raise TransportError(f"the broker did not answer hello within {_HELLO_SECONDS:g} s")

        try:
            await connection.welcomed.addTimeout(_HELLO_SECONDS, self._reactor, onTimeoutCancel=too_late)
        except BaseException:
            connection.transport.abortConnection()  # type: ignore[union-attr]
            raise
        return connection

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        text = _text(error)
        if self._failures == 1:
            self.log.warn("{name}: no broker: {why}; trying on", name=self.name, why=text)
        waiting, self._waiting = self._waiting, []
        for attempts, deferred in waiting:
            if attempts is not None and self._failures >= attempts:
                deferred.errback(TransportError(text))
            else:
                self._waiting.append((attempts, deferred))

    def _take_waiting(self) -> list[tuple[int | None, Deferred[None]]]:
        waiting, self._waiting = self._waiting, []
        return [(attempts, deferred) for attempts, deferred in waiting if not deferred.called]


def _text(error: BaseException | None) -> str:
    return str(error).rstrip(".") or type(error).__name__


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, link: BrokerLink, flushes: FlushTurn, clock: IReactorTime) -> None:
        self._parts = (link, flushes, clock)

    def buildProtocol(self, addr: object) -> BrokerConnection:
        return BrokerConnection(*self._parts)
