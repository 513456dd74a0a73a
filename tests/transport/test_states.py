"""The states of a connection: the table, its documentation, and a random test of a connection against it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gloom.transport.framing import FrameProtocol
from gloom.transport.sending import LARGE_BYTES, FlushTurn
from gloom.transport.states import INPUTS, OUTPUTS, Event, Input, Output, input_after, output_after
from gloom.wire.framereader import to_frame
from tests.transport.test_framing import SocketTransport

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


# The table


@pytest.mark.parametrize(
    ("table", "after", "first"), [(INPUTS, input_after, Input.NEW), (OUTPUTS, output_after, Output.FREE)]
)
def test_every_state_can_be_reached_and_left_for_good(table: Any, after: Any, first: Any) -> None:
    """Every state can be reached from the first, and can reach the end, which has no way out."""
    reached, new = set(), {first}
    while new:
        reached |= new
        new = {state for before in new for state in table[before].values()} - reached
    assert reached == set(table)
    ends = {after(state, Event.LOSE) for state in table}
    assert len(ends) == 1
    (end,) = ends
    assert {after(end, event) for event in Event} == {end}


def rows_of(heading: str) -> dict[str, dict[str, str]]:
    """Return the table under *heading* in docs/architecture.md: by state, the state after each event."""
    text = PAGE.read_text().split(heading)[1]
    lines = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", text.split("\n\n\n")[0], re.MULTILINE)
    return {state: dict(re.findall(r"`(\w+)` -> `(\w+)`", then)) for state, then in lines}


@pytest.mark.parametrize("table", [INPUTS, OUTPUTS], ids=["input", "output"])
def test_the_page_shows_the_table(table: Any) -> None:
    """docs/architecture.md lists each state, and each transition except those to the end, as in the code."""
    shown = rows_of("## A connection")
    ends = (Event.CLOSE, Event.LOSE)
    for state, row in table.items():
        assert shown[state.name] == {event.name: then.name for event, then in row.items() if event not in ends}
    assert set(shown) == {state.name for state in (*Input, *Output)}


# A connection


class Sink(socket.socket):
    """
    A socket that accepts as many bytes as it has room for.

    Attributes:
        room: How many bytes it takes.
        taken: The bytes that it took.
    """

    family = socket.AF_UNIX  # a unix socket takes no options of TCP

    def __init__(self) -> None:
        # Do not call the base class: it would open a socket.
        self.room = 0
        self.taken = bytearray()

    def send(self, data: Any, flags: int = 0) -> int:
        if not self.room:
            raise BlockingIOError
        sent = min(self.room, len(data))
        self.taken += data[:sent]
        self.room -= sent
        return sent

    def fileno(self) -> int:
        return -1


class Hands:
    """Turns given by the test: each slice ends at its first check of the time."""

    def __init__(self) -> None:
        self.reactor_reads = 0
        self.work: Callable[[], None] | None = None
        self._now = 0.0

    def seconds(self) -> float:
        self._now += 1.0
        return self._now

    def add(self, peer: Any, work: Callable[[], None]) -> bool:
        self.work = work
        return True

    def wake(self) -> None:
        """Do nothing: the test gives the turns."""

    def forget(self, peer: Any) -> None:
        self.work = None


class Watched(FrameProtocol):
    """
    A connection that records its states.

    A frame that begins with ``b`` pauses and resumes; one that begins with ``s``
    is answered in as many steps as its second byte says; within one that begins with
    ``r`` more arrives; one that begins with ``c`` closes.

    Attributes:
        received: The frames that were delivered.
        said: The frames sent before the close.
        steps_left: How many steps of a request are left.
        more_arrives: Has more bytes arrive.
    """

    def __init__(self, clock: Clock, turns: Any, pause_unread_bytes: int) -> None:
        self.received: list[bytes] = []
        self.said = bytearray()
        self.steps_left = 0
        self.more_arrives: Callable[[], None] = lambda: None
        super().__init__(1000, FlushTurn(clock), clock, pause_unread_bytes=pause_unread_bytes, turns=turns)

    @property
    def _receiving(self) -> Input:
        state: Input = self.__dict__["receiving"]
        return state

    @_receiving.setter
    def _receiving(self, state: Input) -> None:
        before = self.__dict__.get("receiving", Input.NEW)
        assert state is before or state in INPUTS[before].values(), (before, state)
        self.__dict__["receiving"] = state

    @property
    def _sending(self) -> Output:
        state: Output = self.__dict__["sending"]
        return state

    @_sending.setter
    def _sending(self, state: Output) -> None:
        before = self.__dict__.get("sending", Output.FREE)
        assert state is before or state in OUTPUTS[before].values(), (before, state)
        self.__dict__["sending"] = state

    def say(self, payload: bytes) -> None:
        if self._sending not in (Output.FINISHING, Output.ENDED):
            self.said += to_frame(payload)
        self.sendString(payload)

    def stringReceived(self, string: bytes) -> None:
        assert self._receiving.name == "DELIVERING"
        self.received.append(string)
        if string.startswith(b"b"):
            self.pauseProducing()
            assert self._receiving is Input.HELD
            self.resumeProducing()
        elif string.startswith(b"s"):
            self.work_off(self._steps_of(string[1]))
        elif string.startswith(b"r"):
            number = len(self.received)
            self.more_arrives()
            assert len(self.received) == number
        elif string.startswith(b"c"):
            self.close()

    def _steps_of(self, count: int) -> Generator[bool, None, None]:
        for self.steps_left in range(count, 0, -1):
            yield True
        self.steps_left = 0
        self.say(b"answered")

    def lengthLimitExceeded(self, length: int) -> None:
        self.say(b"too long")
        self.close()


FRAMES = st.sampled_from([b"", b"1", b"x" * 50, b"b", b"r", b"s\0", b"s\1", b"s\3", b"x" * 999, b"x" * 1000])
PAUSE_BYTES = 3000


class ConnectionMachine(RuleBasedStateMachine):
    """Random order of input in pieces, frames to send, reads of the peer, turns, and the end."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.turns = Clock(), Hands()
        self.connection = Watched(self.clock, self.turns, PAUSE_BYTES)
        self.sink = Sink()
        self.transport = SocketTransport(self.sink)
        self.arriving = bytearray()
        self.arrived = bytearray()
        self.connection.more_arrives = lambda: self.arrives(30)
        self.connection.makeConnection(self.transport)

    @property
    def receiving(self) -> Input:
        return self.connection._receiving

    @property
    def sending(self) -> Output:
        return self.connection._sending

    def drain(self) -> None:
        while self.transport.buffer and self.sink.room:
            self.transport.drain()

    # Actions of the peer

    @rule(payloads=st.lists(FRAMES, min_size=1, max_size=30))
    def sends(self, payloads: list[bytes]) -> None:
        self.arriving += b"".join(map(to_frame, payloads))

    @precondition(lambda self: self.arriving)
    @rule(count=st.sampled_from([1, 5, 55, 10_000]))
    def arrives(self, count: int) -> None:
        piece = bytes(self.arriving[:count])
        del self.arriving[:count]
        before, number = self.receiving, len(self.connection.received)
        self.arrived += piece
        self.connection.dataReceived(piece)
        if before not in (Input.NEW, Input.READY, Input.MIDWAY):
            assert len(self.connection.received) == number, before

    @precondition(lambda self: len(self.connection.received) > 4)
    @rule(frame=st.sampled_from([to_frame(b"c"), (2**31).to_bytes(4, "big")]))
    def sends_what_ends_the_connection(self, frame: bytes) -> None:
        self.arriving += frame

    @rule(count=st.integers(0, 5000) | st.just(LARGE_BYTES))
    def takes(self, count: int) -> None:
        self.sink.room += count
        self.drain()

    # Actions of this end

    @rule(size=st.sampled_from([0, 10, 2000, 5000]))
    def says(self, size: int) -> None:
        self.connection.say(bytes(size))

    @precondition(lambda self: len(self.connection.received) > 2)
    @rule()
    def says_much(self) -> None:
        self.connection.say(bytes(LARGE_BYTES + 1))
        over = self.sending in (Output.BLOCKED, Output.FINISHING, Output.ENDED)
        assert over or self.sending is Output.LARGE

    @rule()
    def time_passes(self) -> None:
        self.clock.advance(0)
        self.drain()

    @precondition(lambda self: self.turns.work is not None)
    @rule()
    def its_turn_comes(self) -> None:
        work, self.turns.work = self.turns.work, None
        assert work is not None
        work()
        if self.connection.waiting_bytes > PAUSE_BYTES:
            assert self.receiving not in (Input.READY, Input.MIDWAY)

    # The end

    @precondition(lambda self: len(self.connection.received) > 4)
    @rule(how=st.sampled_from(["close", "abort", "connectionLost"]))
    def ends(self, how: str) -> None:
        answered = self.connection.steps_left == 0
        if how == "connectionLost":
            self.connection.connectionLost(Failure(ConnectionError()))
            assert self.receiving is Input.LOST
        else:
            getattr(self.connection, how)()
            assert self.receiving in (Input.CLOSED, Input.LOST)
        if how != "close":
            assert self.sending is Output.ENDED
            assert self.connection.waiting_bytes == 0
        elif not answered and self.sending is not Output.ENDED:
            assert self.connection.steps_left == 0

    @precondition(lambda self: self.sending is Output.BLOCKED and not self.connection.closed)
    @rule()
    def closes_while_bytes_wait(self) -> None:
        self.connection.close()
        assert self.sending is Output.FINISHING

    # Invariants of the states

    def whole(self) -> tuple[list[bytes], bytes]:
        """Return the complete payloads, and the remaining bytes."""
        data, payloads = bytes(self.arrived), list[bytes]()
        while len(data) >= 4 and len(data) - 4 >= (length := int.from_bytes(data[:4], "big")):
            payloads.append(data[4 : 4 + length])
            data = data[4 + length :]
        return payloads, data

    @invariant()
    def what_may_be_received(self) -> None:
        payloads, rest = self.whole()
        state, received = self.receiving, self.connection.received
        assert received == payloads[: len(received)]
        assert state not in (Input.DELIVERING, Input.HELD), "within a call only"
        if state in (Input.NEW, Input.READY, Input.MIDWAY):
            assert received == payloads
            assert (state is Input.READY) == (not rest) or state is Input.NEW
        if state is Input.NEW:
            assert not received
        if state is Input.PAUSED:
            assert self.sending is Output.BLOCKED
            assert self.transport.producerState == "paused"
        if state in (Input.WAITING, Input.ANSWERING):
            assert self.turns.work is not None
            assert self.transport.producerState == "paused"
        assert (self.connection.steps_left > 0) == (state is Input.ANSWERING) or self.connection.closed
        if state in (Input.CLOSED, Input.LOST):
            assert self.connection._reader.is_empty

    @invariant()
    def what_may_be_sent(self) -> None:
        state, connection = self.sending, self.connection
        waits = self.transport.buffer + b"".join(map(bytes, connection._backlog))
        sent = bytes(self.sink.taken)
        if state is not Output.ENDED:
            assert connection.waiting_bytes == connection._given_bytes + sum(map(len, connection._backlog))
            begun = sent + waits
            assert bytes(connection.said[: len(begun)]) == begun
            assert (state in (Output.BLOCKED, Output.FINISHING)) == bool(waits)
        if state in (Output.FREE, Output.LARGE, Output.BLOCKED):
            assert begun + b"".join(connection._output) == bytes(connection.said)
        if state is Output.FINISHING:
            assert begun == bytes(connection.said)
        if state is Output.ENDED:
            assert bytes(connection.said[: len(sent)]) == sent
            if "loseConnection" in self.transport.ended:
                assert sent == bytes(connection.said)


