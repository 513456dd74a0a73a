"""
A job of a Deferred master that has no outcome yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from gloom.client.session import Outcome, Reply
from gloom.errors import BodyError, RequestRefused
from gloom.wire.bodies import decode_body
from gloom.wire.messages import ExtendedSubmit


class Unanswered:
    """
    A job of a master that has no outcome yet.

    Attributes:
        request: The request that submits it, on each connection again.
        deferred: Fires with the answer.
        on_progress: Called with each value of progress, or None.
        on_receipt: Called with the receipt, or None.
        sent: Whether a broker may have it.
        accepted: Whether a broker has accepted it.
        broken: Number of connections that ended with an unreadable message while it was unanswered.
    """

    __slots__ = ("accepted", "broken", "deferred", "on_progress", "on_receipt", "request", "sent")

    def __init__(
        self,
        request: ExtendedSubmit,
        deferred: Deferred[Any],
        on_progress: Callable[[Any], object] | None,
        on_receipt: Callable[[Mapping[str, Any]], object] | None,
    ) -> None:
        self.request = request
        self.deferred = deferred
        self.on_progress = on_progress
        self.on_receipt = on_receipt
        self.sent = False
        self.accepted = False
        self.broken = 0

    def keep(self) -> None:
        """Wait for the next connection: the broker shuts down, and has forgotten the job."""
        self.sent = self.accepted = False

    def settle(self, outcome: Outcome) -> None:
        """Fire the Deferred with *outcome*."""
        if outcome.error is not None:
            self.deferred.errback(outcome.error)
            return
        try:
            answer = decode_body(outcome.body)
        except BodyError as error:
            self.deferred.errback(BodyError(f"job {outcome.id!r}: {error}", outcome.id))
        else:
            self.deferred.callback(answer)


def refusal_in(reply: Reply, index: int, id: str | int) -> RequestRefused | None:
    """Return the error with which one job of a ``submit_many`` was refused, or None."""
    if reply.error is not None:
        return RequestRefused(reply.error.error, reply.error.reason, id)
    said = reply.message.jobs[index] if index < len(reply.message.jobs) else {}
    if said.get("ok") is True:
        return None
    return RequestRefused(str(said.get("error")), str(said.get("reason", "")), id)
