"""
Reading many sockets in one event of the reactor.

Twisted wraps each event of each socket in a logging context, looks the
descriptor up, and asks what it is good for: more than the read itself. Here
one descriptor, an epoll of our own inside the reactor's, stands for all
connections of the broker; its event reads all that are ready, and then sends
all that this made the broker say (docs/decisions/0011-one-event-for-all-sockets.md).
A worker has its children's pipes read so, too.

Only public interfaces of Twisted are used: a connection's transport is paused,
so that the reactor does not read it, and resumed when there is anything but
data (its end, an error), which is the transport's business.
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gloom.sending import FlushTurn

# A peer that never stops sending is read this often before the reactor looks at everything else again.
_MOST_LOOKS = 8
# What waits for more to be said waits for at most so many reads, about half a millisecond.
_MOST_READS = 48


class SocketReader(Protocol):
    """Whose socket is read."""

    def read_socket(self) -> None:
        """Read once: there is something to read, or the connection has ended."""

    def abort(self) -> None:
        """End the connection at once."""


@implementer(IReadDescriptor)
class SocketPoll:
    """
    One read event for the sockets of many connections.

    Args:
        reactor: Where it is one of the readers.
        flushes: Flushed after each round of reads.
        answers: As flushes, but what can wait may wait there for some more rounds.
    """

    log = Logger()

    def __init__(self, reactor: IReactorFDSet, flushes: FlushTurn, answers: FlushTurn) -> None:
        self._reactor = reactor
        self._flushes = flushes
        self._answers = answers
        self._readers: dict[int, SocketReader] = {}
        self._epoll: Any = None

    @staticmethod
    def is_possible(reactor: Any) -> bool:
        """Return whether this system and *reactor* can do it."""
        return hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor)

    def add(self, descriptor: int, reader: SocketReader) -> None:
        """
        Have *reader* read whenever there is something to read, or the connection has ended.

        Args:
            descriptor: Of its socket, which does not block.
            reader: Is aborted if its reading raises an exception.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            self._reactor.addReader(self)
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Have nobody read *descriptor* any more; it may be closed already."""
        if self._readers.pop(descriptor, None) is not None:
            # One that is closed is out of the epoll by itself.
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def stop(self) -> None:
        """Leave the reactor; every connection has been removed."""
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    # IReadDescriptor

    def fileno(self) -> int:
        return -1 if self._epoll is None else int(self._epoll.fileno())

    def logPrefix(self) -> str:
        return "gloom"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has ended."""

    def doRead(self) -> None:
        # Nothing may come out of here: the reactor would read none of the connections any more.
        try:
            with self._answers:
                self._look()
        except Exception:
            self.log.failure("a bug in gloom: sending failed")

    def _look(self) -> None:
        reads = 0
        for _ in range(_MOST_LOOKS):
            ready = self._epoll.poll(0)
            if not ready:
                return
            try:
                with self._flushes:
                    self._read(ready)
                reads += len(ready)
                if reads < _MOST_READS:
                    self._answers.flush_urgent()
                else:
                    self._answers.flush()
                    reads = 0
            except Exception:
                self.log.failure("a bug in gloom: sending failed")

    def _read(self, ready: list[tuple[int, int]]) -> None:
        readers = self._readers
        for descriptor, _event in ready:
            # One that was read before in this round may have had it removed.
            reader = readers.get(descriptor)
            if reader is not None:
                try:
                    reader.read_socket()
                except Exception:
                    self.log.failure("a bug in gloom; the connection is closed")
                    reader.abort()
