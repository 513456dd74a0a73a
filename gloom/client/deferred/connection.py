"""
A client's end of one connection: ``hello``, the heartbeat, requests out and events in.

`gloom.client.deferred.link.BrokerLink` and its subclasses send the other requests
and take the events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.python.failure import Failure

from gloom.client.deferred.timeouts import LOOK_SECONDS
from gloom.client.session import Event, Reply, Session
from gloom.errors import GloomError, ProtocolError, TransportError
from gloom.logs import PeerLogger
from gloom.settings import GIB, KIB
from gloom.transport.framing import FrameProtocol
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.messages import Hello, Ping, Request, encode_request

# A broker's answers are its slaves' answers: the limit is the protocol's own.
_MAX_ANSWER_BYTES = 2 * GIB
# Until the reply to hello has come: the first bytes of another kind of server, read as
# the length of a frame, are a gigabyte or so.
_MAX_WELCOME_BYTES = 64 * KIB
# The largest frame without its body: keys, braces, and an id and a type of 255 escaped characters each.
_ENVELOPE_BYTES = 4096
# Pings in one agreed heartbeat.
_PINGS_A_HEARTBEAT = 3
# With so many pings unanswered, the next one ends the connection: after twice the heartbeat at most.
_MOST_SILENT_PINGS = 2 * _PINGS_A_HEARTBEAT - 1


# OpenSSL's text for bytes that are no TLS.
_NOT_TLS = "TLS: wrong version number"


class TLSFailed(TransportError):
    """The two sides of a connection do not agree on TLS; another attempt would fail too."""


class TLSMismatch(TLSFailed):
    """
    One side of a connection speaks TLS, and the other probably does not.

    Attributes:
        client_speaks_tls: Whether the client is the side that speaks TLS.
    """

    def __init__(self, text: str, client_speaks_tls: bool) -> None:
        super().__init__(text)
        self.client_speaks_tls = client_speaks_tls


class BrokerConnection(FrameProtocol):
    """
    A client's end of one connection.

    Args:
        hello: The first request.
        heard: Called with each event, except for the reply to *hello*.
        flushes: Scheduler of this connection's flushes.
        clock: For the heartbeat.
        poll: Reads the socket; None if the reactor does.

    Attributes:
        max_frame_bytes: The broker's limit for one frame, known once `welcomed` has fired.
        welcomed: Fires when the broker has answered ``hello``.
        ended: Fires with the reason, an exception, when the connection has ended.
        broken: The error in a message of the broker that made the client drop the connection; or None.
    """

    log = PeerLogger()

    def __init__(
        self,
        hello: Hello,
        heard: Callable[[BrokerConnection, Event], None],
        flushes: FlushTurn,
        clock: IReactorTime,
        poll: SocketPoll | None = None,
    ) -> None:
        super().__init__(_MAX_WELCOME_BYTES, flushes, clock, poll=poll)
        self.counts_life = True
        self.max_frame_bytes = _MAX_ANSWER_BYTES
        self.welcomed: Deferred[None] = Deferred()
        self.ended: Deferred[BaseException | None] = Deferred()
        self.broken: ProtocolError | None = None
        self._hello = hello
        self._heard = heard
        self._session = Session()
        self._ping: IDelayedCall | None = None
        self._silent_pings = 0

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is being closed, so that no request can be sent."""
        return self._closed

    def ask(self, request: Request) -> None:
        """Send *request*; its reply comes as an event."""
        self.sendString(self._session.ask(request))

    def oversize(self, request: Request, body: Raw) -> str | None:
        """Return the reason why *request*, with its *body*, is too large for the broker; None if it is not."""
        limit = self.max_frame_bytes
        if len(memoryview(body)) + _ENVELOPE_BYTES <= limit:
            return None
        size = len(encode_request(request))
        return f"a frame of {size} bytes, the broker takes {limit}" if size > limit else None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.ask(self._hello)

    def alive(self) -> None:
        self._silent_pings = 0

    def dataReceived(self, data: bytes) -> None:
        if self._poll is not None:
            super().dataReceived(data)  # the poll flushes at the end of its round
            return
        # Flush at once, without a timer of the reactor.
        with self._flushes:
            super().dataReceived(data)

    def stringReceived(self, string: bytes) -> None:
        try:
            event = self._session.receive(string)
        except ProtocolError as error:
            self._give_up(error)
            return
        if type(event) is Reply and event.request is self._hello:
            self._welcome(event)
        elif event is not None:
            self._heard(self, event)

    def lengthLimitExceeded(self, length: int) -> None:
        self._give_up(ProtocolError(f"a frame of {length} bytes came, {self.MAX_LENGTH} are allowed: is it a broker?"))

    def _give_up(self, error: GloomError) -> None:
        self._stop_reading()
        if not self.welcomed.called:
            self.welcomed.errback(error)
        elif isinstance(error, ProtocolError):
            self.broken = error  # the Service that reconnects logs it, once
        else:
            self.log.error("the connection to the broker is dropped: {error}", error=error)
        self.transport.abortConnection()

    def _welcome(self, reply: Reply) -> None:
        if reply.error is not None:
            self.welcomed.errback(reply.error)
            return
        self.MAX_LENGTH = _MAX_ANSWER_BYTES
        self.max_frame_bytes = reply.message.max_frame or _MAX_ANSWER_BYTES
        self._keep_heartbeat(reply.message.heartbeat)
        self.welcomed.callback(None)

    def _keep_heartbeat(self, heartbeat_seconds: float) -> None:
        if heartbeat_seconds > 0:
            interval = heartbeat_seconds / _PINGS_A_HEARTBEAT
            self._ping = self._clock.callLater(interval, self._send_ping, heartbeat_seconds)

    def _send_ping(self, heartbeat_seconds: float) -> None:
        self._ping = None
        if self._silent_pings >= _MOST_SILENT_PINGS:
            # Perhaps it was this process that paused, and the answers are in the kernel.
            self._ping = self._clock.callLater(LOOK_SECONDS, self._drop_if_silent, heartbeat_seconds)
            return
        self._silent_pings += 1
        self.ask(Ping())
        self._keep_heartbeat(heartbeat_seconds)

    def _drop_if_silent(self, heartbeat_seconds: float) -> None:
        if self._silent_pings < _MOST_SILENT_PINGS:
            self._send_ping(heartbeat_seconds)
            return
        self._ping = None
        self._give_up(TransportError(f"it was silent for {2 * heartbeat_seconds:g} s"))

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        if self.socket_error is not None and reason.check(ConnectionDone):
            reason = Failure(ConnectionLost())  # a reset that this class met before the transport did
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None
        if not self.welcomed.called:
            self.welcomed.errback(_unwelcomed(reason, ISSLTransport.providedBy(self.transport)))
        self.ended.callback(reason.value)


def _unwelcomed(reason: Failure, speaks_tls: bool) -> TransportError:
    """Return the error of a connection that ended before the answer to ``hello``."""
    text = f"the connection ended before the broker said hello: {_text(reason)}"
    if _NOT_TLS in text:
        return TLSMismatch(f"{text}; the broker does not speak TLS here, and this client does", True)
    if "TLS: " in text:
        return TLSFailed(text)
    # A broker that expects TLS closes a plain connection. A broker that dies resets it.
    if reason.check(ConnectionDone) and not speaks_tls:
        return TLSMismatch(f"{text}; perhaps the broker speaks TLS, and this client does not", False)
    return TransportError(text)


def _text(reason: Failure) -> str:
    """Return the text of *reason*; errors of OpenSSL have none that a person understands."""
    error: Any = reason.value
    told = error.args[0] if error.args else None
    if isinstance(told, list) and told and isinstance(told[-1], tuple):
        return f"TLS: {told[-1][-1]}"  # OpenSSL's
    if type(error).__name__ == "VerificationError":
        return "TLS: its certificate is for another name"
    return str(error)
