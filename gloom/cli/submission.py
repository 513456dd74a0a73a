"""
The work of ``gloom submit``: one job, from its submission to its answer.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred

from gloom.cli.connect import Place, connected_master
from gloom.cli.output import FAILED, on_terminal, print_out, say, tell
from gloom.cli.progress import Patience
from gloom.cli.runner import NO_ANSWER
from gloom.cli.values import error_fields, one_line, to_indented_json, to_json, to_plain, without_id
from gloom.errors import BodyError, GloomError, JobFailed, ServerError, TimedOut
from gloom.reactor import IReactor


@dataclass(frozen=True)
class Submission:
    """
    The job and the options of ``gloom submit``.

    Attributes:
        type: The job's type.
        body: Its body: JSON, or a string.
        priority: Larger first.
        id: The job's id, or None for a generated one.
        timeout: Seconds until the job is cancelled, or None for no limit.
        as_json: Whether to print the outcome as JSON, instead of the answer alone.
        traceback: Whether to print the slave's traceback when the job fails.
        progress: Whether to print progress as JSON, on standard error.
        delay: Seconds before the job may start, or None.
        job_timeout: Seconds that an attempt may run, or None.
        expires: Seconds that it may wait for a slave, or None.
        retries: How often it is tried again, or None for the broker's default.
        require_slave: Whether it is refused if no slave is there.
    """

    type: str
    body: Raw | str
    priority: int
    id: str | None
    timeout: float | None
    as_json: bool
    traceback: bool
    progress: bool = False
    delay: float | None = None
    job_timeout: float | None = None
    expires: float | None = None
    retries: int | None = None
    require_slave: bool = False


async def submit(reactor: IReactor, place: Place, job: Submission) -> int:
    """
    Have *job* done by the broker at *place*, and print its outcome.

    Returns:
        The exit status.

    Raises:
        GloomError: No broker can be reached, it refuses the job, or the answer
            cannot be printed.
    """
    id = uuid.uuid4().hex if job.id is None else job.id
    answering = Deferred.fromCoroutine(_answer(reactor, place, job, id))
    if job.timeout is not None:
        answering.addTimeout(job.timeout, reactor, onTimeoutCancel=_too_late)
    try:
        answer = await answering
    except TimedOut as error:
        say(str(error))
        return NO_ANSWER
    except (BodyError, ServerError) as error:
        _print_failure(job, id, error)
        return FAILED
    print_out(_printed(job, id, answer))
    return 0


async def _answer(reactor: IReactor, place: Place, job: Submission, id: str) -> Any:
    async with connected_master(reactor, place) as master:
        patience = Patience(reactor, job.type)

        def progressed(value: Any) -> None:
            patience.end()
            _show_progress(job, id, value)

        patience.begin()
        try:
            # A signal cancels the job, here and at the broker.
            return await master.submit(
                job.type,
                job.body,
                id=id,
                on_progress=progressed,
                priority=job.priority,
                delay=job.delay,
                timeout=job.job_timeout,
                expires=job.expires,
                retries=job.retries,
                require_slave=job.require_slave,
            )
        finally:
            patience.end()


def _show_progress(job: Submission, id: str, value: Any) -> None:
    if job.progress:
        tell(f'{{"id":{json.dumps(id)},"progress":{to_json(value).decode()}}}')
    elif on_terminal(sys.stderr):
        say(f"progress: {value if isinstance(value, str) else to_json(value).decode()}")


def _too_late(_result: object, seconds: float) -> Any:
    raise TimedOut(f"no answer within {seconds:g} s")


def _printed(job: Submission, id: str, answer: Any) -> bytes:
    if job.as_json:
        return b'{"id":%b,"answer":%b}\n' % (msgspec.json.encode(id), to_json(answer))
    if not isinstance(answer, str) and on_terminal(sys.stdout):
        return to_indented_json(answer) + b"\n"
    plain = to_plain(answer)
    return plain if plain.endswith(b"\n") else plain + b"\n"


def _print_failure(job: Submission, id: str, error: GloomError) -> None:
    if job.as_json:
        fields = {"id": id} | error_fields(error)
        if isinstance(error, JobFailed):
            fields |= {"traceback": error.traceback, "attempts": error.attempts}
        print_out(msgspec.json.encode(fields) + b"\n")
    if job.traceback and isinstance(error, JobFailed) and error.traceback:
        tell(error.traceback.rstrip())
    say(_failure(error))


def _failure(error: GloomError) -> str:
    if isinstance(error, JobFailed):
        return f"the job failed: {one_line(error)}"
    if isinstance(error, ServerError):
        return f"the job was refused: {error.error}: {error.reason}"
    return f"the answer cannot be read: {without_id(error)}"
