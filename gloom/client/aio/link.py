"""
A connection to a broker that comes back by itself: the part that masters and slaves on asyncio share.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from enum import Enum
from types import TracebackType
from typing import ClassVar, Self, Unpack

from gloom.client.aio.address import Place, places_of
from gloom.client.aio.connecting import Connector
from gloom.client.aio.connection import BrokerConnection, end_text
from gloom.client.aio.logs import PeerLogger
from gloom.client.arguments import checked_number
from gloom.client.backoff import retry_delay_seconds
from gloom.client.options import ClientKeywords, ClientOptions
from gloom.client.session import Event, Greeting
from gloom.errors import ProtocolError, TransportError
from gloom.wire.messages import PROTOCOL_VERSION

# A connection that worked for so long counts as healthy: the error of the one before it has not come again.
_LONG_SECONDS = 60.0
# A broker that ends a connection earlier is not left for another one without a pause, again and again.
_SHORT_SECONDS = 1.0


class State(Enum):
    """The life of a client."""

    NEW = "not started"
    RUNNING = "connects, and stays connected"
    STOPPING = "winds down"
    STOPPED = "stopped; it may be started again"


class BrokerLink(ABC):
    """
    Keeps one connection to a broker, from `start` to `stop`, or in ``async with``.

    It belongs to the event loop in which it is started. Once stopped, it may be
    started again, also in another loop.

    Args:
        address: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH``; or several with commas:
            where one does not answer, the next is tried at once.
        options: ``name``, ``heartbeat_seconds``, ``token`` and ``tls``; see `ClientOptions`.

    Attributes:
        connection: The connection that is up and welcomed, or None.
        peer_name: How the broker names this client.
        state: Whether it runs.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is of another kind, or unknown.
    """

    #: The kinds of message that it asks for in ``hello``.
    accepts: ClassVar[tuple[str, ...]] = ("quiet",)

    def __init__(self, address: str, **options: Unpack[ClientKeywords]) -> None:
        checked = ClientOptions(**options)
        self._places = places_of(address)
        self._connector = Connector(self._places, checked.tls)
        self.peer_name = checked.peer_name
        self.log = PeerLogger(self.peer_name)
        self.connection: BrokerConnection | None = None
        self.state = State.NEW
        self._hello = Greeting(
            PROTOCOL_VERSION, self.peer_name, checked.heartbeat_seconds, [*self.accepts], checked.token
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        # The place that is tried next, and how many have been tried since the last pause.
        self._next = self._tried = 0
        self._failures = 0
        # How many connections in a row ended with an unreadable message.
        self._broken = 0
        # Each waits for a connection, until there have been so many failures.
        self._waiting: dict[asyncio.Future[None], float] = {}

    # For subclasses

    @abstractmethod
    def heard(self, connection: BrokerConnection, event: Event) -> None:
        """Take an event of the broker."""

    @abstractmethod
    def connected(self, connection: BrokerConnection) -> None:
        """Begin on a new connection."""

    @abstractmethod
    def disconnected(self) -> None:
        """Learn that the connection has ended."""

    @abstractmethod
    def writable(self, connection: BrokerConnection) -> None:
        """Learn that the connection takes more bytes again."""

    @abstractmethod
    def broken(self, error: ProtocolError) -> None:
        """Learn that the connection has ended with an unreadable message; `disconnected` follows."""

    @abstractmethod
    def give_up(self) -> None:
        """Fail all that callers wait for: the client stops."""

    @abstractmethod
    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Finish what must be finished before *connection* is closed on purpose."""

    # For users

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """
        Connect, and connect again whenever the connection ends; does not wait for it.

        A second start of a client that runs does nothing.

        Raises:
            RuntimeError: No event loop runs; or the client is stopping, or runs in another loop.
        """
        loop = asyncio.get_running_loop()
        if self.state is State.RUNNING and self._loop is loop:
            return
        if self.state in (State.RUNNING, State.STOPPING):
            raise RuntimeError(f"{self.peer_name}: cannot be started now: {self.state.value}")
        self.state = State.RUNNING
        self._loop = loop
        self._stopped = asyncio.Event()
        self._failures = self._tried = 0
        self._runner = loop.create_task(self._run(), name=f"gloom client {self.peer_name}")
        self._runner.add_done_callback(self._runner_ended)

    async def stop(self) -> None:
        """
        Wind down and disconnect; nothing is left running then.

        If this call is cancelled, the connection ends at once.
        """
        if self.state is State.STOPPING:
            await self._stopped.wait()
        elif self.state is State.RUNNING:
            await self._stop()
        else:
            self.state = State.STOPPED

    async def when_connected(self, attempts: int | None = None) -> None:
        """
        Wait for the connection: until the broker has answered ``hello``.

        Args:
            attempts: Give up after so many more failures in a row, each of them of
                all addresses; None waits for ever.

        Raises:
            TransportError: *attempts* have failed, or the client was stopped.
                Its ``__cause__`` is the error of the last attempt: a
                `RequestRefused` where the broker does not let this client in.
            RuntimeError: The client was not started, or runs in another event loop.
            ValueError: *attempts* is less than 1.
        """
        if attempts is not None:
            checked_number("attempts", attempts, 1)
        loop = self.check_running()
        if self.connection is not None:
            return
        waiting = loop.create_future()
        self._waiting[waiting] = float("inf") if attempts is None else self._failures + attempts
        try:
            await waiting
        finally:
            self._waiting.pop(waiting, None)

    def check_running(self) -> asyncio.AbstractEventLoop:
        """
        Return the event loop, in which the client is used.

        Raises:
            TransportError: The client was stopped.
            RuntimeError: It was not started, or runs in another loop.
        """
        loop = asyncio.get_running_loop()
        if self.state is State.RUNNING and loop is self._loop:
            return loop
        kind = type(self).__name__.lower()
        if self.state in (State.STOPPING, State.STOPPED):
            raise TransportError(f"this {kind} was stopped")
        if self.state is State.NEW:
            raise RuntimeError(f"this {kind} was not started: use `async with`, or call start()")
        raise RuntimeError(f"this {kind} runs in another event loop")

    # Stopping

    async def _stop(self) -> None:
        self.state = State.STOPPING
        connection, self.connection = self.connection, None
        try:
            self._refuse_all()
            await self.wind_down(connection)
            if connection is not None:
                await connection.close()
        finally:
            await self._end_runner(connection)
            self.state = State.STOPPED
            self._stopped.set()

    async def _end_runner(self, connection: BrokerConnection | None) -> None:
        if connection is not None:
            connection.abort()
        if self._runner is not None:
            self._runner.cancel()
            # Not `await self._runner`: its cancellation is not this task's.
            await asyncio.wait([self._runner])
            self._runner = None

    def _refuse_all(self, why: str = "") -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(TransportError(why or f"this {type(self).__name__.lower()} was stopped"))
        self.give_up()

    def _runner_ended(self, runner: asyncio.Task[None]) -> None:
        if not runner.cancelled() and (error := runner.exception()) is not None:
            # A bug, of gloom or of a subclass: nobody may wait for ever because of it.
            self.log.exception("it connects no more, because of an error", error=error)
            self._refuse_all("the client ended because of an error; its log has the traceback")

    # Connecting

    async def _run(self) -> None:
        while self.state is State.RUNNING:
            place = self._places[self._next]
            self._tried += 1
            try:
                connection = await self._welcomed_connection(place)
            except Exception as error:
                # Whatever it is: there is no connection, and the next try may find one.
                self._failed(error)
            else:
                await self._serve(connection, place)
            self._next = (self._next + 1) % len(self._places)
            if self._tried >= len(self._places):
                self._tried = 0
                await self._pause()

    async def _pause(self) -> None:
        if self.state is State.RUNNING:
            await asyncio.sleep(retry_delay_seconds(self._failures))

    async def _welcomed_connection(self, place: Place) -> BrokerConnection:
        def factory() -> BrokerConnection:
            return BrokerConnection(self._hello, self, self.log, self._connector.speaks_tls)

        connection = await self._connector.connect(place, factory)
        try:
            await connection.welcomed
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _serve(self, connection: BrokerConnection, place: Place) -> None:
        """Stay until *connection* ends."""
        self.log.info("connected to %s", place.text)
        self._failures = self._broken
        began = asyncio.get_running_loop().time()
        self.connection = connection
        try:
            self.connected(connection)
            self._wake_waiting()
            why = await connection.ended
            self._tell_end(connection, why, asyncio.get_running_loop().time() - began)
        finally:
            connection.abort()
            self.connection = None
            self.disconnected()

    def _tell_end(self, connection: BrokerConnection, why: BaseException | None, lasted_seconds: float) -> None:
        if lasted_seconds > _SHORT_SECONDS:
            self._tried = min(self._tried, 1)
        if connection.broken is not None:
            if lasted_seconds > _LONG_SECONDS:
                self._broken = 0
            self._broke(connection.broken)
        else:
            self._broken = 0
            if self.state is State.RUNNING:
                self.log.warning("the connection to the broker ended: %s", end_text(why))

    def _broke(self, error: ProtocolError) -> None:
        """The broker sent an unreadable message: connect again, with longer and longer delays, and log it once."""
        self._broken += 1
        self._failures = self._broken
        if self._broken == 1:
            self.log.error("cannot read a message of the broker: %s; connecting again, with growing delays", error)
        self.broken(error)

    def _failed(self, error: Exception) -> None:
        if self._tried < len(self._places):
            return  # the next is tried at once
        self._failures += 1
        text = str(error).rstrip(".") or type(error).__name__
        if self._failures == 1:
            self.log.warning("no broker: %s; retrying", text)
        for waiting, limit in self._waiting.items():
            if self._failures >= limit and not waiting.done():
                failed = TransportError(text)
                failed.__cause__ = error
                waiting.set_exception(failed)

    def _wake_waiting(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
