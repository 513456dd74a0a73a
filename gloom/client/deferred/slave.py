"""
Slaves for programs on Twisted; `gloom.client.deferred` is where to import them from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack, cast

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from gloom.client.arguments import checked_function
from gloom.client.deferred.run import Run
from gloom.client.deferred.slavelink import SlaveLink
from gloom.client.failing import failure_of
from gloom.client.options import ClientKeywords
from gloom.client.session import Assignment
from gloom.errors import BodyError
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import ExtendedRespond, Fail


class Slave(SlaveLink):
    """
    Takes jobs of one type or several, and answers with what a function returns.

    A Service: it joins when it starts and again after each reconnect. Stopping
    says ``leave``, so that no attempt is spent, and waits for the jobs in hand.

    What *function* raises reaches the master as `JobFailed` with its kind,
    reason and traceback; raising `TryAgain` gives the job to a slave once more.
    A plain function holds the reactor while it runs: longer than
    *heartbeat_seconds*, and the broker takes this slave for dead and gives the
    job to another. Make it short, or return a Deferred, or use ``gloom work``,
    which runs it in processes of its own.

    When the connection drops, the jobs in hand are cancelled: the broker gives
    them to other slaves. When a master cancels a job, or the time of its
    attempt is over, its Deferred or coroutine is cancelled here.

    Inside the function, `gloom.client.deferred.current_job` says which job it
    is, and tells its master of progress.

    Args:
        endpoint: The broker's slave port, as for `Master`.
        type: The job type, or a list of 1 to 1000 of them; None for untyped jobs only.
        function: Called with a job's body; returns the answer, or a Deferred
            or coroutine of it.
        reactor: Clock, and what a string connects with.
        finish_seconds: How long stopping waits for the jobs in hand; then they
            are cancelled, and the broker gives them to other slaves.
        slots: How many jobs may be in hand at once, 1 to 1000; more than one
            makes sense for functions that return Deferreds or coroutines.
        options: ``name``, ``heartbeat_seconds``, ``token`` and ``tls``; see
            `gloom.client.options.ClientOptions`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        type: str | Sequence[str] | None,
        function: Callable[[Any], Any],
        *,
        reactor: Any,
        finish_seconds: float = 30.0,
        slots: int = 1,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(endpoint, type, reactor=reactor, finish_seconds=finish_seconds, slots=slots, **options)
        self._function: Callable[[Any], Any] = checked_function("function", function)

    # What a subclass may do in another way

    def run(self, job: Assignment, max_answer_bytes: int) -> Any:
        """
        Have *job* done: here, by the function.

        Args:
            job: The job, its body still JSON.
            max_answer_bytes: What the broker takes; a larger answer fails the job.

        Returns:
            The answer, or a Deferred or coroutine of it; a `Raw` is sent as it is.
        """
        return self._function(decode_body(job.body))

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        """Return what the master is told of a *job* that ended in *failure*."""
        return failure_of(cast(BaseException, failure.value), job.id, failure.getTraceback)

    # Runs

    def begin(self, run: Run) -> None:
        deferred = run.deferred = run.begin(maybeDeferred, self.run, run.job, run.max_answer_bytes())
        deferred.addCallback(self._answered, run)
        deferred.addErrback(self.failed, run)
        deferred.addBoth(lambda _: self.done(run))

    def _answered(self, answer: Any, run: Run) -> None:
        try:
            body = encode_body(answer)
        except BodyError as error:
            self.tell_failed(run, Fail(f"the answer is {error}", kind="BodyError", id=run.job.id))
            return
        too_large = run.connection.oversize(ExtendedRespond(body, run.job.id), body)
        if too_large is None:
            self.answer(run, body)
        else:
            self.tell_failed(run, Fail(f"the answer makes {too_large}", kind="SizeError", id=run.job.id))
