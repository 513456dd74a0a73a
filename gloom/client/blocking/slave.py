"""
Blocking slaves; `gloom.client.blocking` is where to import them from, and says how calls end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Unpack

from msgspec import UNSET

from gloom.client.arguments import checked_flag, checked_function, checked_string, checked_types, short_text
from gloom.client.blocking.base import Address, Connection
from gloom.client.blocking.deadline import Timeout
from gloom.client.blocking.jobs import Job, body_of
from gloom.client.failing import failure_of, fitted, sendable
from gloom.client.options import Credentials
from gloom.client.session import UnreadableJob
from gloom.errors import BodyError, RequestRefused, SizeError, TransportError
from gloom.settings import SLAVE_PORT
from gloom.wire.bodies import encode_body
from gloom.wire.messages import ExtendedJoin, Fail, Join, Leave, Progress, Respond

_LOOPBACK = "127.0.0.1"


class Slave(Connection):
    """
    Takes jobs, one at a time, and answers them.

    Iterating yields each job as it comes, until `leave`. Iterating and `serve`
    wait without a limit; *timeout* does not concern them.

    Args:
        addr: The broker's slave port, as for `Connection`.
        timeout: As for `Connection`: of connecting, and of every call that has none of its own.
        options: As for `Connection`.
    """

    def __init__(
        self,
        addr: Address = (_LOOPBACK, SLAVE_PORT),
        timeout: float | None = None,
        **options: Unpack[Credentials],
    ) -> None:
        super().__init__(addr, timeout, **options)
        self._left = False

    def join(self, type: str | Sequence[str] | None, timeout: Timeout = UNSET) -> bool:
        """
        Take jobs of *type*, or of a list of types, from the next job on; None takes only untyped jobs.

        Returns:
            True: the broker has agreed.

        Raises:
            ValueError: *type* is not 1 to 1000 types of 1 to 255 characters each; nothing was sent.
            TypeError: It is of another kind; nothing was sent.
            RequestRefused: The broker has not; ``error`` says why.
            TimedOut: No reply in time; the broker may have heard it.
            TransportError: The connection has ended.
        """
        types = checked_types(type)
        request = ExtendedJoin(types=types) if isinstance(types, list) else Join(types)
        self._wire.ask(request, self._deadline(timeout))
        self._left = False
        return True

    def job(self, timeout: Timeout = UNSET) -> Job:
        """
        Wait for a job.

        Raises:
            BodyError: It is more than Python reads; it is in hand, and `fail` says so.
            TimedOut: None came in time.
            TransportError: The connection has ended.
        """
        job = self._wire.next_job(self._deadline(timeout))
        if isinstance(job, UnreadableJob):
            raise job.error
        return Job(action="job", id=job.id, type=job.type, body=body_of(job))

    def __iter__(self) -> Iterator[Job]:
        # A job that came before the broker heard the leave is still to be done.
        while self._wire.jobs or not self._left:
            yield self.job(None)

    def respond(self, body: Any = None, timeout: Timeout = UNSET) -> bool:
        """
        Answer the job in hand.

        Args:
            body: Any value that JSON has.

        Returns:
            True: the broker has the answer.

        Raises:
            BodyError: *body* is not JSON; the job is still in hand.
            RequestRefused: No job is in hand, or the answer is too large;
                ``error`` says which.
            TimedOut: No reply in time; the broker may have the answer.
            TransportError: The connection has ended.
        """
        self._wire.ask(Respond(encode_body(body)), self._deadline(timeout))
        return True

    def fail(
        self,
        reason: str,
        kind: str | None = None,
        traceback: str | None = None,
        retry: bool = False,
        timeout: Timeout = UNSET,
    ) -> bool:
        """
        Say that the job in hand failed; its master gets `JobFailed`.

        Args:
            reason: What went wrong, for a person.
            kind: The exception's name, 1 to 255 characters.
            traceback: The exception's traceback.
            retry: Spend this attempt, and let a slave try the job once more.

        Returns:
            True: the broker knows.

        Raises:
            ValueError: *kind* is not 1 to 255 characters; nothing was sent. So with TypeError.
            RequestRefused: No job is in hand, or the texts are too large;
                ``error`` says which.
            TimedOut: No reply in time; the broker may have heard it.
            TransportError: The connection has ended.
        """
        said = Fail(
            sendable(checked_string("reason", reason)),
            None if kind is None else short_text("kind", kind),
            None if traceback is None else sendable(checked_string("traceback", traceback)),
            checked_flag("retry", retry),
        )
        self._wire.ask(said, self._deadline(timeout))
        return True

    def progress(self, value: Any, timeout: Timeout = UNSET) -> None:
        """
        Tell the master how the job in hand gets on; nothing is waited for.

        Args:
            value: Any value that JSON has.

        Raises:
            BodyError: *value* is not JSON.
            RequestRefused: It is larger than the broker takes.
            TimedOut: It could not be sent in time; the next call sends it first.
            TransportError: The connection has ended.
        """
        self._wire.send(Progress(encode_body(value)), self._deadline(timeout))

    def leave(self, timeout: Timeout = UNSET) -> bool:
        """
        Take no more jobs; the one in hand, or on its way, is still to be answered.

        Returns:
            True: the broker sends no more.

        Raises:
            TimedOut: No reply in time; the broker may have heard it.
            TransportError: The connection has ended.
        """
        self._wire.ask(Leave(), self._deadline(timeout))
        self._left = True
        return True

    def serve(self, function: Callable[[Any], Any]) -> None:
        """
        Answer jobs with what *function* returns, until the broker ends the connection.

        What it raises reaches the master as `JobFailed`; `TryAgain` spends an
        attempt instead. An answer that is not JSON is a failure of kind
        ``BodyError``, one that is too large of kind ``SizeError``.

        A KeyboardInterrupt ends it too: it leaves, gives back the job that
        *function* was at, finishes one that was on its way, and returns.

        Args:
            function: Called with the body of each job.

        Raises:
            RequestRefused: The broker refused an answer.
            ProtocolError: What came is not the protocol.
        """
        checked_function("function", function)
        with suppress(TransportError):
            try:
                while not self._left:
                    self._serve_one(function)
            except KeyboardInterrupt:
                self.leave(None)
            while self._wire.jobs:
                self._serve_one(function)

    def _serve_one(self, function: Callable[[Any], Any]) -> None:
        try:
            body = self.job(None).body
        except BodyError as error:
            self._fail_with(error)
            return
        try:
            answer = function(body)
        except (KeyboardInterrupt, SystemExit) as error:
            self.leave(None)
            self.fail("the slave was interrupted", type(error).__name__, retry=True, timeout=None)
            raise
        except BaseException as error:
            # asyncio's CancelledError too: a job that raises it has failed, no more.
            self._fail_with(error)
        else:
            self._answer(answer)

    def _answer(self, answer: Any) -> None:
        try:
            body = encode_body(answer)
        except BodyError as error:
            self._tell_failed(Fail(f"the answer is {error}", BodyError.__name__))
            return
        except Exception as error:
            self._fail_with(error)  # no memory for it, for example
            return
        try:
            self._wire.ask(Respond(body), None)
        except RequestRefused as error:
            if error.error != SizeError.code:
                raise
            self._tell_failed(Fail(f"the answer is too large: {error.reason}", SizeError.__name__))

    def _fail_with(self, error: BaseException) -> None:
        self._tell_failed(failure_of(error))

    def _tell_failed(self, said: Fail) -> None:
        self._wire.ask(fitted(said, self._wire.max_frame_bytes), None)
