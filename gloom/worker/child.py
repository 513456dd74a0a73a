"""
The child process: answers one job after the other until its parent has no more.

    python -m gloom.worker.child PARENT function MODULE:FUNCTION
    python -m gloom.worker.child PARENT text|json PROGRAM [ARGUMENT ...]

Jobs come in on one descriptor and what became of them goes out on another
(`gloom.worker.pipe`); the standard streams are the job's own. Nothing that a
job does or raises ends the loop, only what ends the process.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from io import TextIOWrapper
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any

from msgspec import Raw, structs

from gloom.client.failing import failure_of
from gloom.client.framebuffer import FrameBuffer, to_frame
from gloom.errors import BodyError, GloomError, SizeError
from gloom.messages import Fail, encode_body
from gloom.worker.awaiting import Awaiter
from gloom.worker.command import Program
from gloom.worker.pipe import (
    ANSWER,
    FAILURE,
    JOBS_FD,
    OUTCOMES_FD,
    READY,
    UNUSABLE,
    Job,
    decode_job,
    encode_failure,
    value_of,
)
from gloom.worker.process import detach, die_with_parent, take_the_group_along
from gloom.worker.telling import Outlet, use

# What a pipe holds.
_READ_BYTES = 1 << 16
_LONGEST_REASON = 8 * 1024
_OWN_FILES = str(Path(__file__).parent) + os.sep
_IMPORT_FILES = (importlib.__file__, "<frozen importlib")

# No need to look what they can do.
_PLAIN_TYPES = frozenset({type(None), bool, int, float, str, list, dict})

#: Answers one job, or raises.
Work = Callable[[Job], Raw]


class CannotLoad(GloomError):
    """There is no such function."""


class FunctionCall:
    """
    Answers jobs with what a function returns.

    Args:
        function: Called with a job's body.
        awaiter: Waits where it returns a coroutine or a Deferred.
    """

    def __init__(self, function: Callable[[Any], Any], awaiter: Awaiter) -> None:
        self._function = function
        self._awaiter = awaiter

    def __call__(self, job: Job) -> Raw:
        answer = self._function(value_of(job))
        if type(answer) not in _PLAIN_TYPES and isawaitable(answer):
            answer = self._awaiter.result_of(answer)
        try:
            return encode_body(answer)
        except BodyError as error:
            raise BodyError(f"the answer is {error}") from None


def load(target: str) -> Callable[[Any], Any]:
    """
    Return the function that *target* names.

    Args:
        target: ``MODULE:FUNCTION``; dots in FUNCTION lead into objects.

    Raises:
        CannotLoad: There is no such module, or it has no such function.
        BaseException: Whatever the module raises when it is imported.
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


def outcome_of(work: Work, frame: bytes, outlet: Outlet | None = None) -> bytes:
    """Return the payload that tells what became of the job in *frame*; its progress goes to *outlet*."""
    try:
        job = decode_job(frame)
        if outlet is not None:
            outlet.begin(job.max_answer_bytes)
        body = memoryview(work(job))
        if len(body) > job.max_answer_bytes:
            raise SizeError(f"the answer has {len(body)} bytes, the broker takes {job.max_answer_bytes}")
        return ANSWER + body
    except BaseException as error:
        # SystemExit and asyncio's CancelledError too: a job that raises them has failed, no more.
        return FAILURE + encode_failure(describe(error))


def describe(error: BaseException) -> Fail:
    """Return what the master is told of *error*, its traceback without this runner's frames."""
    said = failure_of(error, traceback_of=partial(_traceback_of, error))
    return structs.replace(said, reason=said.reason[:_LONGEST_REASON])


def _traceback_of(error: BaseException) -> str | None:
    frames = _users_frames(error.__traceback__)
    if frames is None:
        # Raised by this runner: the reason says all.
        return None
    return "".join(format_exception(type(error), error, frames))


def _users_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Return what lies below this runner's frames, and those of the import that it called; None for nothing."""
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
        arguments: The parent's process id, the kind of work, and what it takes (see the module).

    Returns:
        The process's exit status: 1 where the work cannot be loaded.
    """
    parent, kind, *arguments = arguments
    detach()
    (die_with_parent if kind == "function" else take_the_group_along)(int(parent))
    for descriptor in (JOBS_FD, OUTCOMES_FD):
        os.set_inheritable(descriptor, False)
    if isinstance(sys.stdout, TextIOWrapper):
        # What a job prints is seen when it prints it, also if it is killed later.
        sys.stdout.reconfigure(line_buffering=True)
    awaiter = Awaiter()
    try:
        work = _prepare(kind, arguments, awaiter)
    except BaseException as error:
        _write(UNUSABLE + encode_failure(describe(error)))
        return 1
    _write(READY)
    _serve(work)
    awaiter.close()
    return 0


def _prepare(kind: str, arguments: list[str], awaiter: Awaiter) -> Work:
    if kind != "function":
        return Program(arguments, as_json=kind == "json")
    # First, as python puts it for a script: the directory in which the worker was started.
    sys.path.insert(0, "")
    sys.meta_path.insert(0, awaiter)
    function = load(arguments[0])
    foreign = awaiter.foreign_reactor()
    if foreign is not None:
        raise CannotLoad(f"its module installs a reactor of its own, {foreign}; here it is asyncio's")
    return FunctionCall(function, awaiter)


def _serve(work: Work) -> None:
    buffer = FrameBuffer()
    outlet = Outlet(_write)
    use(outlet)
    while data := os.read(JOBS_FD, _READ_BYTES):
        for frame in buffer.payloads_of(data):
            outlet.end(outcome_of(work, frame, outlet))


def _write(payload: bytes) -> None:
    frame = to_frame(payload)
    written = os.write(OUTCOMES_FD, frame)
    while written < len(frame):
        written += os.write(OUTCOMES_FD, memoryview(frame)[written:])


if __name__ == "__main__":
    sys.argv, _arguments = sys.argv[:1], sys.argv[1:]
    sys.exit(main(_arguments))
