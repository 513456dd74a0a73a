"""
Blocking slaves. Import them from `gloom.client.blocking`, which explains timeouts.
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
    wait without a limit: *timeout* does not apply.

    Args:
        addr: The broker's slave port, as for `Connection`.
        timeout: As for `Connection`.
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
            True: the broker has accepted.

        Raises:
            ValueError: *type* is not 1 to 1000 types of 1 to 255 characters each; nothing was sent.
            TypeError: *type* is of another kind; nothing was sent.
            RequestRefused: The broker has refused; ``error`` is the code.
            TimedOut: No reply in time; the slave may have joined.
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
            BodyError: Python cannot read the job's body. The slave has the job, and must `fail` it.
            TimedOut: None came in time.
            TransportError: The connection has ended.
        """
        job = self._wire.next_job(self._deadline(timeout))
        if isinstance(job, UnreadableJob):
            raise job.error
        return Job(action="job", id=job.id, type=job.type, body=body_of(job))

    def __iter__(self) -> Iterator[Job]:
        # A job that the broker sent before it read the leave must be done.
        while self._wire.jobs or not self._left:
            yield self.job(None)

    def respond(self, body: Any = None, timeout: Timeout = UNSET) -> bool:
        """
        Answer the job that this slave has.

        Args:
            body: Any value that JSON has.

        Returns:
            True: the broker has the answer.

        Raises:
            BodyError: *body* is not JSON; the slave still has the job.
            RequestRefused: The slave has no job, or the answer is too large;
                ``error`` is the code.
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
        Report that the job has failed; its master gets `JobFailed`.

        Args:
            reason: The error, for a person to read.
            kind: The exception's name, 1 to 255 characters.
            traceback: The exception's traceback.
            retry: Whether to spend this attempt only, and let a slave try the job once more.

        Returns:
            True: the broker has the report.

        Raises:
            ValueError: *kind* is not 1 to 255 characters; nothing was sent.
            TypeError: An argument is of another kind; nothing was sent.
            RequestRefused: The slave has no job, or the texts are too large;
                ``error`` is the code.
            TimedOut: No reply in time; the broker may have the report.
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
        Send progress of the job to its master; do not wait for a reply.

        Args:
            value: Any value that JSON has.

        Raises:
            BodyError: *value* is not JSON.
            RequestRefused: *value* is larger than the broker takes.
            TimedOut: It could not be sent in time; the next call sends the rest first.
            TransportError: The connection has ended.
        """
        self._wire.send(Progress(encode_body(value)), self._deadline(timeout))

    def leave(self, timeout: Timeout = UNSET) -> bool:
        """
        Take no more jobs; a job that the broker has sent already must still be answered.

        Returns:
            True: the broker sends no more.

        Raises:
            TimedOut: No reply in time; the slave may have left.
            TransportError: The connection has ended.
        """
        self._wire.ask(Leave(), self._deadline(timeout))
        self._left = True
        return True

    def serve(self, function: Callable[[Any], Any]) -> None:
        """
        Answer jobs with the results of *function*, until the broker ends the connection.

        An exception of *function* reaches the master as `JobFailed`; `TryAgain`
        asks for another attempt instead. An answer that is not JSON is a failure
        of kind ``BodyError``, one that is too large of kind ``SizeError``.

        A KeyboardInterrupt ends it too: the slave leaves, asks for another attempt
        at the interrupted job, does a job that the broker has sent already, and returns.

        Args:
            function: Called with the body of each job.

        Raises:
            RequestRefused: The broker refused an answer.
            ProtocolError: The broker sent no valid message.
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
            # asyncio's CancelledError too: it fails the job, and does not end the slave.
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
            self._fail_with(error)  # a MemoryError, for example
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
