"""
Jobs answered by a program: its standard input is the body, its standard output the answer.

A child of the worker runs one program at a time. Imports no Twisted.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from struct import Struct
from typing import IO

import msgspec
from msgspec import Raw

from gloom.errors import BodyError, GloomError, SizeError
from gloom.wire.bodies import encode_body
from gloom.wire.refusals import quote
from gloom.worker.pipe import Job, value_of

_CHUNK_BYTES = 1 << 16
_TAIL_BYTES = 4096
_TAIL_LINES = 10
# Interval of checks for the end of a process, on systems that have no descriptor for it.
_LOOK_SECONDS = 0.05
_INT = Struct("i")


class ExitStatus(GloomError):
    """The program ended with a status other than 0, or by a signal."""


class Program:
    """
    Answers each job with one run of a program.

    As text, the input is the text of a JSON string, or the JSON of any other
    body; the answer is a string, the output without its final newline. As JSON,
    input and output are JSON.

    Args:
        arguments: The program and its arguments.
        as_json: Whether bodies and answers are JSON.
    """

    def __init__(self, arguments: Sequence[str], *, as_json: bool) -> None:
        self._arguments = arguments
        self._input, self._answer = (_json_input, _json_answer) if as_json else (_text_input, _text_answer)

    def __call__(self, job: Job) -> Raw:
        """
        Run the program on *job*, and return its answer.

        Raises:
            ExitStatus: It ended with a status other than 0, or by a signal.
            BodyError: Its output is not UTF-8, or not JSON where it must be.
            SizeError: Its output is larger than an answer may be; it was killed.
            OSError: It could not be started.
        """
        with self._start(job) as process:
            run = _Run(process, self._input(job), job.max_answer_bytes)
            try:
                run.until_it_ends()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise ExitStatus(_how_it_ended(process.returncode, run.last_lines()))
        return self._answer(bytes(run.output))

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "GLOOM_JOB_ID": str(job.id), "GLOOM_JOB_TYPE": job.type or ""}
        try:
            return subprocess.Popen(  # noqa: S603 (the user's own command)
                self._arguments,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            # The frames of subprocess are of no use to the user.
            raise error.with_traceback(None) from None


class _Run:
    """
    One run of a program: writes its input, and collects its output until it ends.

    The run ends with the program: other processes that it has started may hold
    its streams open for ever.

    Attributes:
        output: Its standard output so far.
    """

    def __init__(self, process: subprocess.Popen[bytes], body: bytes, max_output_bytes: int) -> None:
        self.output = bytearray()
        self._process = process
        self._input = memoryview(body)
        self._max_output_bytes = max_output_bytes
        self._tail = b""
        self._open = selectors.DefaultSelector()

    def until_it_ends(self) -> None:
        """
        Return when the program has ended and its output until then is read.

        Raises:
            SizeError: Its output is too large; it still runs.
        """
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101 (for mypy)
        os.set_blocking(self._process.stdin.fileno(), False)
        with self._open:
            self._watch(self._process.stdin, selectors.EVENT_WRITE, self._feed)
            self._watch(self._process.stdout, selectors.EVENT_READ, self._take_output)
            self._watch(self._process.stderr, selectors.EVENT_READ, self._take_complaint)
            with _exit_descriptor(self._process.pid) as ended:
                self._until_it_has_ended(ended)
            for pipe in (self._process.stdout, self._process.stderr):
                self._take_the_rest(pipe)

    def _until_it_has_ended(self, ended: int | None) -> None:
        if ended is not None:
            self._open.register(ended, selectors.EVENT_READ, lambda: None)
        while self._process.poll() is None:
            for key, _ in self._open.select(_LOOK_SECONDS if ended is None else None):
                key.data()
        if ended is not None:
            self._open.unregister(ended)

    def _take_the_rest(self, pipe: IO[bytes]) -> None:
        """Read the present content of *pipe*: other processes may hold it open and write to it."""
        if pipe.closed:
            return
        act = self._open.get_key(pipe).data
        (rest,) = _INT.unpack(fcntl.ioctl(pipe, termios.FIONREAD, bytes(_INT.size)))
        for _ in range(0, rest, _CHUNK_BYTES):
            act()

    def last_lines(self) -> str:
        """Return the last lines of its standard error."""
        lines = self._tail.decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(lines).strip()

    def _watch(self, pipe: IO[bytes], event: int, act: Callable[[IO[bytes]], None]) -> None:
        self._open.register(pipe, event, partial(act, pipe))

    def _close(self, pipe: IO[bytes]) -> None:
        self._open.unregister(pipe)
        pipe.close()

    def _feed(self, pipe: IO[bytes]) -> None:
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[:_CHUNK_BYTES]) :]
        except BrokenPipeError:
            # A program need not read its input.
            self._input = self._input[:0]
        if not self._input:
            self._close(pipe)

    def _take_output(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not data:
            self._close(pipe)
        self.output += data
        if len(self.output) > self._max_output_bytes:
            raise SizeError(f"the program printed more than the broker takes, {self._max_output_bytes} bytes")

    def _take_complaint(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not data:
            self._close(pipe)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        with suppress(OSError):  # the worker's standard error is closed
            os.write(2, data)


@contextmanager
def _exit_descriptor(process_id: int) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when a process has ended; None if the system has none."""
    try:
        descriptor = os.pidfd_open(process_id)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _how_it_ended(status: int, last_lines: str) -> str:
    if status < 0:
        with suppress(ValueError):  # a real-time signal has no name
            return _with_lines(f"killed by {signal.Signals(-status).name}", last_lines)
        return _with_lines(f"killed by signal {-status}", last_lines)
    return _with_lines(f"exit status {status}", last_lines)


def _with_lines(text: str, last_lines: str) -> str:
    return f"{text}: {last_lines}" if last_lines else text


def _text_input(job: Job) -> bytes:
    value = value_of(job) if _json_input(job).startswith(b'"') else None
    return value.encode() if isinstance(value, str) else _json_input(job)


def _text_answer(output: bytes) -> Raw:
    try:
        return encode_body(output.decode().removesuffix("\n"))
    except UnicodeDecodeError as error:
        raise BodyError(f"the program's output is not UTF-8: {error.reason} at byte {error.start}") from None


def _json_input(job: Job) -> bytes:
    return bytes(job.body)


def _json_answer(output: bytes) -> Raw:
    try:
        # Only checked: numbers and the order of keys stay as the program wrote them.
        output.decode()
        msgspec.json.decode(output, type=Raw)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the program's output is not one JSON value: {error}: {quote(output)}") from None
    return encode_body(Raw(output.strip()))
