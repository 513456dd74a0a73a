"""
What both ports have in common: refusals, ``hello``, who a peer is, heartbeats, the factory.

Implements docs/protocol.md, sections 2 and 4. The one place where an exception
becomes an error frame. The verbs of each port are in `gloom.protocols`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IFileDescriptor,
    IHandshakeListener,
    IProtocol,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

import gloom
from gloom.access import Access, Identity, certificate_names
from gloom.alarm import Alarm
from gloom.clock import monotonic
from gloom.errors import (
    Busy,
    Forbidden,
    InternalError,
    InvalidState,
    ProtocolError,
    SizeError,
    Unauthorized,
    UnsupportedVersion,
)
from gloom.framing import FlushTurn, FrameProtocol, StallWatch, to_frame
from gloom.interfaces import IBroker
from gloom.logs import PeerLogger
from gloom.messages import (
    KINDS,
    OK,
    PROTOCOL_VERSION,
    QUIET,
    Hello,
    Ping,
    Request,
    Vocabulary,
    decode_hello,
    encode_error,
    encode_welcome,
)
from gloom.polling import SocketPoll
from gloom.refusals import quote
from gloom.sending import has_own_socket
from gloom.settings import Settings
from gloom.turns import Turns
from gloom.unread import UnreadWatch

OK_FRAME = to_frame(OK)
SERVER = f"gloom/{gloom.__version__}"

# So many connections that are refused may linger at once: descriptors are few.
_MOST_REFUSED = 16
# How often a peer is looked at in its heartbeat while nothing is read from it.
_PAUSED_LOOKS = 4

# One log line in this time tells of refused credentials, however many there are.
_REFUSALS_LOG_SECONDS = 10.0

_CREDENTIALS_REFUSED = (Unauthorized, Forbidden)


def address_name(address: Any) -> str:
    """Return the address of a connection as a person writes it."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return "unix socket"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _give_back_descriptor(transport: Any) -> None:
    """Close the socket of a connection that was aborted: not in the next turn, since one accepts many."""
    while IProtocol.providedBy(transport):
        transport = cast(Any, transport).transport
    if IFileDescriptor.providedBy(transport):
        transport.connectionLost(Failure(ConnectionAborted()))


@dataclass
class Surroundings:
    """
    What the connections of both ports share.

    Attributes:
        broker: The `IBroker`.
        settings: The broker's limits.
        clock: Time for deadlines and heartbeats; given a reactor, it is the monotonic clock of that.
        access: Who may do what; None lets everyone do everything.
        alarm: The broker's timer.
        flushes: Sends what one reactor turn has said.
        answers: As flushes, for masters.
        stalls: Drops frames that stand half way.
        unread: Counts the bytes that wait for peers, and drops those that do not take them.
        turns: Shares the broker's time out among the connections.
        connections: How many are open, without those that are refused.
        refused: How many that are refused still linger.
    """

    broker: IBroker
    settings: Settings
    clock: IReactorTime
    access: Access | None
    alarm: Alarm
    flushes: FlushTurn = field(init=False)
    answers: FlushTurn = field(init=False)
    stalls: StallWatch = field(init=False)
    unread: UnreadWatch = field(init=False)
    turns: Turns = field(init=False)
    poll: SocketPoll | None = field(init=False)
    connections: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        reactor: Any = self.clock
        self.clock = monotonic(reactor)
        self.flushes = FlushTurn(self.clock)
        self.answers = FlushTurn(self.clock)
        settings = self.settings
        self.turns = Turns(self.clock)
        self.alarm.after_reading = self.turns.after_reading
        self.poll = None
        if SocketPoll.is_possible(reactor):
            self.poll = SocketPoll(reactor, self.flushes, self.answers, self.turns)
        self.stalls = StallWatch(self.clock, settings.stall_seconds, self.turns.after_reading)
        self.unread = UnreadWatch(
            self.clock,
            settings.max_unread_bytes,
            settings.max_total_unread_bytes,
            settings.unread_seconds,
            settings.least_read_bytes,
        )

    def stop(self) -> None:
        """Leave no timer behind."""
        self.alarm.stop()
        self.stalls.stop()
        self.unread.stop()
        self.turns.stop()
        if self.poll is not None:
            self.poll.stop()


class RefusalLog:
    """
    Counts refused credentials, and logs them without letting a stranger fill the log.

    Attributes:
        count: How many there were in all.
    """

    log = PeerLogger()

    def __init__(self, clock: IReactorTime) -> None:
        self.count = 0
        self._clock = clock
        self._told = 0
        self._next_seconds = 0.0

    def add(self, peer: str, error: ProtocolError) -> None:
        """Count one, and log it if it is time."""
        self.count += 1
        now = self._clock.seconds()
        if now >= self._next_seconds:
            self._next_seconds = now + _REFUSALS_LOG_SECONDS
            new, self._told = self.count - self._told, self.count
            self.log.warn(
                "{peer}: {code}: {reason} ({new} since the last such line, {count} in all)",
                peer=peer,
                code=error.code,
                reason=error.reason,
                new=new,
                count=self.count,
            )


