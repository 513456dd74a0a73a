"""Standard input and output without blocking: lines, long lines, slow readers and readers that disconnect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as untyped
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from gloom.cli.output import StdoutClosed, print_out
from gloom.cli.stdio import Lines, LineTooLong, Output
from gloom.errors import GloomError

reactor: Any = untyped


class Pipe:
    """A pipe. Both of its ends are closed after the test."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors or (self.reading, self.writing):
            if descriptor in self._open:
                self._open.remove(descriptor)
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    one.close()


async def all_of(lines: Lines) -> list[Any]:
    return [line async for line in lines]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"\n\nthree\n", [b"", b"", b"three"]),
        (b"a\r\nb\x00\xff\n", [b"a\r", b"b\x00\xff"]),
    ],
)
async def test_lines_end_with_a_newline_and_the_last_may_not(pipe: Pipe, data: bytes, expected: list[bytes]) -> None:
    """Only a newline ends a line, the last line needs none, and the bytes of a line are unchanged."""
    os.write(pipe.writing, data)
    pipe.close(pipe.writing)
    lines = Lines(reactor, pipe.reading, 100)
    assert await all_of(lines) == expected
    assert await all_of(lines) == []


async def test_a_regular_file_is_read_too(tmp_path: Path) -> None:
    """A regular file, which the reactor cannot poll, is read directly."""
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(50_000)))
    with path.open("rb") as file:
        lines = Lines(reactor, file.fileno(), 100)
        assert await all_of(lines) == [b"%d" % n for n in range(50_000)]
    assert lines.taken_bytes == path.stat().st_size


async def test_a_line_that_comes_in_pieces_is_one_line(pipe: Pipe) -> None:
    """A long line is put together from pieces of any size."""
    lines = Lines(reactor, pipe.reading, 1000)
    line = Deferred.fromCoroutine(lines.__anext__())
    for piece in (b"a", b"b", b"c\nd"):
        assert not line.called
        os.write(pipe.writing, piece)
        lines.doRead()
    assert await line == b"abc"


async def test_a_line_over_the_limit_is_thrown_away_and_said(pipe: Pipe) -> None:
    """The bytes of a line over the limit are counted and not kept, and the next line is read normally."""
    lines = Lines(reactor, pipe.reading, 10)
    os.write(pipe.writing, b"x" * 10 + b"\n" + b"y" * 11 + b"\n" + b"z" * 500)
    next_line = lines.__anext__
    assert await next_line() == b"x" * 10
    too_long = await next_line()
    assert isinstance(too_long, LineTooLong)
    assert (too_long.error, too_long.reason) == ("size_error", "the line has 11 bytes, the broker takes 10")
    os.write(pipe.writing, b"z" * 500 + b"\nlast")
    pipe.close(pipe.writing)
    too_long = await next_line()
    assert isinstance(too_long, LineTooLong)
    assert too_long.size == 1000
    assert await all_of(lines) == [b"last"]
    assert lines.taken_bytes == 11 + 12 + 1001 + 5


async def test_nothing_is_read_that_nobody_asks_for(pipe: Pipe) -> None:
    """A file is read only as fast as its lines are taken."""
    lines = Lines(reactor, pipe.reading, 100)
    os.write(pipe.writing, b"one\ntwo\n")
    assert await lines.__anext__() == b"one"
    os.write(pipe.writing, b"three\n")
    assert await lines.__anext__() == b"two"
    assert lines not in reactor.getReaders()
    assert os.read(pipe.reading, 100) == b"three\n"


async def test_who_waits_no_more_leaves_nothing_in_the_reactor(pipe: Pipe) -> None:
    """Ctrl-C ends a wait for input, and leaves no reader in the reactor."""
    lines = Lines(reactor, pipe.reading, 100)
    waiting = Deferred.fromCoroutine(lines.__anext__())
    assert lines in reactor.getReaders()
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert lines not in reactor.getReaders()


async def test_an_input_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Reading a directory is an error, and not an empty file."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(GloomError, match="cannot read standard input: Is a directory"):
            await all_of(Lines(reactor, directory, 100))
    finally:
        os.close(directory)


class Writing:
    """An output onto a pipe, with a record of its close."""

    def __init__(self, descriptor: int) -> None:
        self.closed = 0
        self.output = Output(reactor, descriptor, self._closed)

    def _closed(self) -> None:
        self.closed += 1


async def test_what_a_turn_writes_leaves_in_one_piece(pipe: Pipe) -> None:
    """Many short answers of one turn are written in one system call."""
    output = Writing(pipe.writing).output
    output.write(b"one\n")
    output.write(b"two\n")
    await output.drained()
    assert os.read(pipe.reading, 100) == b"one\ntwo\n"
    await output.drained()  # nothing is left: at once


async def test_a_slow_reader_gets_everything_and_is_waited_for(pipe: Pipe) -> None:
    """Writing to a slow reader neither blocks nor loses bytes, and tells the writer to wait."""
    output = Writing(pipe.writing).output
    data = os.urandom(1_000_000)
    output.write(data)
    assert output.full
    drained = Deferred.fromCoroutine(output.drained())
    received = b""
    while not drained.called or len(received) < len(data):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
        received += os.read(pipe.reading, 50_000)
    assert received == data
    assert not output.full


async def test_a_regular_file_takes_all(tmp_path: Path) -> None:
    """A file accepts all output at once."""
    with (tmp_path / "answers").open("wb") as file:
        output = Writing(file.fileno()).output
        output.write(b"x" * 1_000_000)
        await output.drained()
    assert (tmp_path / "answers").stat().st_size == 1_000_000


async def test_a_reader_that_goes_away_is_noticed_once(pipe: Pipe) -> None:
    """Output after the reader has gone is discarded, and no wait hangs."""
    writing = Writing(pipe.writing)
    pipe.close(pipe.reading)
    writing.output.write(b"one\n")
    await writing.output.drained()
    assert isinstance(writing.output.error, StdoutClosed)
    writing.output.write(b"two\n")
    await writing.output.drained()
    assert writing.closed == 1


async def test_a_reader_that_goes_away_while_it_is_waited_for_is_noticed(pipe: Pipe) -> None:
    """A wait for room in a pipe ends when the reader goes."""
    writing = Writing(pipe.writing)
    writing.output.write(b"x" * 1_000_000)
    drained = Deferred.fromCoroutine(writing.output.drained())
    reactor.callLater(0.01, pipe.close, pipe.reading)
    await drained
    assert isinstance(writing.output.error, StdoutClosed)
    assert writing.closed == 1


async def test_the_reactor_may_notice_it_first(pipe: Pipe) -> None:
    """A lost connection counts as a reader that has gone."""
    writing = Writing(pipe.writing)
    writing.output.connectionLost(Failure(ConnectionLost()))
    assert isinstance(writing.output.error, StdoutClosed)
    assert writing.closed == 1


async def test_a_full_disk_is_an_error_that_says_so() -> None:
    """A full disk is an error, and does not count as a reader that has gone."""
    with Path("/dev/full").open("wb") as full:
        writing = Writing(full.fileno())
        writing.output.write(b"one\n")
        await writing.output.drained()
    assert str(writing.output.error) == "cannot write to standard output: No space left on device"
    assert writing.closed == 1


def test_print_out_writes_bytes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The bytes for another program do not depend on the locale."""
    print_out("ä\n".encode())
    assert capfdbinary.readouterr().out == "ä\n".encode()


def test_print_out_says_that_there_is_no_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `>&-` the program has no standard output, and reports it."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(GloomError, match="standard output is closed"):
        print_out(b"x")
