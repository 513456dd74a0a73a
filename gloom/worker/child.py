"""
The child process: answers one job after the other until its parent has no more.

    python -m gloom.worker.child PARENT function MODULE:FUNCTION
    python -m gloom.worker.child PARENT text|json PROGRAM [ARGUMENT ...]

Jobs arrive on one descriptor and outcomes leave on another
(`gloom.worker.pipe`); the standard streams belong to the job. No exception of a
job ends the loop, only the end of the process does. Processes that a job forks
stay out of the loop (`gloom.worker.forked`).
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from io import TextIOWrapper
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any

import msgspec
from msgspec import Raw, structs

from gloom.client.failing import failure_of
from gloom.errors import BodyError, GloomError, SizeError
from gloom.wire.bodies import encode_body
from gloom.wire.framebuffer import FrameBuffer
from gloom.wire.messages import Fail
from gloom.worker import forked
from gloom.worker.awaiting import Awaiter
from gloom.worker.jobprogress import Outlet, use
from gloom.worker.lifetime import detach, die_with_parent, take_the_group_along
from gloom.worker.pipe import (
    ANSWER,
    FAILURE,
    JOBS_FD,
    NO_JOB,
    NUMBER_BYTES,
    OUTCOMES_FD,
    READY,
    UNUSABLE,
    Job,
    decode_job,
    encode_failure,
    frame_of,
    value_of,
)
from gloom.worker.program import Program

# Capacity of a pipe.
_READ_BYTES = 1 << 16
_LONGEST_REASON = 8 * 1024
_OWN_FILES = str(Path(__file__).parent) + os.sep
_IMPORT_FILES = (importlib.__file__, "<frozen importlib")

# Programs often close all low descriptors in a loop; the pipes are moved above this one.
_FIRST_OWN_FD = 32

_process_id = os.getpid

# Types that need no check for an awaitable or raw JSON.
_PLAIN_TYPES = frozenset({type(None), bool, int, float, str, list, dict})

#: Answers one job, or raises.
Work = Callable[[Job], Raw]


class CannotLoad(GloomError):
    """There is no such module or function."""


class FunctionCall:
    """
    Answers jobs with the results of a function.

    Args:
        function: Called with a job's body.
        awaiter: Waits for a coroutine or a Deferred that it returns.
    """

    def __init__(self, function: Callable[[Any], Any], awaiter: Awaiter) -> None:
        self._function = function
        self._awaiter = awaiter
        self._process_id = os.getpid()

    def __call__(self, job: Job) -> Raw:
        value = value_of(job)
        try:
            answer = self._function(value)
            if type(answer) not in _PLAIN_TYPES:
                answer = self._plain(answer)
        except BaseException as error:
            self._end_if_forked(error)
            raise
        if _process_id() != self._process_id:
            forked.end(None, None)
        try:
            return encode_body(answer)
        except BodyError as error:
            raise BodyError(f"the answer is {error}") from None

    def _plain(self, answer: Any) -> Any:
        """Return *answer*, or its result if it is awaitable; check raw JSON."""
        if isawaitable(answer):
            answer = self._awaiter.result_of(self._result_of(answer))
        if isinstance(answer, Raw):
            _check_raw(answer)
        return answer

    async def _result_of(self, awaitable: Awaitable[Any]) -> Any:
        # Checked here too: a forked process must not run the event loop again, since it shares the sockets of the loop.
        try:
            answer = await awaitable
        except BaseException as error:
            self._end_if_forked(error)
            raise
        self._end_if_forked(None)
        return answer

    def _end_if_forked(self, error: BaseException | None) -> None:
        if _process_id() != self._process_id:
            forked.end(error, None if error is None else _users_frames(error.__traceback__))


def _check_raw(answer: Raw) -> None:
    """Check raw JSON from the function: the broker drops a slave that sends invalid JSON."""
    try:
        bytes(answer).decode()
        msgspec.json.decode(answer, type=Raw)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the answer is not JSON: {error}") from None


def load(target: str) -> Callable[[Any], Any]:
    """
    Return the function that *target* names.

    Args:
        target: ``MODULE:FUNCTION``; dots in FUNCTION select attributes.

    Raises:
        CannotLoad: There is no such module, or it has no such function.
        BaseException: Any exception of the module's import.
    """
    module_name, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise CannotLoad(f"there is no module {error.name!r}, neither installed nor in {Path.cwd()}") from None
        raise
    for name in path.split("."):
        if not hasattr(found, name):
            raise CannotLoad(f"{_name_of(found)} has no {name!r}")
        found = getattr(found, name)
    if not callable(found):
        raise CannotLoad(f"it is not a function, it is {type(found).__name__}: {str(found)[:100]}")
    function: Callable[[Any], Any] = found
    return function


def _name_of(thing: Any) -> str:
    return f"{type(thing).__name__} {getattr(thing, '__name__', '')!r}"


# Outcomes


def outcome_of(work: Work, encoded: bytes | memoryview, outlet: Outlet | None = None) -> tuple[bytes, memoryview]:
    """
    Run the job in *encoded*; return the kind and the content of the payload for its outcome.

    Args:
        work: Answers the job.
        encoded: A `Job`.
        outlet: Takes the job's progress.
    """
    try:
        job = decode_job(encoded)
        if outlet is not None:
            outlet.begin(job.max_answer_bytes)
        body = memoryview(work(job))
        if len(body) > job.max_answer_bytes:
            raise SizeError(f"the answer has {len(body)} bytes, the broker takes {job.max_answer_bytes}")
        return ANSWER, body
    except BaseException as error:
        # SystemExit and asyncio's CancelledError too: they only fail the job.
        return FAILURE, memoryview(encode_failure(_described(error)))


def _described(error: BaseException) -> Fail:
    try:
        return describe(error)
    except BaseException as second:
        # The exception's own methods may raise, or memory may run out: the job has failed either way.
        return Fail(f"an exception that cannot be described: {type(second).__name__}", kind="Exception")


def describe(error: BaseException) -> Fail:
    """Return *error* for the master, with the traceback from the user's frames on."""
    said = failure_of(error, traceback_of=partial(_traceback_of, error))
    return structs.replace(said, reason=said.reason[:_LONGEST_REASON])


