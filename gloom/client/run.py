"""
One run of a job on a slave: where the job came from, and what will have its answer.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw
from twisted.internet.defer import Deferred

from gloom.client.connection import BrokerConnection
from gloom.client.session import Assignment
from gloom.messages import ExtendedRespond, Request, encode_request


class Run:
    """
    One run of a job.

    Args:
        connection: The only connection that its answer may go to: the broker
            gives the job to another slave when that ends.
        job: The job.

    Attributes:
        deferred: Fires when the run has ended; None while it has not begun to wait.
        cancelled: Whether the slave has cancelled it, and no failure of it matters.
    """

    def __init__(self, connection: BrokerConnection, job: Assignment) -> None:
        self.connection = connection
        self.job = job
        self.deferred: Deferred[Any] | None = None
        self.cancelled = False

    def max_answer_bytes(self) -> int:
        """Return how large the broker takes the answer, as JSON."""
        envelope = len(encode_request(ExtendedRespond(Raw(b"0"), self.job.id))) - 1
        return self.connection.max_frame_bytes - envelope

    def cancel(self) -> None:
        """End it; its Deferred's own canceller may raise anything."""
        self.cancelled = True
        if self.deferred is not None:
            self.deferred.cancel()

    def say(self, request: Request) -> None:
        """Tell the broker, unless the connection has ended and taken the job along."""
        if not self.connection.closed:
            self.connection.ask(request)


def sendable(text: str) -> str:
    """Return *text* as UTF-8 can carry it: file names hold lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def fire(waiting: Deferred[None] | None) -> None:
    """Fire *waiting*, if it is there and has not fired."""
    if waiting is not None and not waiting.called:
        waiting.callback(None)
