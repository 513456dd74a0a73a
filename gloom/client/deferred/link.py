"""
A connection to a broker that comes back by itself: the Service that masters and slaves are built on.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar, TypeVar, Unpack, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.reflect import safe_str

from gloom.client.arguments import checked_number
from gloom.client.deferred.address import client_endpoint
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.looking import bounded
from gloom.client.options import ClientKeywords, ClientOptions
from gloom.client.session import Event, Greeting
from gloom.errors import ProtocolError, TransportError
from gloom.logs import PeerLogger
from gloom.transport.clock import monotonic
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.messages import PROTOCOL_VERSION

_HELLO_SECONDS = 10.0

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 15.0
_DELAY_FACTOR = 1.7
# A connection that worked for so long counts as healthy: the error of the one before it has not come again.
_LONG_SECONDS = 60.0

Result = TypeVar("Result")


def retry_delay_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row: growing, and jittered so that a farm spreads out."""
    # The exponent is bounded: a float overflows after some days of failing.
    longest = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * _DELAY_FACTOR ** min(failures, 64))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)


class BrokerLink(Service, ABC):
    """
    Keeps one connection to a broker while the service runs.

    It may be stopped and started again; started while it still stops, it
    starts anew once it has stopped.

    Args:
        endpoint: Where the broker is: an `IStreamClientEndpoint`, or a string
            that `gloom.client.deferred.address.client_endpoint` understands.
        reactor: Clock, and what a string connects with.
        options: See `ClientOptions`.

    Attributes:
        connection: The connection that is up and welcomed, or None.
        peer_name: How the broker names this peer. Not `name`: that is the
            service's own, and two services of one parent may not share it.

    Raises:
        ValueError: An argument is out of its range.
    """

    log = PeerLogger()
    #: The kinds of message that it asks for in ``hello``.
    accepts: ClassVar[tuple[str, ...]] = ("quiet",)

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any,
        **options: Unpack[ClientKeywords],
    ) -> None:
        checked = ClientOptions(**options)
        self.peer_name = checked.peer_name
        self.connection: BrokerConnection | None = None
        if isinstance(endpoint, str):
            self._endpoint = client_endpoint(reactor, endpoint, checked.tls)
        elif not IStreamClientEndpoint.providedBy(endpoint):
            raise TypeError(f"endpoint must be a string or an IStreamClientEndpoint, got {type(endpoint).__name__}")
        elif checked.tls is not None:
            raise ValueError("tls goes with an address in a string; an endpoint brings its own")
        else:
            self._endpoint = endpoint
        self._hello = Greeting(
            PROTOCOL_VERSION, self.peer_name, checked.heartbeat_seconds, [*self.accepts], checked.token
        )
        self._reactor = reactor
        # The clock of all timers here: no step of the wall clock makes them early or late.
        self._clock = monotonic(reactor)
        self._flushes = FlushTurn(self._clock)
        # What reads the connection's socket; None for the reactor.
        self._poll: SocketPoll | None = None
        self._failures = 0
        # How many connections in a row ended with a message that cannot be read.
        self._broken = 0
        self._waiting: dict[Deferred[None], float] = {}
        # Fires when the coroutine that connects has ended; None while there is none.
        self._ended: Deferred[None] | None = None
        # What that coroutine has awaited last, and a stop may cancel.
        self._awaited: Deferred[Any] | None = None
        self._stopped = False
        # Those who wait until a stop is complete; None while nothing stops.
        self._stopping: list[Deferred[None]] | None = None

    # What subclasses say

    @abstractmethod
    def heard(self, connection: BrokerConnection, event: Event) -> None:
        """Take what the broker sent."""

    @abstractmethod
    def connected(self, connection: BrokerConnection) -> None:
        """Begin on a new connection."""

    @abstractmethod
    def disconnected(self) -> None:
        """Learn that the connection has ended."""

    def broken(self, error: ProtocolError) -> None:
        """Learn that the connection has ended with a message that cannot be read; `disconnected` follows."""

    def give_up(self) -> None:
        """Fail what a user waits for: the service stops."""

    @abstractmethod
    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Finish what must be finished before *connection* is closed on purpose."""

    # What users call

    def when_connected(self, attempts: int | None = None) -> Deferred[None]:
        """
        Wait for the connection.

        Args:
            attempts: Give up after so many more failures in a row; None waits for ever.

        Returns:
            Fires when the broker has answered ``hello``; at once if it has.

        Raises:
            TransportError: *attempts* have failed, or the service was stopped.
                Its ``__cause__`` is what the last attempt failed with: a
                `RequestRefused` where the broker does not let this client in.
            ValueError: *attempts* is less than 1. This one, and TypeError, is not through the Deferred.
        """
        if attempts is not None:
            checked_number("attempts", attempts, 1)
        if self._stopped:
            return fail(TransportError("the service was stopped"))
        waiting: Deferred[None] = Deferred(self._wait_no_more)
        if self.connection is not None:
            waiting.callback(None)
        else:
            self._waiting[waiting] = float("inf") if attempts is None else self._failures + attempts
        return waiting

    def startService(self) -> None:
        super().startService()
        self._stopped = False
        if self._ended is None and self._stopping is None:
            self._begin()

    def stopService(self) -> Deferred[None]:
        """Wind down and disconnect; the Deferred fires when nothing is left running."""
        super().stopService()
        self._stopped = True
        stopped: Deferred[None] = Deferred()
        if self._stopping is not None:
            self._stopping.append(stopped)
            self._refuse_all()  # asked since it was started again
        else:
            self._stopping = [stopped]
            Deferred.fromCoroutine(self._stop())
        return stopped

    def told_quiet(self) -> None:
        """Learn that the broker is about to shut down: another may take its place, so there is nothing to do."""
        self.log.info("{name}: the broker is about to shut down", name=self.peer_name)

    def _begin(self) -> None:
        self._failures = 0
        self._ended = Deferred()
        Deferred.fromCoroutine(self._run(self._ended))

    async def _stop(self) -> None:
        # Taken: what is asked of a service that is started meanwhile waits for its next connection.
        connection, self.connection = self.connection, None
        if self._awaited is not None:
            self._awaited.cancel()
        self._refuse_all()
        await self.wind_down(connection)
        if connection is not None:
            connection.close()
        if self._ended is not None:
            await self._ended
            self._ended = None
        self._stop_is_complete()

    def _refuse_all(self) -> None:
        for waiting in self._take_waiting():
            waiting.errback(TransportError("the service was stopped"))
        self.give_up()

    def _stop_is_complete(self) -> None:
        stopping, self._stopping = self._stopping, None
        if self.running:
            self._begin()
        for stopped in stopping or ():
            stopped.callback(None)

    async def _run(self, ended: Deferred[None]) -> None:
        # Not asked of `running`: that is true again when the service is started while it stops.
        try:
            while self._stopping is None:
                await self._connect_once()
                await self._pause()
        finally:
            ended.callback(None)

    async def _pause(self) -> None:
        if self._stopping is None:
            with suppress(CancelledError):
                await self._cancellable(deferLater(self._clock, retry_delay_seconds(self._failures)))

    async def _cancellable(self, deferred: Deferred[Result]) -> Result:
        """Await what a stop cancels; `Deferred.cancel` of a whole coroutine would not do while that runs."""
        self._awaited = deferred
        return await deferred

    async def _connect_once(self) -> None:
        """Connect and stay until the connection ends; a failure is counted and told."""
        try:
            connection = await self._welcomed_connection()
        except Exception as error:
            # Whatever the endpoint raises: there is no connection, and the next try may find one.
            if self._stopping is None:
                self._failed(error)
            return
        self.log.info("{name}: connected", name=self.peer_name)
        self._failures = self._broken
        connected_at = self._clock.seconds()
        self.connection = connection
        self.connected(connection)
        for waiting in self._take_waiting():
            waiting.callback(None)
        why = await connection.ended
        self.connection = None
        if connection.broken is not None:
            if self._clock.seconds() - connected_at > _LONG_SECONDS:
                self._broken = 0
            self._broke(connection.broken)
        else:
            self._broken = 0
            if self._stopping is None:
                self.log.warn("{name}: the connection to the broker ended: {why}", name=self.peer_name, why=_text(why))
        self.disconnected()

    def _broke(self, error: ProtocolError) -> None:
        """The broker sent an unreadable message: connect again, with longer and longer delays, and log it once."""
        self._broken += 1
        self._failures = self._broken
        if self._broken == 1:
            text = "{name}: cannot read a message of the broker: {error}; connecting again, with growing delays"
            self.log.error(text, name=self.peer_name, error=error)
        self.broken(error)

    async def _welcomed_connection(self) -> BrokerConnection:
        factory = _ConnectionFactory(self._hello, self.heard, self._flushes, self._clock, self._poll)
        connection = cast(BrokerConnection, await self._cancellable(self._endpoint.connect(factory)))

        def too_late() -> TransportError:
            return TransportError(f"the broker did not answer hello within {_HELLO_SECONDS:g} s")

        welcomed = bounded(connection.welcomed, _HELLO_SECONDS, self._clock, too_late)
        try:
            await self._cancellable(welcomed)
        except BaseException:
            connection.transport.abortConnection()
            raise
        return connection

    def _wait_no_more(self, waiting: Deferred[None]) -> None:
        # Another's callback may have cancelled it in its own turn.
        self._waiting.pop(waiting, None)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        text = _text(error)
        if self._failures == 1:
            self.log.warn("{name}: no broker: {why}; trying on", name=self.peer_name, why=text)
        for waiting in [one for one, limit in self._waiting.items() if self._failures >= limit]:
            # Not there any more: the failure of another made its owner cancel it.
            if self._waiting.pop(waiting, None) is not None:
                failed = TransportError(text)
                failed.__cause__ = error
                waiting.errback(failed)

    def _take_waiting(self) -> Iterator[Deferred[None]]:
        """Each of those who wait now and, when its turn comes, still does."""
        for waiting in list(self._waiting):
            if self._waiting.pop(waiting, None) is not None:
                yield waiting


def _text(error: BaseException | None) -> str:
    return safe_str(error).rstrip(".") or type(error).__name__


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def buildProtocol(self, addr: object) -> BrokerConnection:
        return BrokerConnection(*self._parts)
