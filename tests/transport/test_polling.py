"""The poller, which reads many sockets per reactor event: real sockets, and a reactor turned by hand."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from zope.interface import directlyProvides

from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.transport.turns import Turns


class HandReactor:
    """Keeps its readers, and reads on demand."""

    def __init__(self) -> None:
        directlyProvides(self, IReactorFDSet)
        self.readers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard

    def turn(self) -> bool:
        """Read as a reactor would; return whether any socket was readable."""
        ready = select.select(list(self.readers), [], [], 0)[0]
        for reader in ready:
            reader.doRead()
        return bool(ready)


class End:
    """One end of a connection that the poller reads."""

    def __init__(self, poll: SocketPoll) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.said: list[bytes] = []
        self.is_aborted = False
        self.then: Callable[[], None] = lambda: None
        poll.add(self.near.fileno(), self)

    def read_socket(self) -> None:
        self.said.append(self.near.recv(100))
        self.then()

    def abort(self) -> None:
        self.is_aborted = True


class Surroundings:
    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = HandReactor()
        self.flushes = FlushTurn(self.clock)
        reactor: Any = self.reactor
        self.answers = FlushTurn(self.clock)
        self.turns = Turns(self.clock)
        self.poll = SocketPoll(reactor, self.flushes, self.answers, self.turns)
        self.ends: list[End] = []

    def end(self) -> End:
        self.ends.append(End(self.poll))
        return self.ends[-1]


@pytest.fixture
def around() -> Iterator[Surroundings]:
    around = Surroundings()
    yield around
    around.poll.stop()
    for end in around.ends:
        end.near.close()
        end.far.close()


def test_all_that_is_ready_is_read_in_one_event(around: Surroundings) -> None:
    """The reactor has one reader for all connections, and a poll does not touch idle ones."""
    first, idle, last = (around.end() for _ in range(3))
    first.far.send(b"1")
    last.far.send(b"3")
    assert len(around.reactor.readers) == 1
    assert around.reactor.turn()
    assert (first.said, idle.said, last.said) == ([b"1"], [], [b"3"])
    assert not around.reactor.turn()


def test_what_is_said_meanwhile_is_flushed_at_once(around: Surroundings) -> None:
    """The answers of one poll leave at its end, without a reactor timer."""
    flushed: list[list[bytes]] = []
    end = around.end()

    class Sender:
        def flush(self) -> None:
            flushed.append(list(end.said))

    sender: Any = Sender()
    end.then = lambda: around.flushes.add(sender)
    end.far.send(b"1")
    around.reactor.turn()
    assert flushed == [[b"1"]]
    assert around.clock.getDelayedCalls() == []


class Held:
    """Has bytes to send after each read of *ends*; records the number of reads at each flush."""

    def __init__(self, around: Surroundings, ends: list[End], looks: int, can_wait: bool) -> None:
        self.flushed: list[int] = []
        self.can_wait = lambda: can_wait
        self._ends, self._looks, self._around = ends, looks, around
        self._is_added = False
        for end in ends:
            end.then = lambda end=end: self._heard(end)  # type: ignore[misc]
            end.far.send(b"x")
        around.reactor.turn()

    def _heard(self, end: End) -> None:
        if not self._is_added:
            self._is_added = True
            self._around.answers.add(self)  # type: ignore[arg-type]
        if len(end.said) < self._looks:
            end.far.send(b"x")

    def flush(self) -> None:
        self._is_added = False
        self.flushed.append(sum(len(end.said) for end in self._ends))


def test_what_can_wait_is_flushed_when_nothing_more_is_to_be_read(around: Surroundings) -> None:
    """Answers that may wait are flushed together, once no socket is readable."""
    assert Held(around, [around.end(), around.end()], looks=3, can_wait=True).flushed == [6]
    assert around.clock.getDelayedCalls() == []


def test_what_cannot_wait_is_flushed_after_each_look(around: Surroundings) -> None:
    """Answers that may not wait are flushed after each poll: a master that waits for one answer has it at once."""
    assert Held(around, [around.end(), around.end()], looks=3, can_wait=False).flushed == [2, 4, 6]


def test_what_can_wait_waits_for_a_moment_only(around: Surroundings) -> None:
    """However busy the other connections are, an answer leaves after some dozens of reads."""
    flushed = Held(around, [around.end() for _ in range(20)], looks=5, can_wait=True).flushed
    assert flushed == [60, 100]


def test_one_that_was_removed_in_the_same_look_is_not_read(around: Surroundings) -> None:
    """A connection that another peer's message has ended is not read in the same poll."""
    ends = [around.end(), around.end()]

    def remove_both() -> None:
        for end in ends:
            around.poll.remove(end.near.fileno())

    for end in ends:
        end.far.send(b"x")
        end.then = remove_both
    around.reactor.turn()
    assert sorted(end.said for end in ends) == [[], [b"x"]]
    assert not around.reactor.turn()


