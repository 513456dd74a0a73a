"""
Jobs and answers of the blocking clients, and the many jobs of one `Master.do_many`. Imports no Twisted.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Any

from gloom.client.blocking.connection import Wire
from gloom.client.blocking.deadline import AT_ONCE, Deadline
from gloom.client.session import Assignment, Event, Outcome, Reply
from gloom.errors import BodyError, RequestRefused, ServerError, TransportError
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Submit


class Job(dict[str, Any]):
    """
    A job or its answer: the broker's message, with ``body`` as a Python value.

    A slave's job has ``action``, ``id``, ``type`` and ``body``; an answer that
    a master receives has ``id`` and ``body``.
    """

    @property
    def id(self) -> Any:
        """The job's id."""
        return self.get("id")

    @property
    def type(self) -> Any:
        """The job type; None for an untyped job, and in an answer."""
        return self.get("type")

    @property
    def body(self) -> Any:
        """The body of a job, or the answer of its slave."""
        return self.get("body")


def body_of(event: Outcome | Assignment) -> Any:
    """
    Return the Python value of a job's body or of an answer.

    Raises:
        BodyError: Python cannot read it; ``id`` is the job's.
    """
    try:
        return decode_body(event.body)
    except BodyError as error:
        raise BodyError(f"job {event.id!r}: {error}", event.id) from None


class Batch:
    """
    The jobs of one `Master.do_many`.

    Attributes:
        ended: Their outcomes and refusals that were not yielded yet, oldest first.
    """

    def __init__(self, wire: Wire) -> None:
        self.ended: deque[Outcome | ServerError | BodyError] = deque()
        self._wire = wire
        self._asked: deque[Submit] = deque()
        self._accepted: set[str | int] = set()
        self._abandoned = False
        wire.takers.append(self._takes)

    @property
    def in_flight(self) -> int:
        """The number of jobs that have no outcome and no refusal yet."""
        return len(self._asked) + len(self._accepted)

    def submit(self, request: Submit, deadline: Deadline | None) -> None:
        """Send *request*, after `Wire.make_ready`; its outcome will be in `ended`."""
        self._asked.append(request)
        try:
            self._wire.send(request, deadline)
        except RequestRefused as error:
            self._asked.pop()
            self.ended.append(error)

    def wait(self, deadline: Deadline | None) -> None:
        """Wait until one has ended."""
        while not self.ended:
            self._wire.pump(deadline)

    def look(self) -> None:
        """Read the events that have arrived already; the next call reports an end of the connection."""
        with suppress(TransportError):  # TimedOut is one
            while True:
                self._wire.pump(AT_ONCE)

    def abandon(self) -> None:
        """Drop the outcomes that have not come yet; a second call does nothing."""
        if not self._abandoned:
            self._abandoned = True
            self.ended.clear()
            self._forget_when_done()

    def _takes(self, event: Event) -> bool:
        if isinstance(event, Outcome) and event.id in self._accepted:
            self._accepted.remove(event.id)
            self.ended.append(event.error or event)
        elif isinstance(event, Reply) and self._asked and event.request is self._asked[0]:
            self._replied(event)
        else:
            return False
        self._forget_when_done()
        return True

    def _replied(self, reply: Reply) -> None:
        request = self._asked.popleft()
        if reply.error is None:
            self._accepted.add(request.id)
        else:
            self.ended.append(reply.error)

    def _forget_when_done(self) -> None:
        if self._abandoned and not self.in_flight:
            self._wire.takers.remove(self._takes)
