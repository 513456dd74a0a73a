"""
The Service that keeps one connection to a broker: masters and slaves are built on it.

Not on Twisted's ClientService, for the reasons in docs/decisions/0030-an-own-reconnecting-service.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import ClassVar, Unpack, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTCP, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from gloom.client.arguments import checked_number
from gloom.client.backoff import Backoff
from gloom.client.deferred.address import client_endpoint
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.timeouts import bounded
from gloom.client.deferred.waiters import Waiters
from gloom.client.options import ClientKeywords, ClientOptions
from gloom.client.session import Event, Greeting
from gloom.errors import ProtocolError, TransportError
from gloom.logs import PeerLogger
from gloom.transport.clock import monotonic
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.messages import PROTOCOL_VERSION

_HELLO_SECONDS = 10.0


class State(Enum):
    """
    The states of a `BrokerLink`.

    Attributes:
        NEW: Never started; callers may wait for a connection already.
        CONNECTING: An attempt is under way: the endpoint connects, then the broker answers ``hello``.
        CONNECTED: The connection may be used.
        PAUSING: The delay between two attempts.
        STOPPING: `wind_down` is under way, or an attempt or the connection has still to end.
        RESTARTING: As STOPPING, but the service was started again, and connects afterwards.
        STOPPED: Nothing is under way.
    """

    NEW = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    PAUSING = auto()
    STOPPING = auto()
    RESTARTING = auto()
    STOPPED = auto()


class Input(Enum):
    """
    The inputs of a `BrokerLink`.

    Attributes:
        START: The service is started.
        STOP: The service is stopped.
        WELCOMED: The broker has answered ``hello``.
        FAILED: An attempt has failed.
        LOST: The connection has ended.
        PAUSE_OVER: The delay between two attempts is over.
        WOUND_DOWN: A stop has nothing left to wait for.
    """

    START = auto()
    STOP = auto()
    WELCOMED = auto()
    FAILED = auto()
    LOST = auto()
    PAUSE_OVER = auto()
    WOUND_DOWN = auto()


#: The state after each input; an input that a state does not list cannot come in it.
TRANSITIONS: dict[State, dict[Input, State]] = {
    State.NEW: {Input.START: State.CONNECTING, Input.STOP: State.STOPPING},
    State.CONNECTING: {
        Input.START: State.CONNECTING,
        Input.STOP: State.STOPPING,
        Input.WELCOMED: State.CONNECTED,
        Input.FAILED: State.PAUSING,
    },
    State.CONNECTED: {Input.START: State.CONNECTED, Input.STOP: State.STOPPING, Input.LOST: State.PAUSING},
    State.PAUSING: {
        Input.START: State.PAUSING,
        Input.STOP: State.STOPPING,
        Input.PAUSE_OVER: State.CONNECTING,
    },
    State.STOPPING: {
        Input.START: State.RESTARTING,
        Input.STOP: State.STOPPING,
        Input.WELCOMED: State.STOPPING,  # the cancel came too late
        Input.FAILED: State.STOPPING,
        Input.LOST: State.STOPPING,
        Input.WOUND_DOWN: State.STOPPED,
    },
    State.RESTARTING: {
        Input.START: State.RESTARTING,
        Input.STOP: State.STOPPING,
        Input.WELCOMED: State.RESTARTING,
        Input.FAILED: State.RESTARTING,
        Input.LOST: State.RESTARTING,
        Input.WOUND_DOWN: State.CONNECTING,
    },
    State.STOPPED: {Input.START: State.CONNECTING, Input.STOP: State.STOPPING},
}

#: The states of a service that was stopped and not started again. A tuple, because a set
#: calls the hash method of Enum, which is slow, and each submitted job asks.
STOPPED = (State.STOPPING, State.STOPPED)


class BrokerLink(Service, ABC):
    """
    Keeps one connection to a broker while the service runs.

    It may be stopped and started again, also while it still stops: then it
    connects when the stop is complete.

    Args:
        endpoint: The broker's port: an `IStreamClientEndpoint`, or a string
            for `gloom.client.deferred.address.client_endpoint`.
        reactor: The clock; with a string as *endpoint*, it connects too.
        options: See `ClientOptions`.

    Attributes:
        connection: The connection that the broker has welcomed, or None.
        peer_name: The client's name at the broker. Not `name`: that is the
            Service's own, and two services of one parent may not share it.

    Raises:
        ValueError: An argument is out of its range.
    """

    log = PeerLogger()
    #: The kinds of message that ``hello`` asks for.
    accepts: ClassVar[tuple[str, ...]] = ("quiet",)

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: IReactorTime,
        **options: Unpack[ClientKeywords],
    ) -> None:
        checked = ClientOptions(**options)
        self.peer_name = checked.peer_name
        self.connection: BrokerConnection | None = None
        self._endpoint = _checked_endpoint(endpoint, reactor, checked)
        self._hello = Greeting(
            PROTOCOL_VERSION, self.peer_name, checked.heartbeat_seconds, [*self.accepts], checked.token
        )
        self._reactor = reactor
        # The clock of all timers: no step of the wall clock makes them early or late.
        self._clock = monotonic(reactor)
        self._flushes = FlushTurn(self._clock)
        # Reads the connection's socket; None where the reactor does.
        self._poll: SocketPoll | None = None
        self._backoff = Backoff()
        self._waiters = Waiters()
        self._state = State.NEW
        # The last attempt, which a stop cancels.
        self._attempt: Deferred[None] | None = None
        # Fires when the attempt that is under way, or its connection, has ended; None in every other state.
        self._ended: Deferred[None] | None = None
        # The delay of PAUSING.
        self._pause: IDelayedCall | None = None
        # The results of `stopService`, in STOPPING and RESTARTING.
        self._stops: list[Deferred[None]] = []

    # For subclasses to implement

    @abstractmethod
    def heard(self, connection: BrokerConnection, event: Event) -> None:
        """Take an *event* from the broker."""

    @abstractmethod
    def connected(self, connection: BrokerConnection) -> None:
        """Begin on a new connection."""

    @abstractmethod
    def disconnected(self) -> None:
        """Learn that the connection has ended."""

    def broken(self, error: ProtocolError) -> None:
        """Learn that the connection has ended with an unreadable message; `disconnected` follows."""

    def give_up(self) -> None:
        """Fail everything that a caller waits for: the service stops."""

    @abstractmethod
    async def wind_down(self, connection: BrokerConnection | None) -> None:
        """Finish the work of a stop before it closes *connection*."""

    # For users

    def when_connected(self, attempts: int | None = None) -> Deferred[None]:
        """
        Wait for the connection.

        Args:
            attempts: Give up after so many more failures in a row; None waits for ever.

        Returns:
            Fires when the broker has answered ``hello``; at once if it has.

        Raises:
            TransportError: *attempts* have failed, or the service was stopped.
                Its ``__cause__`` is the error of the last attempt: a
                `RequestRefused` where the broker does not admit this client.
            ValueError: *attempts* is less than 1. ValueError and TypeError are raised by the call itself.
        """
        if attempts is not None:
            checked_number("attempts", attempts, 1)
        if self._state in STOPPED:
            return fail(TransportError("the service was stopped"))
        if self.connection is not None:
            return succeed(None)
        return self._waiters.add(float("inf") if attempts is None else self._backoff.failures + attempts)

    def startService(self) -> None:
        super().startService()
        before = self._state
        if self._move(Input.START) is State.CONNECTING and before is not State.CONNECTING:
            self._begin()

    def stopService(self) -> Deferred[None]:
        """Wind down and disconnect; the Deferred fires when nothing is left running."""
        super().stopService()
        stopped: Deferred[None] = Deferred()
        self._stops.append(stopped)
        before = self._state
        self._move(Input.STOP)
        if before is State.STOPPING or before is State.RESTARTING:
            self._refuse_all()  # the requests since it was started again
        else:
            Deferred.fromCoroutine(self._stop())
        return stopped

    def told_quiet(self) -> None:
        """Learn that the broker is about to shut down; the client connects again after it has."""
        self.log.info("{name}: the broker is about to shut down", name=self.peer_name)

    # Transitions

    def _move(self, input: Input) -> State:
        self._state = TRANSITIONS[self._state][input]
        return self._state

    def _begin(self) -> None:
        self._backoff.restart()
        self._connect()

    def _connect(self) -> None:
        self._ended = Deferred()
        attempt = self._attempt = Deferred.fromCoroutine(self._new_connection()).addCallbacks(
            self._welcomed, self._attempt_failed
        )
        if self._state is not State.CONNECTING:
            attempt.cancel()  # the endpoint's own code has stopped the service

    async def _new_connection(self) -> BrokerConnection:
        """Return a connection on which the broker has answered ``hello``."""
        factory = _ConnectionFactory(self._new_protocol)
        connection = cast(BrokerConnection, await self._endpoint.connect(factory))

        def too_late() -> TransportError:
            return TransportError(f"the broker did not answer hello within {_HELLO_SECONDS:g} s")

        try:
            await bounded(connection.welcomed, _HELLO_SECONDS, self._clock, too_late)
        except BaseException:
            connection.transport.abortConnection()
            raise
        return connection

    def _new_protocol(self) -> BrokerConnection:
        return BrokerConnection(self._hello, self.heard, self._flushes, self._clock, self._poll)

    def _attempt_failed(self, failure: Failure) -> None:
        # An endpoint may raise anything: there is no connection, and the next attempt may find one.
        if self._move(Input.FAILED) is State.PAUSING:
            text = _text(failure.value)
            if self._backoff.attempt_failed():
                self.log.warn("{name}: no broker: {why}; retrying", name=self.peer_name, why=text)
            self._waiters.attempt_failed(self._backoff.failures, text, failure.value)
        self._attempt_ended()

    def _welcomed(self, connection: BrokerConnection) -> None:
        state = self._move(Input.WELCOMED)
        connection.ended.addCallback(self._lost, connection)
        if state is not State.CONNECTED:
            connection.transport.abortConnection()
            return
        self.log.info("{name}: connected", name=self.peer_name)
        self._backoff.connected(self._clock.seconds())
        self.connection = connection
        self.connected(connection)
        self._waiters.connected()

    def _lost(self, why: BaseException | None, connection: BrokerConnection) -> None:
        self.connection = None
        state = self._move(Input.LOST)
        if connection.broken is not None:
            self._count_unreadable(connection.broken)
        else:
            self._backoff.disconnected()
            if state is State.PAUSING:
                self.log.warn("{name}: the connection to the broker ended: {why}", name=self.peer_name, why=_text(why))
        self.disconnected()
        self._attempt_ended()

    def _count_unreadable(self, error: ProtocolError) -> None:
        if self._backoff.message_was_unreadable(self._clock.seconds()):
            text = "{name}: cannot read a message of the broker: {error}; connecting again, with growing delays"
            self.log.error(text, name=self.peer_name, error=error)
        self.broken(error)

    def _attempt_ended(self) -> None:
        """Pause before the next attempt, or let a stop go on."""
        ended, self._ended = self._ended, None
        if self._state is State.PAUSING:
            self._pause = self._clock.callLater(self._backoff.delay_seconds(), self._pause_over)
        elif ended is not None:
            ended.callback(None)

    def _pause_over(self) -> None:
        self._pause = None
        self._move(Input.PAUSE_OVER)
        self._connect()

    # Stopping

    async def _stop(self) -> None:
        # Taken, so that requests of a service that was started again wait for its next connection.
        connection, self.connection = self.connection, None
        if self._attempt is not None:
            self._attempt.cancel()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._refuse_all()
        await self.wind_down(connection)
        if connection is not None:
            connection.close()
        if self._ended is not None:
            await self._ended
        self._stop_is_complete()

    def _refuse_all(self) -> None:
        self._waiters.refuse("the service was stopped")
        self.give_up()

    def _stop_is_complete(self) -> None:
        stops, self._stops = self._stops, []
        if self._move(Input.WOUND_DOWN) is State.CONNECTING:
            self._begin()
        for stopped in stops:
            stopped.callback(None)


def _checked_endpoint(
    endpoint: IStreamClientEndpoint | str, reactor: IReactorTime, options: ClientOptions
) -> IStreamClientEndpoint:
    if isinstance(endpoint, str):
        return client_endpoint(cast(IReactorTCP, reactor), endpoint, options.tls)
    if not IStreamClientEndpoint.providedBy(endpoint):
        raise TypeError(f"endpoint must be a string or an IStreamClientEndpoint, got {type(endpoint).__name__}")
    if options.tls is not None:
        raise ValueError("tls goes with an address in a string; an endpoint brings its own")
    return endpoint


def _text(error: BaseException | None) -> str:
    return safe_str(error).rstrip(".") or type(error).__name__


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], BrokerConnection]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> BrokerConnection:
        return self._build()