def _traceback_of(error: BaseException) -> str | None:
    frames = _users_frames(error.__traceback__)
    if frames is None:
        # Raised by the worker's own code: the reason is enough.
        return None
    return "".join(format_exception(type(error), error, frames))


def _users_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return the user's frames, below those of the worker and of its import; None if there are none."""
    users = here = traceback
    while here is not None:
        if here.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
            users = here.tb_next
        here = here.tb_next
    while users is not None and users.tb_frame.f_code.co_filename.startswith(_IMPORT_FILES):
        users = users.tb_next
    return users


# The process


def main(arguments: list[str]) -> int:
    """
    Answer jobs until there are no more.

    Args:
        arguments: The parent's process id, the kind of work, and its arguments (see the module).

    Returns:
        The process's exit status: 1 if the work cannot be loaded.
    """
    parent, kind, *arguments = arguments
    detach()
    (die_with_parent if kind == "function" else take_the_group_along)(int(parent))
    pipes = _Pipes()
    forked.prepare_for_forks(pipes.close)
    if isinstance(sys.stdout, TextIOWrapper):
        # A job's output is visible at once, even if the job is killed later.
        sys.stdout.reconfigure(line_buffering=True)
    awaiter = Awaiter()
    process_id = os.getpid()
    try:
        work = _prepare(kind, arguments, awaiter)
    except BaseException as error:
        if os.getpid() != process_id:
            forked.end(error, _users_frames(error.__traceback__))
        pipes.write(UNUSABLE + NO_JOB, encode_failure(_described(error)))
        return 1
    if os.getpid() != process_id:
        forked.end(None, None)
    pipes.write(READY + NO_JOB, b"")
    _serve(work, pipes)
    awaiter.close()
    return 0


def _prepare(kind: str, arguments: list[str], awaiter: Awaiter) -> Work:
    if kind != "function":
        return Program(arguments, as_json=kind == "json")
    # The working directory first, as Python does for a script.
    sys.path.insert(0, "")
    sys.meta_path.insert(0, awaiter)
    function = load(arguments[0])
    foreign = awaiter.foreign_reactor()
    if foreign is not None:
        raise CannotLoad(f"its module installs a reactor of its own, {foreign}; here it is asyncio's")
    return FunctionCall(function, awaiter)


class _Pipes:
    """The child's ends of the pipes, moved up: a job may close or replace low descriptors."""

    def __init__(self) -> None:
        self.jobs, self.outcomes = _moved_up(JOBS_FD), _moved_up(OUTCOMES_FD)

    def write(self, head: bytes, content: bytes | memoryview) -> None:
        """Write one payload, given in two parts."""
        frame = frame_of(head, content)
        written = os.write(self.outcomes, frame)
        while written < len(frame):
            written += os.write(self.outcomes, memoryview(frame)[written:])

    def close(self) -> None:
        """Close both, in a forked process."""
        for descriptor in (self.jobs, self.outcomes):
            with suppress(OSError):  # the job's code has closed it
                os.close(descriptor)


def _moved_up(descriptor: int) -> int:
    """Move *descriptor* up; programs do not inherit the new one."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_OWN_FD)
    except OSError:
        # The limit on descriptors is lower than the number asked for.
        os.set_inheritable(descriptor, False)
        return descriptor
    os.close(descriptor)
    return moved


def _serve(work: Work, pipes: _Pipes) -> None:
    buffer = FrameBuffer()
    outlet = Outlet(pipes.write)
    use(outlet)
    while data := os.read(pipes.jobs, _READ_BYTES):
        for payload in buffer.payloads_of(data):
            outlet.number = payload[:NUMBER_BYTES]
            # A copy of a small payload is faster than a view.
            view = payload if len(payload) < _READ_BYTES else memoryview(payload)
            kind, content = outcome_of(work, view[NUMBER_BYTES:], outlet)
            outlet.end(kind, content)


if __name__ == "__main__":
    sys.argv, _arguments = sys.argv[:1], sys.argv[1:]
    sys.exit(main(_arguments))