TestConnection = ConnectionMachine.TestCase
TestConnection.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


# Cases that the machine seldom meets


def test_more_that_arrives_within_a_single_frame_comes_after_it() -> None:
    """A frame of exactly one chunk, during which another frame arrives: both are delivered in order."""
    machine = ConnectionMachine()
    machine.sends([b"1", b"r", b"2"])
    for _ in range(2):
        machine.arrives(5)
    assert machine.connection.received == [b"1", b"r", b"2"]
    machine.what_may_be_received()


def test_a_peer_that_does_not_read_is_not_read_after_the_turn_either() -> None:
    """A peer with too many unsent bytes is read neither during a request nor after it, until they are sent."""
    machine = ConnectionMachine()
    machine.sends([b"s\2", b"1"])
    machine.arrives(10_000)
    assert machine.receiving is Input.ANSWERING
    for _ in range(2):
        machine.says(5000)
        machine.time_passes()
    assert machine.receiving is Input.ANSWERING
    while machine.turns.work is not None:
        machine.its_turn_comes()
    assert (machine.receiving, machine.connection.received) == (Input.PAUSED, [b"s\2"])
    machine.takes(LARGE_BYTES)
    assert (machine.receiving, machine.connection.received) == (Input.READY, [b"s\2", b"1"])
