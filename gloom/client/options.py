"""
The options that masters and slaves share: declared, described and checked here only. Imports no Twisted.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from gloom.client.arguments import checked_token, seconds, short_text

if TYPE_CHECKING:
    from gloom.client.tls import ClientTLS


class Credentials(TypedDict, total=False):
    """The keywords that every client takes; `ClientOptions` describes and checks them."""

    token: str | None
    tls: ClientTLS | None


class ClientKeywords(Credentials, total=False):
    """The keywords that a Deferred client takes; `ClientOptions` describes and checks them."""

    name: str | None
    heartbeat_seconds: float


@dataclass(frozen=True)
class ClientOptions:
    """
    The options of a client, checked.

    Attributes:
        name: The client's name at the broker, 1 to 255 characters; None for ``host:pid``.
        heartbeat_seconds: Longest silence that either side of a Deferred client's connection
            accepts, 0 to 1e9; 0 for no heartbeat.
        token: Identifies the client to a broker with access rules; None for an anonymous client.
        tls: How to speak TLS with an address; None for a plain connection. An endpoint
            object, or a connected socket, brings its own.

    Raises:
        ValueError: A value is out of its range; the text names it.
        TypeError: A value is of another kind.
    """

    name: str | None = None
    heartbeat_seconds: float = 30.0
    token: str | None = field(default=None, repr=False)
    tls: ClientTLS | None = None

    def __post_init__(self) -> None:
        checked = {
            "name": None if self.name is None else short_text("name", self.name),
            "heartbeat_seconds": seconds("heartbeat_seconds", self.heartbeat_seconds),
            "token": checked_token(self.token),
        }
        for name, value in checked.items():
            # The class is frozen for everyone else.
            object.__setattr__(self, name, value)

    @property
    def peer_name(self) -> str:
        """The name that the broker receives."""
        return f"{socket.gethostname()}:{os.getpid()}"[:255] if self.name is None else self.name
