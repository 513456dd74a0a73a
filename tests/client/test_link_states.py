"""The states of `gloom.client.deferred.link.BrokerLink`: the table, and any sequence of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from gloom.client.deferred import Master
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.link import TRANSITIONS, Input, State
from gloom.errors import TransportError
from gloom.testing import MemoryGloom

STOPS = {State.STOPPING, State.RESTARTING}


@implementer(IStreamClientEndpoint)
class Door:
    """
    The broker's master port, with a way to connect that a test sets.

    Attributes:
        way: Called with the factory for each attempt.
        attempts: The Deferreds of all attempts.
        connections: All connections that were made.
    """

    def __init__(self, gloom: MemoryGloom) -> None:
        self.gloom = gloom
        self.way: Callable[[IProtocolFactory], Deferred[Any]] = gloom.master_endpoint.connect
        self.attempts: list[Deferred[Any]] = []
        self.connections: list[BrokerConnection] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        attempt = self.way(factory)
        self.attempts.append(attempt)
        return attempt.addCallback(self._connected)

    def _connected(self, connection: BrokerConnection) -> BrokerConnection:
        self.connections.append(connection)
        return connection

    def hang(self, _factory: IProtocolFactory) -> Deferred[Any]:
        return Deferred()

    def refuse(self, _factory: IProtocolFactory) -> Deferred[Any]:
        return fail(ConnectError())

    def connect_even_if_cancelled(self, factory: IProtocolFactory) -> Deferred[Any]:
        def connect(attempt: Deferred[Any]) -> None:
            self.gloom.master_endpoint.connect(factory).addCallback(attempt.callback)

        return Deferred(connect)

    @property
    def open(self) -> int:
        """The number of connections that have not ended."""
        return sum(not connection.ended.called for connection in self.connections)


def state_of(master: Master) -> State:
    return master._state


# The table


def test_each_state_may_be_started_and_stopped() -> None:
    """A user may start and stop a service at any time."""
    assert TRANSITIONS.keys() == set(State)
    for state, inputs in TRANSITIONS.items():
        assert {Input.START, Input.STOP} <= inputs.keys(), state


def test_a_stop_leads_to_the_end_unless_it_is_started_again() -> None:
    """Behind STOP there are only stopping states, until nothing is left or the service was started again."""
    for state, inputs in TRANSITIONS.items():
        assert inputs[Input.STOP] is State.STOPPING, state
    assert set(TRANSITIONS[State.STOPPING].values()) == {*STOPS, State.STOPPED}
    assert set(TRANSITIONS[State.RESTARTING].values()) == {*STOPS, State.CONNECTING}


def test_a_stopped_service_waits_for_nothing() -> None:
    """Without an attempt, a connection and a pause, only the user's inputs are left."""
    for state in (State.NEW, State.STOPPED):
        assert TRANSITIONS[state].keys() == {Input.START, Input.STOP}


# Any sequence


class Life(RuleBasedStateMachine):
    """Inputs of a user, of a broker and of the network, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.gloom = MemoryGloom()
        self.door = Door(self.gloom)
        self.master = Master(self.door, reactor=self.gloom.clock)
        self.stops: list[Deferred[None]] = []
        self.waits: list[Deferred[None]] = []
        self.answers: list[Deferred[Any]] = []

    @rule()
    def start(self) -> None:
        self.master.startService()

    @rule()
    def stop(self) -> None:
        self.stops.append(self.master.stopService())

    @rule(attempts=st.none() | st.integers(1, 3), stops=st.booleans())
    def wait(self, attempts: int | None, stops: bool) -> None:
        """Wait for a connection; the callback may stop the service."""
        waiting = self.master.when_connected(attempts)
        if stops:
            waiting.addBoth(lambda _: self.stop())
        else:
            waiting.addErrback(lambda failure: failure.trap(TransportError) and None)
        self.waits.append(waiting)

    @rule()
    def submit(self) -> None:
        self.answers.append(self.master.submit("none", 1).addErrback(lambda failure: failure.trap(TransportError)))

    @rule(way=st.sampled_from(["up", "hang", "refuse", "connect_even_if_cancelled"]))
    def set_way(self, way: str) -> None:
        self.door.way = self.gloom.master_endpoint.connect if way == "up" else getattr(self.door, way)

    @rule()
    def drop(self) -> None:
        self.gloom.drop_all()

    @rule()
    def carry(self) -> None:
        self.gloom.advance()

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0]))
    def advance(self, seconds: float) -> None:
        self.gloom.advance(seconds)

    @invariant()
    def there_is_a_connection_exactly_when_connected(self) -> None:
        assert (self.master.connection is not None) == (state_of(self.master) is State.CONNECTED)

    @invariant()
    def there_is_one_connection_at_most(self) -> None:
        # One that was aborted ends in the next turn.
        assert sum(not one.closed for one in self.door.connections) <= 1

    @invariant()
    def nothing_is_left_of_a_stopped_service(self) -> None:
        if state_of(self.master) is State.STOPPED:
            assert all(stop.called for stop in self.stops)
            assert not self.master.unanswered
            assert not any(not one.closed for one in self.door.connections)

    @invariant()
    def it_stops_for_no_reason_but_a_stop(self) -> None:
        if state_of(self.master) in STOPS:
            assert any(not stop.called for stop in self.stops)

    def teardown(self) -> None:
        self.stop()
        self.gloom.advance(40)

        assert state_of(self.master) is State.STOPPED
        assert all(one.called for one in (*self.stops, *self.waits, *self.answers))
        assert self.door.open == 0
        assert self.gloom.clock.getDelayedCalls() == []


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_any_sequence_of_inputs_keeps_the_invariants() -> None:
    """One connection at most, and nothing left after a stop, for any order of events."""
    Life.TestCase().runTest()


# Two orders that need an endpoint of their own


@pytest.fixture
def gloom() -> MemoryGloom:
    return MemoryGloom()


def test_a_connection_that_a_cancel_came_too_late_for_is_closed(gloom: MemoryGloom) -> None:
    """A stop during an attempt leaves no connection, also if the endpoint connects all the same."""
    door = Door(gloom)
    door.way = door.connect_even_if_cancelled
    master = Master(door, reactor=gloom.clock)
    master.startService()

    stopped = master.stopService()
    gloom.advance(1)

    gloom.result(stopped)
    assert len(door.connections) == 1
    assert door.open == 0


def test_an_endpoint_may_stop_the_service_while_it_connects(gloom: MemoryGloom) -> None:
    """The attempt that it then returns is cancelled."""
    door = Door(gloom)
    master = Master(door, reactor=gloom.clock)
    stops: list[Deferred[None]] = []

    def stop_and_hang(factory: IProtocolFactory) -> Deferred[Any]:
        stops.append(master.stopService())
        return door.hang(factory)

    door.way = stop_and_hang
    master.startService()

    gloom.result(stops[0])
    assert door.attempts[0].called
