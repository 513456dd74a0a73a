"""
A frame becomes a verb of the broker; what the broker says becomes frames.

Implements docs/protocol.md, sections 1 to 4, between `gloom.messages` and
`gloom.interfaces.IBroker`. No job logic here, and no Deferred: everything is
synchronous. The one place where an exception becomes an error frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

import gloom
from gloom.broker import Failure, JobKey
from gloom.errors import InternalError, InvalidState, MissingField, ProtocolError, SizeError, UnsupportedVersion
from gloom.framing import FlushTurn, FrameProtocol, to_frame
from gloom.interfaces import IBroker, IMasterPeer, ISlavePeer
from gloom.messages import (
    MASTER,
    OK,
    PROTOCOL_VERSION,
    SLAVE,
    ExtendedRespond,
    ExtendedSubmit,
    Fail,
    Hello,
    Join,
    Leave,
    Ping,
    Respond,
    Submit,
    Vocabulary,
    encode_answer,
    encode_error,
    encode_extended_failure,
    encode_failure,
    encode_job,
    encode_welcome,
    quote,
)
from gloom.settings import Settings

_OK_FRAME = to_frame(OK)
SERVER = f"gloom/{gloom.__version__}"


def address_name(address: Any) -> str:
    """Return the address of a connection as a person writes it."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return "unix socket"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class PeerProtocol(FrameProtocol):
    """
    What both ports share: errors, ``hello``, ``ping``, heartbeats.

    Args:
        factory: Gives the broker, the settings, the clock and the flush.
    """

    log = Logger()
    base: ClassVar[Vocabulary]
    extended: ClassVar[Vocabulary]
    features: ClassVar[tuple[str, ...]]
    #: The method that answers each request.
    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]]

    def __init__(self, factory: PeerFactory[Any]) -> None:
        settings = factory.settings
        super().__init__(settings.max_frame_bytes, factory.flushes, factory.clock, settings.linger_seconds)
        self.factory: PeerFactory[Any] = factory
        self.name = "?"
        self.is_extended = False
        self._broker: Any = factory.broker
        self._settings = settings
        self._seconds = factory.clock.seconds
        self._decode = self.base.decode
        self._heard = False
        self._heartbeat_seconds = 0.0
        self._heartbeat: IDelayedCall | None = None
        self._is_gone = False

    # What the transport tells

    def connectionMade(self) -> None:
        super().connectionMade()
        self.name = address_name(self.transport.getPeer())  # type: ignore[union-attr]
        self.factory.peers.add(self)

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        super().dataReceived(data)

    def stringReceived(self, string: bytes) -> None:
        try:
            request = self._decode(string)
            self.verbs[type(request)](self, request)
        except ProtocolError as error:
            self.refuse(error)
        except Exception:
            self.log.failure("{peer}: a bug in gloom; the connection is closed", peer=self.name)
            self.refuse(InternalError("a bug in the broker; its log has the traceback"))

    def lengthLimitExceeded(self, length: int) -> None:
        self.refuse(SizeError(f"a frame of {length} bytes is over the limit of {self.MAX_LENGTH}"))

    def connectionLost(self, reason: TwistedFailure = TwistedFailure(Exception())) -> None:  # noqa: B008
        super().connectionLost(reason)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        self._go()
        self.factory.peer_lost(self)

    def close(self) -> None:
        """See `FrameProtocol.close`; the broker gives no more to a peer that is told to go."""
        super().close()
        self._go()

    def _go(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self.gone()

    def gone(self) -> None:
        """Tell the broker that this peer has gone."""
        raise NotImplementedError

    # What is said to the peer

    def accepted(self) -> None:
        """See `IPeer.accepted`."""
        self.send_frame(_OK_FRAME)

    def refuse(self, error: ProtocolError) -> None:
        """Answer the request with *error*, and close if it is one that closes."""
        if self._settings.verbose:
            self.log.debug("{peer}: {code}: {reason}", peer=self.name, code=error.code, reason=error.reason)
        self.sendString(encode_error(error))
        if error.closes:
            self.close()

    # Verbs of both ports

    def hello(self, request: Hello) -> None:
        """Begin the extended level (section 4)."""
        if self.is_extended:
            raise InvalidState("hello was said already on this connection")
        if request.version != PROTOCOL_VERSION:
            raise UnsupportedVersion(
                f"version {quote(str(request.version).encode())} is not spoken here; this broker has {PROTOCOL_VERSION}"
            )
        self.is_extended = True
        self._decode = self.extended.decode
        if request.name is not None:
            self.name = request.name
        self._heartbeat_seconds = min(request.heartbeat, self._settings.max_heartbeat_seconds)
        self._await_life()
        self.sendString(encode_welcome(SERVER, self._settings.max_frame_bytes, self._heartbeat_seconds, self.features))

    def ping(self, request: Ping) -> None:
        """Answer that the broker lives."""
        self.accepted()

    def _await_life(self) -> None:
        if self._heartbeat_seconds:
            self._heard = False
            self._heartbeat = self._clock.callLater(self._heartbeat_seconds, self._heartbeat_due)

    def _heartbeat_due(self) -> None:
        self._heartbeat = None
        if self._heard:
            self._await_life()
        else:
            self.log.info("{peer}: silent for {seconds} s, dropped", peer=self.name, seconds=self._heartbeat_seconds)
            self.transport.abortConnection()  # type: ignore[union-attr]


@implementer(IMasterPeer)
class MasterProtocol(PeerProtocol):
    """A connection on the master port."""

    base = Vocabulary(MASTER, extended=False)
    extended = Vocabulary(MASTER, extended=True)
    features = ("attach",)

    def connectionMade(self) -> None:
        super().connectionMade()
        self._master = self._broker.master_connected(self)

    def gone(self) -> None:
        """See `PeerProtocol.gone`."""
        self._broker.master_lost(self._master, self._seconds())

    def submit(self, request: Submit) -> None:
        """Queue a job, base level."""
        self._submit(request, attach=False)

    def extended_submit(self, request: ExtendedSubmit) -> None:
        """Queue a job, extended level."""
        self._submit(request, attach=request.attach)

    def _submit(self, request: Submit, attach: bool) -> None:
        id, type = request.id, request.type
        if type is None and self._settings.require_type:
            raise MissingField("type is required by this broker (--require-type): a string of 1 to 255 characters")
        payload = encode_job(id, type, request.body)
        self._broker.submit(self._master, id, type, request.priority, payload, attach, self._seconds())

    def answered(self, id: JobKey, body: bytes) -> None:
        """See `IMasterPeer.answered`."""
        self.sendString(encode_answer(id, body))

    def failed(self, id: JobKey, failure: Failure) -> None:
        """See `IMasterPeer.failed`."""
        if self.is_extended:
            message = encode_extended_failure(
                id, failure.error, failure.reason, failure.kind, failure.traceback, failure.attempts
            )
        else:
            message = encode_failure(id, failure.error, failure.reason)
        self.sendString(message)

    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        Submit: submit,
        ExtendedSubmit: extended_submit,
        Hello: PeerProtocol.hello,
        Ping: PeerProtocol.ping,
    }


