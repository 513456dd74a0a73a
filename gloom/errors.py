"""
Every exception of gloom; those that travel on the wire have a code.

A `ProtocolError` means that the other end broke docs/protocol.md; the broker
replies with it (section 2 there). The client libraries raise a `TransportError`
or a `ServerError` to their users. Any other exception is a bug. This module
imports nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class GloomError(Exception):
    """Base of every error that gloom raises on purpose."""


class SettingsError(GloomError, ValueError):
    """An option, a limit or a file of the configuration is wrong; the text names it and the rule."""


class StartupError(GloomError):
    """The daemon cannot start; the text is complete for the operator."""


class ProtocolError(GloomError):
    """
    The other end broke the protocol.

    Attributes:
        code: The stable value of ``error`` on the wire.
        closes: Whether the connection ends after this error.
        reason: The mistake, its place and the rule, for a person.
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
    """The job has ``require_slave``, and no slave has joined its type."""

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
    """The ``hello`` names a protocol version that this broker does not have."""

    code = "unsupported_version"


class InternalError(ProtocolError):
    """A bug in the broker; logged with its traceback there."""

    code = "internal_error"
    closes = True


class BodyError(GloomError, ValueError):
    """
    A Python value cannot become a body, or Python cannot read a body.

    Attributes:
        id: The id of the job of this body, or None.
    """

    def __init__(self, text: str, id: str | int | None = None) -> None:
        super().__init__(text)
        self.id = id


class TryAgain(GloomError):
    """Raised by a slave's function to end this attempt and have the job tried again."""


class TransportError(GloomError):
    """The connection could not be made, or it has ended."""


class TimedOut(TransportError, TimeoutError):
    """Nothing arrived within the caller's timeout."""


class ServerError(GloomError):
    """
    The broker replied with an error.

    Attributes:
        error: The stable code (docs/protocol.md, section 2).
        reason: The broker's explanation.
        id: The job's id, if the error concerns one job.
    """

    def __init__(self, error: str, reason: str, id: str | int | None = None) -> None:
        super().__init__(error, reason, id)
        self.error = error
        self.reason = reason
        self.id = id

    def __str__(self) -> str:
        return f"{self.error} -> {self.reason}"


class RequestRefused(ServerError):
    """The broker refused a request; nothing was queued."""


class JobFailed(ServerError):
    """
    An accepted job ended without an answer.

    Attributes:
        kind: The name of the exception on the slave, or None if there was none.
        traceback: The slave's traceback as text, or None.
        attempts: One mapping per attempt: ``slave``, ``seconds``, ``ended``.
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
