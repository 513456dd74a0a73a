"""
Standard input and output without blocking the reactor.

Neither is set to non-blocking: that flag belongs to the open file, which the
shell and the other programs of a pipeline share.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from gloom.cli.output import StdoutClosed
from gloom.errors import GloomError, RequestRefused
from gloom.reactor import IReactor

_READ_BYTES = 64 * 1024
_PENDING_BYTES = 64 * 1024


class LineTooLong(RequestRefused):
    """
    A line has more bytes than the broker accepts in a frame; it was discarded.

    Attributes:
        size: Bytes of the line.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        super().__init__("size_error", f"the line has {size} bytes, the broker takes {limit}")


@implementer(IReadDescriptor)
class Lines:
    """
    The lines of a file: an asynchronous iterator that reads on demand.

    Yields each line without its newline, or `LineTooLong` for a line over the
    limit. The last line may lack a newline.

    Args:
        reactor: Reports when there is something to read.
        descriptor: The file; a pipe, a terminal or a regular file.
        max_line_bytes: Longest line that is kept.

    Attributes:
        taken_bytes: Bytes of all lines that the iterator has returned.

    Raises:
        GloomError: From the iteration, when the file cannot be read.
    """

    def __init__(self, reactor: IReactorFDSet, descriptor: int, max_line_bytes: int) -> None:
        self.taken_bytes = 0
        self._reactor = reactor
        self._descriptor = descriptor
        self._max_line_bytes = max_line_bytes
        self._lines: deque[bytes | LineTooLong] = deque()
        # A long line arrives in many pieces, which are joined once, at its end.
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._ended = False
        self._error: OSError | None = None
        self._wanted: Deferred[None] | None = None

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes | LineTooLong:
        while not self._lines:
            if self._error is not None:
                raise GloomError(f"cannot read standard input: {self._error.strerror}")
            if self._ended:
                raise StopAsyncIteration
            self._wanted = Deferred(lambda _: self._reactor.removeReader(self))
            self._reactor.addReader(self)
            await self._wanted
        line = self._lines.popleft()
        self.taken_bytes += 1 + (line.size if isinstance(line, LineTooLong) else len(line))
        return line

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> None:
        try:
            # A single read after the reactor has seen input does not block.
            data = os.read(self._descriptor, _READ_BYTES)
        except OSError as error:
            self._error = error
            data = b""
        self._take(data)
        if self._lines or self._ended:
            self._reactor.removeReader(self)
            self._tell()

    def connectionLost(self, reason: Failure) -> None:
        """Take the end of the input: the writers of the pipe are gone, and it is empty."""
        self._take(b"")
        self._tell()

    def _tell(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            if self._pieces_bytes:
                self._end_line()
            return
        first, *others = data.split(b"\n")
        self._keep(first)
        for other in others:
            self._end_line()
            self._keep(other)

    def _keep(self, piece: bytes) -> None:
        self._pieces_bytes += len(piece)
        if self._pieces_bytes <= self._max_line_bytes:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _end_line(self) -> None:
        size, self._pieces_bytes = self._pieces_bytes, 0
        if size > self._max_line_bytes:
            self._lines.append(LineTooLong(size, self._max_line_bytes))
            return
        pieces, self._pieces = self._pieces, []
        self._lines.append(b"".join(pieces))


@implementer(IWriteDescriptor)
class Output:
    """
    A file that is written as fast as its reader reads.

    The data of one reactor turn is written together, at the end of the turn.

    Args:
        reactor: Reports when there is room.
        descriptor: The file; a pipe, a terminal or a regular file.
        closed: Called once when writing has failed.

    Attributes:
        error: The reason of the failure, or None.
    """

    def __init__(self, reactor: IReactor, descriptor: int, closed: Callable[[], None]) -> None:
        self.error: GloomError | None = None
        self._reactor = reactor
        self._descriptor = descriptor
        self._closed = closed
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        # Partly written; a slow reader takes it in many turns.
        self._current = memoryview(b"")
        self._flushing = False
        self._room: Deferred[None] | None = None
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        # A pipe that is ready takes PIPE_BUF bytes without blocking; a regular file takes any amount.
        self._chunk = _PENDING_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    def write(self, data: bytes) -> None:
        """Write *data* at the end of this turn, or later if the reader is slow."""
        if self.error is not None:
            return
        self._pending.append(data)
        self._pending_bytes += len(data)
        if not self._flushing:
            self._flushing = True
            self._reactor.callLater(0, self.doWrite)

    @property
    def full(self) -> bool:
        """Whether the buffer is so full that the writer should await `drained`."""
        return self._pending_bytes > _PENDING_BYTES

    async def drained(self) -> None:
        """Wait until everything is written, or writing has failed."""
        if self._flushing:
            self._room = Deferred()
            await self._room

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "stdout"

    def doWrite(self) -> None:
        try:
            written = self._write_what_fits()
        except BrokenPipeError:
            self._fail(StdoutClosed())
        except OSError as error:
            self._fail(GloomError(f"cannot write to standard output: {error.strerror}"))
        else:
            if written:
                self._end_flush()
            else:
                self._reactor.addWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """Fail: the readers of the pipe are gone."""
        self._fail(StdoutClosed())

    def _write_what_fits(self) -> bool:
        """Write until the file is full; return whether all was written."""
        while self._pending_bytes:
            if not self._current:
                self._current = memoryview(b"".join(self._pending))
                self._pending.clear()
            if not self._poll.poll(0):
                return False
            written = os.write(self._descriptor, self._current[: self._chunk])
            self._current = self._current[written:]
            self._pending_bytes -= written
        return True

    def _end_flush(self) -> None:
        self._flushing = False
        self._reactor.removeWriter(self)
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _fail(self, error: GloomError) -> None:
        self.error = error
        self._pending.clear()
        self._pending_bytes = 0
        self._closed()
        self._end_flush()
