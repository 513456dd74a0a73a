"""
Reading many sockets in one event of the reactor.

Twisted wraps each event of each socket in a logging context, looks the
descriptor up, and asks for its interfaces: more than the read itself. Here
one descriptor, an epoll of our own inside the reactor's, stands for all
connections of the broker; its event reads all that are ready, and then sends
all that this made the broker say (docs/decisions/0011-one-event-for-all-sockets.md).
When that takes long, it ends, and `gloom.transport.turns` orders the reads from then
on. A worker has its children's pipes read so, too.

Only public interfaces of Twisted are used: a connection's transport is paused,
so that the reactor does not read it, and resumed when there is anything but
data (its end, an error), which is the transport's business.
"""

from __future__ import annotations

import select
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from gloom.transport.clock import monotonic
from gloom.transport.sending import FlushTurn
from gloom.transport.turns import STEP_SECONDS, TURN_SECONDS, Turns

# A peer that never stops sending is read this often before the reactor looks at everything else again.
_MOST_LOOKS = 8
# Answers that wait for more answers wait for at most so many reads, about half a millisecond.
_MOST_READS = 48
# The time is looked at after so many reads.
_READS_A_LOOK_AT_TIME = 8


class SocketReader(Protocol):
    """A connection whose socket the poll reads."""

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
        answers: As flushes, but a connection that can wait may wait there for some more rounds.
        turns: Orders the connections when there is more than can be done at once; its own if absent.
    """

    log = Logger()

    def __init__(
        self, reactor: IReactorFDSet, flushes: FlushTurn, answers: FlushTurn, turns: Turns | None = None
    ) -> None:
        self._reactor = reactor
        self._flushes = flushes
        self._answers = answers
        self._turns = Turns(monotonic(reactor)) if turns is None else turns
        self._turns.look = self._look_for_turns
        self._turns.is_unread = self._is_unread
        self._turns.run_turn = self.doRead
        self._readers: dict[int, SocketReader] = {}
        # Those that are ready, wait for their turn, and are not to be told of again.
        self._muted: set[int] = set()
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
        reader = self._readers.pop(descriptor, None)
        if reader is not None:
            self._muted.discard(descriptor)
            self._turns.settle(reader)
            # One that is closed is out of the epoll by itself.
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def stop(self) -> None:
        """Leave the reactor; every connection has been removed."""
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None
        self._turns.stop()

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
                self._turn()
        except Exception:
            self.log.failure("a bug in gloom: sending failed")

    def _turn(self) -> None:
        turns = self._turns
        ends = turns.seconds() + TURN_SECONDS
        if turns.is_strained or not self._look_quickly(turns):
            self._share(turns, ends)
            if turns.is_waiting:
                turns.wake()

    # While nothing takes long

    def _look_quickly(self, turns: Turns) -> bool:
        """Read all that is ready, and all that is ready then; return whether that was no trouble."""
        reads = 0
        for _ in range(_MOST_LOOKS):
            ready = self._epoll.poll(0)
            if not ready:
                return True
            try:
                with self._flushes:
                    is_done = self._read(ready, turns)
                reads += len(ready)
                if reads < _MOST_READS:
                    self._answers.flush_urgent()
                else:
                    self._answers.flush()
                    reads = 0
            except Exception:
                self.log.failure("a bug in gloom: sending failed")
                continue
            if not is_done:
                return False
        return True

    def _read(self, ready: list[tuple[int, int]], turns: Turns) -> bool:
        """Read each of *ready* once, unless that takes long; return whether it did not."""
        readers, seconds = self._readers, turns.seconds
        ends = seconds() + STEP_SECONDS
        for first in range(0, len(ready), _READS_A_LOOK_AT_TIME):
            for descriptor, _event in ready[first : first + _READS_A_LOOK_AT_TIME]:
                # One that was read before in this round may have had it removed.
                reader = readers.get(descriptor)
                if reader is not None:
                    try:
                        reader.read_socket()
                    except Exception:
                        self.log.failure("a bug in gloom; the connection is closed")
                        reader.abort()
            if seconds() >= ends:
                return False
        return not turns.is_waiting

    # By turns

    def _share(self, turns: Turns, ends: float) -> None:
        """Serve in fair order until *ends*, or until there is nothing to do."""
        turns.begin()
        while turns.prepare():
            try:
                with self._flushes:
                    turns.serve(ends)
                self._answers.flush()
            except Exception:
                self.log.failure("a bug in gloom: sending failed")
            if turns.is_resting or turns.seconds() >= ends:
                return

    def _is_unread(self) -> bool:
        return self._epoll is not None and bool(self._epoll.poll(0, 1))

    def _look_for_turns(self, turns: Turns) -> None:
        """Have each ready connection wait for its turn; the epoll does not report it meanwhile."""
        if self._epoll is None:
            return
        for descriptor, _event in self._epoll.poll(0):
            reader = self._readers.get(descriptor)
            if reader is None or descriptor in self._muted:
                continue
            is_new = getattr(reader, "is_new", False)
            if not turns.add(reader, partial(self._read_by_turn, descriptor, reader), is_new=is_new):
                self._muted.add(descriptor)
                self._epoll.modify(descriptor, 0)
                turns.when_served(reader, partial(self._unmute, descriptor))

    def _unmute(self, descriptor: int) -> None:
        if descriptor in self._muted:
            self._muted.discard(descriptor)
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _read_by_turn(self, descriptor: int, reader: SocketReader) -> None:
        # It may have been removed, or closed and followed by another, while it waited.
        if self._readers.get(descriptor) is not reader:
            return
        try:
            reader.read_socket()
        except Exception:
            self.log.failure("a bug in gloom; the connection is closed")
            reader.abort()
