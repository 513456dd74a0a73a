"""
Slaves for programs on Twisted; `gloom.client.deferred` is where to import them from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack, cast

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
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
    Takes jobs of one type or several, and answers with the results of a function.

    A Service: it joins when it starts, and again after each reconnect. A stop
    sends ``leave``, so that no attempt is spent, and waits for the running jobs.

    An exception of *function* reaches the master as `JobFailed` with its kind,
    reason and traceback; `TryAgain` asks for one more attempt instead. A plain
    function blocks the reactor while it runs. If it runs for longer than
    *heartbeat_seconds*, the broker drops this slave as dead and gives the job to
    another. So make it short, or return a Deferred, or use ``gloom work``, which
    runs functions in processes of their own.

    When the connection drops, the slave cancels its running jobs, and the broker
    gives them to other slaves. When a master cancels a job, or an attempt takes
    longer than the job's ``timeout``, the slave cancels its Deferred or coroutine.

    Inside the function, `gloom.client.deferred.current_job` returns the job's id
    and type, and sends progress to its master.

    Args:
        endpoint: The broker's slave port, as for `Master`.
        type: The job type, or a list of 1 to 1000 of them; None for untyped jobs only.
        function: Called with a job's body; returns the answer, or a Deferred
            or coroutine of it.
        reactor: As for `Master`.
        finish_seconds: Seconds that a stop waits for running jobs; then they are
            cancelled, and the broker gives them to other slaves.
        slots: Number of jobs that may run at once, 1 to 1000; more than one is of
            use to functions that return Deferreds or coroutines.
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
        reactor: IReactorTime,
        finish_seconds: float = 30.0,
        slots: int = 1,
        **options: Unpack[ClientKeywords],
    ) -> None:
        super().__init__(endpoint, type, reactor=reactor, finish_seconds=finish_seconds, slots=slots, **options)
        self._function: Callable[[Any], Any] = checked_function("function", function)

    # For subclasses to override

    def run(self, job: Assignment, max_answer_bytes: int) -> Any:
        """
        Do *job*: here, call the function.

        Args:
            job: The job, with its body as JSON.
            max_answer_bytes: The broker's limit, as JSON; a larger answer fails the job.

        Returns:
            The answer, or a Deferred or coroutine of it; a `Raw` is sent unchanged.
        """
        return self._function(decode_body(job.body))

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        """Return the ``fail`` of a *job* that ended in *failure*."""
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
