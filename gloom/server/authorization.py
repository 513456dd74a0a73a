"""
The identity of a peer: docs/protocol.md, section 1.8.

Until a broker with access rules knows it, a peer is a stranger: it has little
time, short frames and few tries, and is understood in nothing but ``hello``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from gloom.errors import Forbidden, Unauthorized
from gloom.server.access import Access, Identity, certificate_names
from gloom.server.heartbeat import HeartbeatProtocol
from gloom.server.surroundings import Surroundings
from gloom.transport.sending import FlushTurn
from gloom.wire.largebytes import Payload
from gloom.wire.messages import Request, Vocabulary, decode_hello
from gloom.wire.refusals import quote


class AuthorizedProtocol(HeartbeatProtocol):
    """
    A connection that learns the identity of its peer, by a token or a certificate, and its rights.

    Args:
        around: The state that all connections share.
        flushes: Schedules the flushes of this connection.
    """

    role: ClassVar[str]
    base: ClassVar[Vocabulary]

    __slots__ = ("_access", "_decode", "_hellos", "_identity")

    def __init__(self, around: Surroundings, flushes: FlushTurn) -> None:
        super().__init__(around, flushes)
        self._access = around.access
        self._identity: Identity | None = None
        self._hellos = 0
        self._decode: Callable[[Payload], Request] = self.base.decode if self._access is None else self._decode_stranger
        if self._access is not None:
            self.MAX_LENGTH = min(self._settings.max_frame_bytes, self._settings.max_stranger_frame_bytes)

    def handshakeCompleted(self) -> None:
        """See `IHandshakeListener`: now the peer's certificate is known."""
        self._around.stalls.end(self)
        if self._access is not None:
            self._identity = self._access.with_certificate(certificate_names(self.transport))
            if self._identity is not None and self._identity.has_role(self.role):
                self._identify(self._identity)

    def _await_identity(self) -> None:
        self._deadline = self._clock.callLater(self._settings.stall_seconds, self._stranger_is_late)

    def _decode_stranger(self, frame: Payload) -> Request:
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
        # As with every judgement: read the input first. After a pause of this process the hello may be there.
        self._around.turns.after_reading(self._drop_stranger, math.inf)

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