@implementer(IHandshakeListener)
class PeerProtocol(FrameProtocol):
    """
    A connection on either port.

    Args:
        factory: Gives the broker, the settings, the clock and the flush.

    Attributes:
        name: How others are told of this peer: its ``hello`` name, or its address.
        accepts: The kinds of message that it said it accepts.
    """

    log = PeerLogger()
    role: ClassVar[str]
    base: ClassVar[Vocabulary]
    extended: ClassVar[Vocabulary]
    features: ClassVar[tuple[str, ...]]
    #: The method that answers each request.
    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]]

    __slots__ = (
        "_access",
        "_broker",
        "_deadline",
        "_decode",
        "_heard_seconds",
        "_heartbeat_seconds",
        "_hellos",
        "_identity",
        "_is_behind_wrapper",
        "_is_extended",
        "_is_gone",
        "_life",
        "_seconds",
        "_settings",
        "_verbs",
        "accepts",
        "factory",
        "name",
    )

    def __init__(self, factory: PeerFactory[Any]) -> None:
        around, settings = factory.around, factory.around.settings
        super().__init__(
            settings.max_frame_bytes,
            self.flushes_of(around),
            around.clock,
            settings.linger_seconds,
            pause_unread_bytes=settings.pause_unread_bytes,
            unread=around.unread,
            stalls=around.stalls,
            poll=around.poll,
            turns=around.turns,
        )
        self.factory: PeerFactory[Any] = factory
        self.name = "?"
        self.accepts: frozenset[str] = frozenset()
        self._broker: Any = around.broker
        # The class's own, which as an attribute of a class would be slower to read.
        self._verbs = self.verbs
        self._settings = settings
        self._access = around.access
        self._identity: Identity | None = None
        self._is_extended = False
        self._is_gone = False
        self._is_behind_wrapper = False
        self._life = (0, 0)
        self._seconds = around.clock.seconds
        self._decode: Callable[[bytes], Request] = self.base.decode if self._access is None else self._decode_stranger
        self._hellos = 0
        if self._access is not None:
            self.MAX_LENGTH = min(settings.max_frame_bytes, settings.max_stranger_frame_bytes)
        self._heard_seconds = 0.0
        self._heartbeat_seconds = 0.0
        self._deadline: IDelayedCall | None = None

    # What the transport tells

    def connectionMade(self) -> None:
        super().connectionMade()
        self._take_name_of_address()
        self.enter()
        if not self.factory.admit(self):
            self._turn_away()
        elif self._access is not None:
            self._deadline = self._clock.callLater(self._settings.stall_seconds, self._stranger_is_late)
        elif ISSLTransport.providedBy(self.transport):
            # A handshake that never ends is no better than a frame that does not.
            self.factory.around.stalls.begin(self, again=False)

    def _take_name_of_address(self) -> None:
        self.name = address_name(self.transport.getPeer())
        # Behind a balancer, the first bytes say whose connection it is.
        self._is_behind_wrapper = not self._is_behind_wrapper and not has_own_socket(self.transport)
        self.counts_life = self._is_behind_wrapper

    def _turn_away(self) -> None:
        limit = self._settings.max_connections
        self.refuse(Busy(f"the broker has its {limit} connections (--max-connections)"))
        if self.factory.around.refused <= _MOST_REFUSED:
            self.close(self._settings.linger_seconds)
        else:
            # It has the error if the network was quick enough.
            self.flush()
            self.abort()
            _give_back_descriptor(self.transport)

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`: now the peer's certificate is known."""
        self.factory.around.stalls.end(self)
        if self._access is not None:
            self._identity = self._access.with_certificate(certificate_names(self.transport))
            if self._identity is not None and self._identity.has_role(self.role):
                self._identify(self._identity)

    def alive(self) -> None:
        if self._is_behind_wrapper:
            self._take_name_of_address()
        self._heard_seconds = self._seconds()

    def stringReceived(self, string: bytes) -> None:
        # In a local first: what is called on self is looked for in its class.
        decode = self._decode
        try:
            request = decode(string)
            self._verbs[type(request)](self, request)
        except ProtocolError as error:
            self.refuse(error)
        except Exception:
            self.log.failure("{peer}: a bug in gloom; the connection is closed", peer=self.name)
            self.refuse(InternalError("a bug in the broker; its log has the traceback"))

    def lengthLimitExceeded(self, length: int) -> None:
        self.refuse(SizeError(f"a frame of {length} bytes is over the limit of {self.MAX_LENGTH}"))

    def peer_ended(self) -> None:
        self._go()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
        self._set_deadline(None)
        self._go()
        self.factory.peer_lost(self)

    def close(self, within_seconds: float | None = None) -> None:
        """See `FrameProtocol.close`; the broker gives no more to a peer that is told to go."""
        super().close(self._settings.drain_seconds if within_seconds is None else within_seconds)
        self._go()

    def _go(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self.gone()

    # What each port does

    @staticmethod
    def flushes_of(around: Surroundings) -> FlushTurn:
        """Return what flushes a connection of this port."""
        return around.flushes

    def enter(self) -> None:
        """Make the connection known to the broker."""
        raise NotImplementedError

    def gone(self) -> None:
        """Tell the broker that this peer has gone."""
        raise NotImplementedError

    # What is said to the peer

    def accepted(self) -> None:
        """See `IPeer.accepted`."""
        self.send_frame(OK_FRAME)

    def refuse(self, error: ProtocolError) -> None:
        """Answer the request with *error*, and close if it is one that closes."""
        self.note_refusal(error)
        self.sendString(encode_error(error))
        if error.closes:
            self.close()

    def note_refusal(self, error: ProtocolError) -> None:
        """Log that *error* is answered, as far as the settings say so."""
        if self._settings.verbose:
            self.log.debug("{peer}: {code}: {reason}", peer=self.name, code=error.code, reason=error.reason)
        if isinstance(error, _CREDENTIALS_REFUSED):
            self.factory.refusals.add(self.name, error)

    def quiet(self) -> None:
        """Say that the broker is about to shut down, to a peer that accepts it."""
        if "quiet" in self.accepts:
            self.sendString(QUIET)

    def drop_because(self, reason: str) -> None:
        self.log.warn("{peer}: dropped: {reason}", peer=self.name, reason=reason)
        super().drop_because(reason)

    # Who the peer is

    def _decode_stranger(self, frame: bytes) -> Request:
        """Read the ``hello`` of a peer that is not known yet, and nothing else (section 1.8)."""
        self._hellos += 1
        if self._hellos > self._settings.max_stranger_hellos:
            raise Unauthorized(f"{self._settings.max_stranger_hellos} requests did not say who this is")
        if (hello := decode_hello(frame)) is not None:
            return hello
        if self._identity is not None:  # by its certificate
            raise self._wrong_role(self._identity)
        raise Unauthorized("this broker asks for a hello with a token, or for a client certificate, first")

    def _authorize(self, access: Access, token: str | None) -> None:
        identity = self._identity
        if token is not None:
            identity = access.with_token(token)
            if identity is None:
                raise Unauthorized("the token is not known here")
        if identity is None:
            raise Unauthorized("hello needs a token here, or a client certificate that is known")
        if not identity.has_role(self.role):
            raise self._wrong_role(identity)
        self._identify(identity)

    def _wrong_role(self, identity: Identity) -> Forbidden:
        return Forbidden(f"{identity.name} may not be a {self.role}")

    def _identify(self, identity: Identity) -> None:
        self._identity = identity
        self.MAX_LENGTH = self._settings.max_frame_bytes
        self._decode = self.base.decode
        self._set_deadline(None)

    def _stranger_is_late(self) -> None:
        self._deadline = None
        # As with every judgement: first look at what has come (after a stop of this process it may be all).
        self.factory.around.turns.after_reading(self._drop_stranger, math.inf)

    def _drop_stranger(self) -> None:
        if self._decode != self._decode_stranger or self.lost or self._closed:
            return
        self.drop_because(f"it did not say who it is within {self._settings.stall_seconds:g} s")

    def may_have(self, type: str | None) -> bool:
        """Return whether this peer may have jobs of *type*."""
        return self._identity is None or self._identity.has_type(type)

    def check_type(self, type: str | None) -> None:
        """
        Refuse a job type that this peer may not have.

        Raises:
            Forbidden: Its identity has no pattern for it.
        """
        if self._identity is not None and not self.may_have(type):
            kind = "untyped jobs" if type is None else f"jobs of the type {quote(type.encode())}"
            raise Forbidden(f"{self._identity.name} may not have {kind}")

    # Verbs of both ports

    def hello(self, request: Hello) -> None:
        """Begin the extended level (section 4)."""
        if self._is_extended:
            raise InvalidState("hello was said already on this connection")
        if request.version != PROTOCOL_VERSION:
            asked = quote(str(request.version).encode())
            raise UnsupportedVersion(f"version {asked} is not spoken here; this broker has {PROTOCOL_VERSION}")
        if self._access is not None:
            self._authorize(self._access, request.token)
        self._is_extended = True
        self._decode = self.extended.decode
        self.accepts = KINDS.intersection(request.accept)
        if request.name is not None:
            self.name = request.name
        self._heartbeat_seconds = min(request.heartbeat, self._settings.max_heartbeat_seconds) + 0.0  # -0.0 is 0.0
        self.counts_life = self._heartbeat_seconds > 0
        self._await_life()
        self.sendString(encode_welcome(SERVER, self._settings.max_frame_bytes, self._heartbeat_seconds, self.features))

    def ping(self, request: Ping) -> None:
        """Answer that the broker lives."""
        self.accepted()

    # Heartbeat

    def _await_life(self) -> None:
        if self._heartbeat_seconds:
            self._heard_seconds = self._seconds()
            self._set_deadline(self._clock.callLater(self._heartbeat_seconds, self._heartbeat_due))

    def _heartbeat_due(self) -> None:
        self._deadline = None
        now = self._seconds()
        if self.paused:
            self._look_for_life(now)
        left = self._heard_seconds + self._heartbeat_seconds - now
        if left > 0:
            wait = min(left, self._heartbeat_seconds / _PAUSED_LOOKS) if self.paused else left
            self._set_deadline(self._clock.callLater(wait, self._heartbeat_due))
        elif self._waits or (not self.paused and self.has_unread_input()):
            # The broker has not read its input in time: after a pause of the process, or under load.
            self._await_life()
        else:
            self.drop_because(f"it was silent for {self._heartbeat_seconds:g} s, its heartbeat")

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._heartbeat_seconds:
            self._life = self.signs_of_life()
            self._set_deadline(self._clock.callLater(self._heartbeat_seconds / _PAUSED_LOOKS, self._heartbeat_due))

    def _look_for_life(self, now: float) -> None:
        """Nothing is read from this peer now: it lives if it takes bytes, or has sent some that wait to be read."""
        life = self.signs_of_life()
        if life != self._life:
            self._life, self._heard_seconds = life, now

    def _set_deadline(self, deadline: IDelayedCall | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = deadline


AnyPeer = TypeVar("AnyPeer", bound=PeerProtocol)


class PeerFactory(Factory, Generic[AnyPeer]):
    """
    Makes the protocols of one port.

    Args:
        protocol: `MasterProtocol` or `SlaveProtocol`.
        around: What both ports share.

    Attributes:
        peers: The connections that are open.
        turned_away: Those that were too many, and linger.
        refusals: Counts and logs refused credentials.
    """

    noisy = False

    def __init__(self, protocol: type[AnyPeer], around: Surroundings) -> None:
        self._protocol = protocol
        self.around = around
        self.peers: set[AnyPeer] = set()
        self.turned_away: set[AnyPeer] = set()
        self.refusals = RefusalLog(around.clock)
        self._all_gone: Deferred[None] | None = None

    def logPrefix(self) -> str:
        # For Twisted's own lines: "MasterProtocol starting on 9998".
        return self._protocol.__name__

    def buildProtocol(self, addr: IAddress | None) -> AnyPeer:  # type: ignore[override]
        return self._protocol(self)

    def admit(self, peer: AnyPeer) -> bool:
        """Count a new connection; return whether there was room for it."""
        around = self.around
        if around.connections >= around.settings.max_connections:
            self.turned_away.add(peer)
            around.refused += 1
            return False
        self.peers.add(peer)
        around.connections += 1
        return True

    def peer_lost(self, peer: AnyPeer) -> None:
        """Forget a connection that has ended."""
        if peer in self.turned_away:
            self.turned_away.discard(peer)
            self.around.refused -= 1
        else:
            self.peers.discard(peer)
            self.around.connections -= 1
        if self._all_gone is not None and not self.peers and not self.turned_away:
            self._all_gone.callback(None)
            self._all_gone = None

    def quiet(self) -> None:
        """Tell the peers that accept it that the broker is about to shut down."""
        for peer in self.peers:
            peer.quiet()

    def abort(self) -> None:
        """Drop every connection at once."""
        for peer in [*self.peers, *self.turned_away]:
            peer.abort()

    def close(self, within_seconds: float = 0.0) -> Deferred[None]:
        """Close every connection; return a Deferred that fires when all have ended, soon after *within_seconds*."""
        gone: Deferred[None] = Deferred()
        if not self.peers and not self.turned_away:
            gone.callback(None)
            return gone
        self._all_gone = gone
        for peer in [*self.peers, *self.turned_away]:
            peer.close(within_seconds)
        return gone
