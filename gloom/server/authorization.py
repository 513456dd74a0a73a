"""
The identity of a peer: docs/protocol.md, section 1.8.

Until a broker with access rules knows it, a peer is a stranger: it has little
time, short frames and few tries, and nothing but its ``hello`` is understood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gloom.errors import Forbidden, Unauthorized
from gloom.server.access import Access, Identity
from gloom.settings import Settings
from gloom.transport.turns import Turns
from gloom.wire.largebytes import Payload
from gloom.wire.messages import Hello, decode_hello
from gloom.wire.refusals import quote


def check_type(identity: Identity, type: str | None) -> None:
    """
    Refuse a job type that *identity* may not have.

    Raises:
        Forbidden: It has no pattern for the type.
    """
    if not identity.has_type(type):
        kind = "untyped jobs" if type is None else f"jobs of the type {quote(type.encode())}"
        raise Forbidden(f"{identity.name} may not have {kind}")


class Authorization:
    """
    The identity of one peer of a broker with access rules, as far as the peer has shown it.

    Args:
        access: The rules.
        role: The role of its port.
        settings: How many tries a stranger has, and how much time.
    """

    __slots__ = ("_access", "_hellos", "_identity", "_role", "_settings", "_timer")

    def __init__(self, access: Access, role: str, settings: Settings) -> None:
        self._access = access
        self._role = role
        self._settings = settings
        # By its certificate it may be one that has no right to this role.
        self._identity: Identity | None = None
        self._hellos = 0
        self._timer: IDelayedCall | None = None

    def begin_timer(self, clock: IReactorTime, turns: Turns, late: Callable[[str], None]) -> None:
        """Call *late* with a reason if the peer does not identify itself in time."""

        def judge() -> None:
            if self._timer is not None:
                self._timer = None
                late(f"it did not say who it is within {self._settings.stall_seconds:g} s")

        # As with every judgement: read the input first. After a pause of this process the hello may be there.
        self._timer = clock.callLater(self._settings.stall_seconds, turns.after_reading, judge, math.inf)

    def stop(self) -> None:
        """The peer is known, or has gone: leave no timer behind."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def decode(self, frame: Payload) -> Hello:
        """
        Read the ``hello`` of a peer that is not known yet.

        Raises:
            Unauthorized: It is none, or one too many.
            Forbidden: The peer's certificate is known, for another role.
            ProtocolError: A field of the ``hello`` is wrong.
        """
        self._hellos += 1
        if self._hellos > self._settings.max_stranger_hellos:
            raise Unauthorized(f"{self._settings.max_stranger_hellos} requests did not say who this is")
        if (hello := decode_hello(frame)) is not None:
            return hello
        if self._identity is not None:
            raise self._wrong_role(self._identity)
        raise Unauthorized("this broker asks for a hello with a token, or for a client certificate, first")

    def with_certificate(self, names: Iterable[str]) -> Identity | None:
        """Return the identity that a certificate of these *names* gives, if it may have the role."""
        self._identity = self._access.with_certificate(names)
        return self._identity if self._identity is not None and self._identity.has_role(self._role) else None

    def with_token(self, token: str | None) -> Identity:
        """
        Return the identity that a ``hello`` gives, by its token or by the certificate before it.

        Raises:
            Unauthorized: It gives none.
            Forbidden: The identity may not have the role.
        """
        if token is not None:
            identity = self._access.with_token(token)
            if identity is None:
                raise Unauthorized("the token is not known here")
        else:
            identity = self._identity
            if identity is None:
                raise Unauthorized("hello needs a token here, or a client certificate that is known")
        if not identity.has_role(self._role):
            raise self._wrong_role(identity)
        self._identity = identity
        return identity

    def _wrong_role(self, identity: Identity) -> Forbidden:
        return Forbidden(f"{identity.name} may not be a {self._role}")
