"""
The work of ``gloom map``: lines of standard input become jobs, answers go to standard output.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import CancelledError, Deferred, fail

from gloom.cli.connect import Place, connected_master
from gloom.cli.output import FAILED, descriptor, on_terminal, say
from gloom.cli.progress import Bar, Patience, Tally
from gloom.cli.stdio import Lines, LineTooLong, Output
from gloom.cli.values import error_fields, json_slip, one_line, read_body, to_json, to_plain
from gloom.client.answer import Answer
from gloom.client.deferred import Master
from gloom.client.deferred.answers import Answers
from gloom.errors import BodyError, GloomError, RequestRefused
from gloom.reactor import IReactor

# Refusals that concern one line; the broker would repeat any other for every line.
_ABOUT_ONE_LINE = ("size_error", "invalid_json")


@dataclass(frozen=True)
class MapOptions:
    """
    The options of ``gloom map``.

    Attributes:
        type: The job type.
        priority: The priority of all jobs.
        window: Most lines between reading and printing.
        ordered: Whether to print answers in the order of the lines.
        raw: Whether to print only the answers.
        text: Whether each line is a string, even if it is valid JSON.
        quiet: Whether to print no progress bar and no summary.
        job_timeout: Seconds that an attempt may run, or None.
        expires: Seconds that a job may wait for a slave, or None.
        retries: How often a job is tried again, or None for the broker's default.
        require_slave: Whether to refuse a job if no slave has joined its type.
    """

    type: str
    priority: int
    window: int
    ordered: bool
    raw: bool
    text: bool
    quiet: bool
    job_timeout: float | None = None
    expires: float | None = None
    retries: int | None = None
    require_slave: bool = False


async def map_lines(reactor: IReactor, place: Place, options: MapOptions) -> int:
    """
    Have a job done for each line of standard input, by the broker at *place*.

    Returns:
        The exit status.

    Raises:
        StdoutClosed: The reader of standard output is gone.
        GloomError: The broker refuses this client, standard input cannot be
            read, or the broker refuses every job.
    """
    stdin, stdout = descriptor(sys.stdin, "standard input"), descriptor(sys.stdout, "standard output")
    async with connected_master(reactor, place, waits=True) as master:
        return await Mapping(reactor, master, options, stdin, stdout).until_done()


class Mapping:
    """
    Standard input to jobs, answers to standard output.

    Args:
        reactor: Waits for the streams, and is the clock.
        master: Connected.
        options: Of the command line.
        stdin: File descriptor of the lines.
        stdout: File descriptor for the answers.
    """

    def __init__(self, reactor: IReactor, master: Master, options: MapOptions, stdin: int, stdout: int) -> None:
        self._reactor = reactor
        self._master = master
        self._options = options
        self._tally = Tally(reactor)
        self._patience = Patience(reactor, options.type)
        assert master.connection is not None  # noqa: S101 (it is connected)
        self._lines = Lines(reactor, stdin, master.connection.max_frame_bytes)
        self._output = Output(reactor, stdout, self._stdout_ended)
        self._answers = Answers(self._submit, self._bodies(), options.window)
        self._running: Deferred[None] | None = None
        # Line number and size of a line, by the index of its job; empty lines have no job.
        self._in_work: dict[int, tuple[int, int]] = {}
        # Bytes of the lines that are answered: reading a line is no progress yet.
        self._answered_bytes = 0
        self._printed = 0
        # Whether the warning of a line that looks like JSON has been printed: once is enough.
        self._has_warned = False
        self._early: dict[int, Answer] = {}
        self._room: Deferred[None] | None = None

    async def until_done(self) -> int:
        """
        Work until every line has its answer.

        Returns:
            The exit status.

        Raises:
            StdoutClosed: The reader of standard output is gone.
            GloomError: Standard input cannot be read, or the broker refuses every job.
        """
        try:
            with self._bar():
                self._running = Deferred.fromCoroutine(self._print_answers())
                await self._running
        except CancelledError:
            if self._output.error is not None:
                raise self._output.error from None
            self._sum_up()  # a signal
            raise
        finally:
            self._patience.end()
            self._answers.cancel()
        self._sum_up()
        return FAILED if self._tally.failed else 0

    def _sum_up(self) -> None:
        if not self._options.quiet:
            say(str(self._tally))

    def _bar(self) -> Any:
        # Answers on the terminal show the progress by themselves.
        if self._options.quiet or not on_terminal(sys.stderr) or on_terminal(sys.stdout):
            return nullcontext()
        return Bar(self._reactor, self._tally, lambda: self._answered_bytes, _bytes_to_read(self._lines.fileno()))

    def _stdout_ended(self) -> None:
        if self._running is not None:
            self._running.cancel()

    # Lines to jobs

    async def _bodies(self) -> AsyncIterator[bytes | LineTooLong]:
        index = 0
        number = 0
        before = 0
        async for line in self._lines:
            number += 1
            size, before = self._lines.taken_bytes - before, self._lines.taken_bytes
            if line == b"":
                self._answered_bytes += size
                continue
            while self._options.ordered and index - self._printed >= self._options.window:
                self._room = Deferred()
                await self._room
            self._in_work[index] = number, size
            index += 1
            yield line

    def _submit(self, line: bytes | LineTooLong) -> Deferred[Any]:
        if isinstance(line, LineTooLong):
            return fail(line)
        try:
            body = read_body(line, as_text=self._options.text)
        except BodyError as error:
            return fail(error)
        options = self._options
        if not (self._has_warned or options.text):
            self._warn_of_slip(body)
        self._patience.begin()
        return self._master.submit_patiently(
            options.type,
            body,
            priority=options.priority,
            timeout=options.job_timeout,
            expires=options.expires,
            retries=options.retries,
            require_slave=options.require_slave,
        )

    def _warn_of_slip(self, body: Raw | str) -> None:
        slip = json_slip(body)
        if slip is None:
            return
        self._has_warned = True
        # The line that was read last is the one that is submitted.
        number = next(reversed(self._in_work.values()))[0]
        say(
            f"line {number} looks like JSON but is not ({slip}); sending it and others like it as strings "
            "(--text avoids this warning)"
        )

    # Answers to lines

    async def _print_answers(self) -> None:
        async for answer in self._answers:
            for printable in self._in_order(answer):
                self._print(printable)
            if self._output.full:
                await self._output.drained()
        await self._output.drained()
        if self._output.error is not None:
            raise self._output.error

    def _in_order(self, answer: Answer) -> Iterator[Answer]:
        if not self._options.ordered:
            yield answer
            return
        self._early[answer.index] = answer
        while self._printed in self._early:
            yield self._early.pop(self._printed)
            self._printed += 1
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _print(self, answer: Answer) -> None:
        self._patience.end()
        number, size = self._in_work.pop(answer.index)
        self._answered_bytes += size
        error = answer.error
        if error is None:
            try:
                self._output.write(self._formatted(number, answer.value))
            except BodyError as unprintable:
                error = unprintable
        self._tally.count(failed=error is not None)
        if error is not None:
            self._print_error(number, error)

    def _formatted(self, number: int, value: Any) -> bytes:
        if self._options.raw:
            return to_plain(value) + b"\n"
        return b'{"line":%d,"answer":%b}\n' % (number, to_json(value))

    def _print_error(self, number: int, error: Exception) -> None:
        if isinstance(error, RequestRefused) and error.error not in _ABOUT_ONE_LINE:
            raise GloomError(f"the broker refuses the jobs: {error}") from None
        if self._options.raw:
            say(f"line {number}: {one_line(error)}")
        else:
            self._output.write(msgspec.json.encode({"line": number} | error_fields(error)) + b"\n")


def _bytes_to_read(descriptor: int) -> int | None:
    """Return the unread bytes of a regular file, or None for any other kind of file."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return None
    return max(0, status.st_size - os.lseek(descriptor, 0, os.SEEK_CUR))
