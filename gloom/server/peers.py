"""
The common part of both ports: admission, refusals, ``hello``, the factory.

Implements docs/protocol.md, sections 2 and 4. The one place where an exception
becomes an error frame. The verbs of each port are in `gloom.server.protocols`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IFileDescriptor,
    IHandshakeListener,
    IProtocol,
    ISSLTransport,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

import gloom
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
from gloom.logs import PeerLogger
from gloom.server.authorization import AuthorizedProtocol
from gloom.server.refusallog import RefusalLog
from gloom.server.surroundings import Surroundings
from gloom.transport.sending import FlushTurn, has_own_socket
from gloom.wire.encoding import QUIET, encode_error, encode_welcome
from gloom.wire.framebuffer import to_frame
from gloom.wire.largebytes import Payload
from gloom.wire.messages import KINDS, OK, PROTOCOL_VERSION, Hello, Ping, Vocabulary
from gloom.wire.refusals import quote

OK_FRAME = to_frame(OK)
SERVER = f"gloom/{gloom.__version__}"

# So many connections that are refused may linger at once: descriptors are few.
_MOST_REFUSED = 16

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


@implementer(IHandshakeListener)
class PeerProtocol(AuthorizedProtocol):
    """
    A connection on either port.

    Args:
        factory: Gives the broker, the settings, the clock and the flush.

    Attributes:
        name: How others are told of this peer: its ``hello`` name, or its address.
        accepts: The kinds of message that it said it accepts.
    """

    log = PeerLogger()
    extended: ClassVar[Vocabulary]
    features: ClassVar[tuple[str, ...]]
    #: The method that answers each request.
    verbs: ClassVar[dict[type, Callable[[Any, Any], None]]]

    __slots__ = (
        "_broker",
        "_is_behind_wrapper",
        "_is_extended",
        "_is_gone",
        "_verbs",
        "accepts",
        "factory",
        "name",
    )

    def __init__(self, factory: PeerFactory[Any]) -> None:
        around = factory.around
        super().__init__(around, self.flushes_of(around))
        self.factory: PeerFactory[Any] = factory
        self.name = "?"
        self.accepts: frozenset[str] = frozenset()
        self._broker = around.broker
        # The class's own, which as an attribute of a class would be slower to read.
        self._verbs = self.verbs
        self._is_extended = False
        self._is_gone = False
        self._is_behind_wrapper = False

    # What the transport tells

    def connectionMade(self) -> None:
        super().connectionMade()
        self._take_name_of_address()
        self.enter()
        if not self.factory.admit(self):
            self._turn_away()
        elif self._access is not None:
            self._await_identity()
        elif ISSLTransport.providedBy(self.transport):
            # A handshake that never ends is no better than a frame that does not.
            self._around.stalls.begin(self, again=False)

    def _take_name_of_address(self) -> None:
        self.name = address_name(self.transport.getPeer())
        # Behind a balancer, the first bytes hold the peer's address.
        self._is_behind_wrapper = not self._is_behind_wrapper and not has_own_socket(self.transport)
        self.counts_life = self._is_behind_wrapper

    def _turn_away(self) -> None:
        limit = self._settings.max_connections
        self.refuse(Busy(f"the broker has its {limit} connections (--max-connections)"))
        if self._around.refused <= _MOST_REFUSED:
            self.close(self._settings.linger_seconds)
        else:
            # It has the error if the network was quick enough.
            self.flush()
            self.abort()
            _give_back_descriptor(self.transport)

    def alive(self) -> None:
        if self._is_behind_wrapper:
            self._take_name_of_address()
        self._heard_seconds = self._seconds()  # as the base does, without a call for each chunk

    def stringReceived(self, string: Payload) -> None:
        # In a local first: what is called on self is looked for in its class.
        decode = self._decode
        try:
            request = decode(string)
            self._verbs[type(request)](self, request)
        except ProtocolError as error:
            # Its traceback holds the frame, and may refer to itself: kept, a refused frame of 16 MiB
            # would stay until the garbage collector came by.
            self.refuse(error.with_traceback(None))
        except Exception:
            self.log.failure("{peer}: a bug in gloom; the connection is closed", peer=self.name)
            self.refuse(InternalError("a bug in the broker; its log has the traceback"))

    def lengthLimitExceeded(self, length: int) -> None:
        self.refuse(SizeError(f"a frame of {length} bytes is over the limit of {self.MAX_LENGTH}"))

    def peer_ended(self) -> None:
        self._go()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        super().connectionLost(reason)
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
        heartbeat_seconds = min(request.heartbeat, self._settings.max_heartbeat_seconds) + 0.0  # -0.0 is 0.0
        self.begin_heartbeat(heartbeat_seconds)
        self.sendString(encode_welcome(SERVER, self._settings.max_frame_bytes, heartbeat_seconds, self.features))

    def ping(self, request: Ping) -> None:
        """Answer that the broker lives."""
        self.accepted()


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
