"""
Every exception of gloom; those that travel on the wire carry their code.

Two branches: a `ProtocolError` says that the other end broke
docs/protocol.md (a broker answers it, see section 2 there); a
`TransportError` or a `ServerError` is what a client library raises to its
user. Anything else that escapes is a bug. This room imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class GloomError(Exception):
    """Base of every error that gloom raises on purpose."""


class SettingsError(GloomError, ValueError):
    """A value of `gloom.settings.Settings` is out of its range; the text says which and why."""


class StartupError(GloomError):
    """The daemon cannot start; the text is all that the operator needs."""


class ProtocolError(GloomError):
    """
    The other end broke the protocol.

    Attributes:
        code: The stable ``error`` value that goes on the wire.
        closes: Whether the connection ends after this error.
        reason: What was wrong, where, and what is allowed, for a person.
    """

    code: ClassVar[str] = "protocol_error"
    closes: ClassVar[bool] = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SizeError(ProtocolError):
    """A frame announced more bytes than the limit allows."""

    code = "size_error"
    closes = True


class InvalidJSON(ProtocolError):
    """A frame is not one UTF-8 JSON object."""

    code = "invalid_json"
    closes = True


class MissingField(ProtocolError):
    """A required field is absent."""

    code = "missing_field"


class InvalidType(ProtocolError):
    """A field has the wrong type or is out of range."""

    code = "invalid_type"


class InvalidAction(ProtocolError):
    """The verb belongs to the other port."""

    code = "invalid_action"


class UnknownAction(ProtocolError):
    """The verb is not in the protocol."""

    code = "unknown_action"


class InvalidState(ProtocolError):
    """The verb is not allowed now."""

    code = "invalid_state"


class IdExists(ProtocolError):
    """The job id is already in flight; the reason is the id itself."""

    code = "id_exists"


class UnknownJob(ProtocolError):
    """No job of that id is in flight for this master."""

    code = "unknown_job"


class NoSlaves(ProtocolError):
    """``require_slave`` was asked for, and no slave of the type has joined."""

    code = "no_slaves"


class Busy(ProtocolError):
    """A limit of the broker is reached."""

    code = "busy"


class Draining(ProtocolError):
    """The broker is shutting down."""

    code = "draining"


class Unauthorized(ProtocolError):
    """No credentials, or wrong ones."""

    code = "unauthorized"
    closes = True


class Forbidden(ProtocolError):
    """The credentials do not allow this verb or type."""

    code = "forbidden"


class UnsupportedVersion(ProtocolError):
    """The ``hello`` asked for a version that this broker does not speak."""

    code = "unsupported_version"


class InternalError(ProtocolError):
    """A bug in the broker; logged with its traceback there."""

    code = "internal_error"
    closes = True


class BodyError(GloomError, ValueError):
    """
    A Python value cannot be a body, or a body is more than Python reads.

    Attributes:
        id: The id of the job that came with it, or None.
    """

    def __init__(self, text: str, id: str | int | None = None) -> None:
        super().__init__(text)
        self.id = id


class TryAgain(GloomError):
    """Raised by a slave's function: spend this attempt, and give the job to a slave once more."""


class TransportError(GloomError):
    """The connection could not be made, or it ended."""


class TimedOut(TransportError, TimeoutError):
    """Nothing came within the time that the caller allowed."""


class ServerError(GloomError):
    """
    The broker answered with an error.

    Attributes:
        error: The stable code (docs/protocol.md, section 2).
        reason: The broker's explanation.
        id: The job it concerns, where one is known.
    """

    def __init__(self, error: str, reason: str, id: str | int | None = None) -> None:
        super().__init__(error, reason, id)
        self.error = error
        self.reason = reason
        self.id = id

    def __str__(self) -> str:
        return f"{self.error} -> {self.reason}"


class RequestRefused(ServerError):
    """The broker did not accept a request; nothing was queued."""


class JobFailed(ServerError):
    """
    An accepted job ended without an answer.

    Attributes:
        kind: The exception's name on the slave, or None where no exception was raised.
        traceback: The slave's traceback as text, or None.
        attempts: One mapping an attempt: ``slave``, ``seconds``, ``ended``.
    """

    def __init__(
        self,
        error: str,
        reason: str,
        id: str | int | None = None,
        kind: str | None = None,
        traceback: str | None = None,
        attempts: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(error, reason, id)
        self.kind = kind
        self.traceback = traceback
        self.attempts = list(attempts)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.kind else self.reason