@implementer(ISlavePeer)
class SlaveProtocol(PeerProtocol):
    """A connection on the slave port."""

    base = Vocabulary(SLAVE, extended=False)
    extended = Vocabulary(SLAVE, extended=True)
    features = ("fail", "leave")

    def connectionMade(self) -> None:
        super().connectionMade()
        self._slave = self._broker.slave_connected(self)

    def gone(self) -> None:
        """See `PeerProtocol.gone`."""
        self._broker.slave_lost(self._slave, self._seconds())

    def join(self, request: Join) -> None:
        """Take jobs of a type."""
        self._broker.join(self._slave, request.type, self._seconds())

    def respond(self, request: Respond) -> None:
        """Answer the job in hand, base level."""
        self._broker.respond(self._slave, None, request.body, self._seconds())

    def extended_respond(self, request: ExtendedRespond) -> None:
        """Answer the job in hand, extended level."""
        self._broker.respond(self._slave, request.id, request.body, self._seconds())

    def fail(self, request: Fail) -> None:
        """End the job in hand as failed."""
        self._broker.fail(
            self._slave,
            request.id,
            request.reason,
            request.kind,
            request.traceback,
            request.retry,
            self._seconds(),
        )

    def leave(self, request: Leave) -> None:
        """Take no more jobs."""
        self._broker.leave(self._slave)

    def assigned(self, payload: bytes) -> None:
        """See `ISlavePeer.assigned`."""
        self.sendString(payload)

    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        Join: join,
        Respond: respond,
        ExtendedRespond: extended_respond,
        Fail: fail,
        Leave: leave,
        Hello: PeerProtocol.hello,
        Ping: PeerProtocol.ping,
    }


AnyPeer = TypeVar("AnyPeer", bound=PeerProtocol)


class PeerFactory(Factory, Generic[AnyPeer]):
    """
    Makes the protocols of one port.

    Args:
        protocol: `MasterProtocol` or `SlaveProtocol`.
        broker: The `IBroker` that both ports share.
        settings: The broker's limits.
        clock: Time for deadlines and heartbeats.
        flushes: Shared by both ports.

    Attributes:
        peers: The connections that are open.
    """

    noisy = False

    def __init__(
        self,
        protocol: type[AnyPeer],
        broker: IBroker,
        settings: Settings,
        clock: IReactorTime,
        flushes: FlushTurn,
    ) -> None:
        self._protocol = protocol
        self.broker = broker
        self.settings = settings
        self.clock = clock
        self.flushes = flushes
        self.peers: set[AnyPeer] = set()
        self._all_gone: Deferred[None] | None = None

    def logPrefix(self) -> str:
        # For Twisted's own lines: "MasterProtocol starting on 9998".
        return self._protocol.__name__

    def buildProtocol(self, addr: IAddress | None) -> AnyPeer:  # type: ignore[override]
        return self._protocol(self)

    def peer_lost(self, peer: AnyPeer) -> None:
        """Forget a connection that has ended."""
        self.peers.discard(peer)
        if self._all_gone is not None and not self.peers:
            self._all_gone.callback(None)
            self._all_gone = None

    def close(self) -> Deferred[None]:
        """Close every connection; return a Deferred that fires when all have ended."""
        gone: Deferred[None] = Deferred()
        if not self.peers:
            gone.callback(None)
            return gone
        self._all_gone = gone
        for peer in list(self.peers):
            peer.close()
        return gone