def test_a_closed_socket_can_be_removed(around: Surroundings) -> None:
    """The poller can remove a closed socket: Twisted closes it before it tells the protocol."""
    end = around.end()
    descriptor = end.near.fileno()
    end.near.close()
    around.poll.remove(descriptor)
    around.poll.remove(descriptor)
    assert not around.reactor.turn()


def test_a_bug_in_one_connection_ends_that_one_only(around: Surroundings, logged_errors: Any) -> None:
    """An exception in one connection is logged and drops that connection; the others are read on."""

    def fail() -> None:
        raise RuntimeError("a bug")

    bad, good = around.end(), around.end()
    bad.then = fail
    bad.far.send(b"1")
    good.far.send(b"1")
    around.reactor.turn()
    good.far.send(b"2")
    around.reactor.turn()
    assert bad.is_aborted and not good.is_aborted
    assert b"".join(good.said) == b"12"
    assert len(around.reactor.readers) == 1
    assert len(logged_errors(RuntimeError)) == 1


def test_a_bug_in_sending_ends_no_reading(around: Surroundings, logged_errors: Any) -> None:
    """An exception while sending does not stop the reading of connections."""

    class Sender:
        def flush(self) -> None:
            raise RuntimeError("a bug")

    sender: Any = Sender()
    end = around.end()
    end.then = lambda: around.flushes.add(sender)
    for said in (b"1", b"2"):
        end.far.send(said)
        around.reactor.turn()
    assert end.said == [b"1", b"2"]
    assert len(logged_errors(RuntimeError)) == 2
    end.then = lambda: around.answers.add(sender)
    sender.can_wait = lambda: True
    end.far.send(b"3")
    around.reactor.turn()
    assert end.said == [b"1", b"2", b"3"]
    assert len(logged_errors(RuntimeError)) == 1


def test_a_peer_that_never_stops_keeps_nothing_else_waiting(around: Surroundings) -> None:
    """After a bounded number of polls the reactor gets its turn, however much there is to read."""
    end = around.end()

    def say_more() -> None:
        end.far.send(b"again")

    end.then = say_more
    end.far.send(b"first")
    around.reactor.turn()
    assert 1 < len(end.said) < 100
    assert around.reactor.turn()


def test_it_needs_a_reactor_with_descriptors() -> None:
    """A clock, as in tests, has no descriptors: there the transports are read as usual."""
    assert SocketPoll.is_possible(HandReactor()) == hasattr(select, "epoll")
    assert not SocketPoll.is_possible(Clock())


def test_one_that_has_stopped_is_no_reader(around: Surroundings) -> None:
    """After its last connection the poller leaves the reactor, and holds no descriptor."""
    end = around.end()
    around.poll.remove(end.near.fileno())
    around.poll.stop()
    around.poll.stop()
    assert around.reactor.readers == set()
    assert around.poll.fileno() == -1
