"""`gloom.client.deferred.link` and `gloom.client.deferred.connection`: connections that come back."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ISystemHandle
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from gloom.client.backoff import retry_delay_seconds
from gloom.client.deferred import Master, Slave
from gloom.client.deferred.connection import BrokerConnection
from gloom.client.deferred.timeouts import bounded
from gloom.client.options import ClientOptions
from gloom.client.session import Event
from gloom.errors import BodyError, ProtocolError, RequestRefused, TransportError
from gloom.server.peers import PeerFactory
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.server.service import memory_surroundings
from gloom.settings import Settings
from gloom.testing import MemoryGloom, MemoryTransport
from gloom.transport.framing import FrameProtocol
from gloom.transport.sending import FlushTurn
from gloom.wire.framereader import to_frame
from gloom.wire.messages import Hello, Ping
from tests.support.farm import Farm, Firings, Scripted
from tests.support.logged import logged


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


WELCOME = {"ok": True, "version": 1, "server": "test/1", "max_frame": 1000, "heartbeat": 0}


class Broker(FrameProtocol):
    """
    A broker that answers its n-th frame with the n-th message of a script, and then is silent.

    Attributes:
        frames: The frames that came, each with its time.
    """

    def __init__(self, clock: Clock, *script: Any) -> None:
        super().__init__(2**31, FlushTurn(clock), clock)
        self.frames: list[tuple[float, Any]] = []
        self._script = [*script]
        self.times = clock.seconds

    def stringReceived(self, string: bytes) -> None:
        self.frames.append((self.times(), json.loads(string)))
        if self._script:
            self.say(self._script.pop(0))

    def say(self, message: Any) -> None:
        self.sendString(message if isinstance(message, bytes) else json.dumps(message).encode())

    def heard(self, action: str) -> list[float]:
        return [when for when, message in self.frames if message["action"] == action]


class Ends(Protocol):
    """A server that accepts and closes at once."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]


class Writes(Protocol):
    """A server of another kind, that says *data* when it is spoken to."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(self._data)  # type: ignore[union-attr]


def served_by(farm: Farm, *script: Any) -> list[Broker]:
    """Put brokers with *script* on the master port; the list gains each that is connected to."""
    brokers = list[Broker]()

    def build() -> Broker:
        brokers.append(Broker(farm.gloom.clock, *script))
        return brokers[-1]

    farm.gloom.master_endpoint.server = Scripted(build)
    return brokers


def test_requests_that_follow_from_a_chunk_leave_at_once() -> None:
    """The next job of a master that waits for an answer does not wait for the reactor's next turn."""
    clock, transport = Clock(), StringTransport()

    def heard(connection: BrokerConnection, event: Event) -> None:
        connection.ask(Ping())

    connection = BrokerConnection(Hello(1), heard, FlushTurn(clock), clock)
    connection.makeConnection(transport)
    clock.advance(0)
    connection.dataReceived(to_frame(b'{"ok":true,"version":1,"max_frame":1000}'))
    transport.clear()
    connection.dataReceived(to_frame(b'{"id":1,"body":1}') * 2)
    assert transport.value() == to_frame(b'{"action":"ping"}') * 2
    assert not clock.getDelayedCalls()


@implementer(ISystemHandle)
class SocketTransport(StringTransport):
    """A transport over a real socket."""

    def __init__(self, handle: socket.socket) -> None:
        super().__init__()
        self.handle = handle

    def getHandle(self) -> socket.socket:
        return self.handle


def test_a_reset_before_the_first_word_is_a_reset() -> None:
    """
    A broker that dies at once resets the connection, also where only the sending of ``hello`` meets that.

    The system tells of a reset once; the transport, which reads afterwards,
    finds an end, as of a broker that does not like plain bytes.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        clock = Clock()
        connection = BrokerConnection(Hello(1), lambda *_: None, FlushTurn(clock), clock)
        connection.makeConnection(SocketTransport(near))
        clock.advance(0)
        assert near.recv(1) == b""
        connection.connectionLost(Failure(ConnectionDone()))
    failures = list[Failure]()
    connection.welcomed.addErrback(failures.append)
    assert "non-clean" in str(failures[0].value)
    assert type(failures[0].value) is TransportError


@implementer(IStreamClientEndpoint)
class Endpoint:
    """
    An endpoint of which the test says how each attempt ends.

    Args:
        clock: For the time of each attempt.
        attempt: Makes one attempt.

    Attributes:
        times: When each attempt was made.
    """

    def __init__(self, clock: Clock, attempt: Callable[[IProtocolFactory], Deferred[Any]]) -> None:
        self.times: list[float] = []
        self._clock = clock
        self.attempt = attempt

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        self.times.append(self._clock.seconds())
        return self.attempt(factory)

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def refuse(_factory: IProtocolFactory) -> Deferred[Any]:
    return fail(ConnectError(string="refused."))


def master_at(farm: Farm, endpoint: IStreamClientEndpoint, *, start: bool = True, **options: Any) -> Master:
    return farm.add(Master(endpoint, reactor=farm.gloom.clock, **options), start)


def run(farm: Farm, seconds: float, step: float = 0.01) -> None:
    """Let *seconds* pass in small steps, so that each timer runs at its time."""
    for _ in range(round(seconds / step)):
        farm.advance(step)


# Delays


def test_delays_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a tenth of a second by 1.7 to fifteen seconds, also after years of failing."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    assert [round(retry_delay_seconds(failures), 2) for failures in range(11)] == [
        *(0.1, 0.17, 0.29, 0.49, 0.84, 1.42, 2.41, 4.1, 6.98, 11.86, 15.0)
    ]
    assert retry_delay_seconds(10_000_000) == 15


def test_delays_are_jittered() -> None:
    """A farm that has lost its broker does not come back in step: each delay is half of its longest to all of it."""
    drawn = [retry_delay_seconds(100) for _ in range(1000)]
    assert 7.5 <= min(drawn) < 7.7 < 14.8 < max(drawn) <= 15
    assert len(set(drawn)) > 990


def test_a_broker_that_is_down_is_tried_with_growing_delays(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay grows with each failure and begins anew after a success."""
    monkeypatch.setattr(random, "uniform", lambda low, _high: 2 * low)
    endpoint = Endpoint(farm.gloom.clock, refuse)
    master = master_at(farm, endpoint)
    run(farm, 10)
    assert endpoint.pauses == pytest.approx([0.17, 0.289, 0.4913, 0.8352, 1.4199, 2.4138, 4.1034], abs=0.02)
    endpoint.attempt = farm.gloom.master_endpoint.connect
    farm.advance(15)
    assert master.connection is not None
    endpoint.attempt = refuse
    farm.gloom.drop_all()
    endpoint.times = [farm.gloom.clock.seconds()]
    run(farm, 1)
    assert endpoint.pauses == pytest.approx([0.1, 0.17, 0.289], abs=0.02)


def test_a_broker_that_accepts_and_closes_at_once_is_not_hammered(farm: Farm) -> None:
    """A connection alone is no success: the broker must have said hello."""
    farm.gloom.master_endpoint.server = Scripted(Ends)
    endpoint = Endpoint(farm.gloom.clock, farm.gloom.master_endpoint.connect)
    master = master_at(farm, endpoint)
    run(farm, 100, 0.1)
    assert 10 <= len(endpoint.times) <= 30
    assert endpoint.pauses[-1] > 7
    assert master.connection is None


# Brokers that are none


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 1213486160 bytes came, 65536 are allowed: is it a broker?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is it a broker?"),
        (to_frame(b"hello"), "the broker sent what is not a message"),
        (to_frame(b"[1]"), "the broker sent what is not a message"),
        (to_frame(b'{"ok":false}'), "a reply must have ok or error"),
        (to_frame(b'{"id":1}'), "an outcome must have a body or an error"),
        (to_frame(b'{"action":"job","id":1}'), "a job must have an id and a body"),
        (to_frame(b'{"error":"unsupported_version","reason":"not 1"}'), "unsupported_version -> not 1"),
    ],
)
def test_a_server_of_another_protocol_is_left_at_once(farm: Farm, data: bytes, words: str) -> None:
    """The connection is dropped at once, waiting callers get the reason, and another attempt follows."""
    farm.gloom.master_endpoint.server = Scripted(lambda: Writes(data))
    master = farm.master(start=False)
    waiting = master.when_connected(attempts=1)
    master.startService()
    with pytest.raises(TransportError) as raised:
        farm.result(waiting)
    assert words in str(raised.value)
    assert not any(one.connected for one in farm.gloom.master_endpoint.connections)
    farm.gloom.master_endpoint.server = farm.gloom.masters
    farm.advance(0.2)
    assert master.connection is not None


def test_a_broker_that_never_answers_hello_is_left_after_ten_seconds(farm: Farm) -> None:
    """It may be hung; the next attempt may find another."""
    farm.gloom.master_endpoint.server = Scripted(Protocol)
    master = farm.master()
    waiting = master.when_connected(attempts=1)
    farm.advance(9.9)
    assert not waiting.called
    farm.advance(0.1)
    with pytest.raises(TransportError, match="the broker did not answer hello within 10 s"):
        farm.result(waiting)
    assert not farm.gloom.master_endpoint.connections[0].connected


def test_a_broker_that_breaks_the_protocol_later_is_left(farm: Farm) -> None:
    """Unanswered jobs go to the next connection, and the log has an error."""
    brokers = served_by(farm, WELCOME, {"ok": True})
    master = farm.master()
    answer = master.submit("echo", 1, id=1)
    farm.advance()
    with logged("gloom.client") as events:
        brokers[0].say({"ok": True})
        farm.advance()
    assert [formatEvent(event) for event in events if event["log_level"] is LogLevel.error] == [
        f"{ClientOptions().peer_name}: cannot read a message of the broker: the broker replied to no request: True; "
        "connecting again, with growing delays"
    ]
    farm.advance(0.2)
    assert [message for _, message in brokers[1].frames[1:]] == [brokers[0].frames[1][1] | {"attach": True}]
    brokers[1].say({"id": 1, "body": "answer"})
    assert farm.result(answer) == "answer"


def test_a_broker_that_breaks_the_protocol_again_and_again_is_left_alone(farm: Farm) -> None:
    """The delays grow, the log says it once, and each job of it fails after four connections: nothing runs for ever."""
    brokers = served_by(farm, WELCOME, {"ok": True}, {"ok": True})
    master = farm.master()
    answers = Firings().of([master.submit("echo", n, id=n) for n in range(2)])
    began = list[float]()
    with logged("gloom.client") as events:
        while len(answers.answers) < 2:
            farm.advance()
            began.append(farm.gloom.clock.seconds())
            brokers[-1].say(b"nonsense")
            for _ in range(100):
                if len(brokers) == len(began):
                    farm.advance(0.01)
    assert len(began) == 4
    assert began[3] - began[2] > began[1] - began[0]
    assert len([event for event in events if event["log_level"] is LogLevel.error]) == 1
    assert {type(error) for error in answers.failures()} == {ProtocolError}
    assert "job 0: given up, because the broker sent what is not a message" in str(answers.failures()[0])


def test_an_answer_that_cannot_be_read_fails_its_job_only(farm: Farm) -> None:
    """Twenty other jobs get theirs, on the same connection, and none runs twice."""
    brokers = served_by(farm, WELCOME, *[{"ok": True}] * 21)
    master = farm.master()
    answers = Firings().of([master.submit("echo", n, id=n) for n in range(21)])
    farm.advance()
    for n in range(21):
        deep = b'{"id":10,"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        brokers[0].say(deep if n == 10 else {"id": n, "body": n})
    farm.advance()
    assert [answer for _, answer in answers.answers if isinstance(answer, int)] == [n for n in range(21) if n != 10]
    (error,) = answers.failures()
    assert isinstance(error, BodyError)
    assert error.id == 10
    assert "job 10: " in str(error)
    assert len(brokers) == 1


def test_a_job_that_cannot_be_read_is_failed_and_the_next_is_done(farm: Farm) -> None:
    """A slave answers a body that nobody can read, or a job of another shape, and keeps its connection and slot."""
    brokers = list[Broker]()

    def build() -> Broker:
        brokers.append(Broker(farm.gloom.clock, WELCOME, {"ok": True}))
        return brokers[-1]

    farm.gloom.slave_endpoint.server = Scripted(build)
    farm.slave("echo", lambda body: body)
    brokers[0].say(b'{"action":"job","id":1,"type":"echo","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    brokers[0].say({"action": "job", "id": 2, "type": 5, "body": 1})
    brokers[0].say({"action": "job", "id": 3, "type": "echo", "body": "next"})
    farm.advance()
    *_, first, second, third = (message for _, message in brokers[0].frames)
    assert [(one["action"], one["id"], one["kind"]) for one in (first, second)] == [
        ("fail", 1, "BodyError"),
        ("fail", 2, "BodyError"),
    ]
    assert third == {"action": "respond", "id": 3, "body": "next"}
    assert len(brokers) == 1


class Paused(Clock):
    """A clock like a reactor's: a call that is scheduled by another comes in a later turn, after the sockets."""

    def turn(self, seconds: float) -> None:
        """Let *seconds* pass, and make the calls that are due by then, and no others."""
        self.rightNow += seconds
        for call in [call for call in self.calls if call.getTime() <= self.rightNow]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


@pytest.mark.parametrize("answered", [True, False])
def test_after_a_pause_the_socket_is_read_before_silence_counts(answered: bool) -> None:
    """A process that stood still has the broker's signs of life in its socket: they come before the judgement."""
    clock, transport = Paused(), StringTransport()
    connection = BrokerConnection(Hello(1), lambda *_: None, FlushTurn(clock), clock)
    connection.makeConnection(transport)
    connection.dataReceived(to_frame(b'{"ok":true,"version":1,"max_frame":1000,"heartbeat":3}'))
    for _ in range(5):
        clock.turn(1)
    clock.turn(600)  # the process stood still; timers come first
    if answered:
        connection.dataReceived(to_frame(b'{"ok":true}') * 5)
    clock.turn(0.01)
    assert connection.closed is not answered


@pytest.mark.parametrize("answered", [True, False])
def test_after_a_pause_the_socket_is_read_before_hello_is_late(answered: bool) -> None:
    """So with the ten seconds for hello."""
    clock = Paused()
    welcomed = bounded(Deferred[str](), 10, clock, lambda: TransportError("late"))
    clock.turn(3600)
    if answered:
        welcomed.callback("welcome")
    clock.turn(0.01)
    if answered:
        assert MemoryGloom.result(welcomed) == "welcome"
    else:
        with pytest.raises(TransportError, match="late"):
            MemoryGloom.result(welcomed)
    assert clock.getDelayedCalls() == []


def test_a_broker_may_send_unknown_messages(farm: Farm) -> None:
    """Unknown kinds of messages, outcomes of unknown jobs, and messages for the other role are ignored."""
    slave, master = farm.slave("echo", lambda body: body), farm.master()
    for service in (slave, master):
        assert service.connection is not None
        for message in (
            b'{"action":"quiet"}',
            b'{"id":"nobody\'s","body":1}',
            b'{"id":5,"error":"job_failed"}',
            *([b'{"action":"job","id":1,"body":1}'] if service is master else []),
        ):
            service.connection.dataReceived(to_frame(message))
    assert farm.result(master.submit("echo", 1)) == 1
    assert len(farm.gloom.master_endpoint.connections) == len(farm.gloom.slave_endpoint.connections) == 1


def test_hello_has_the_name_and_the_options(farm: Farm) -> None:
    """The first frame names the version, the peer and its heartbeat."""
    brokers = served_by(farm, WELCOME)
    farm.master(name="me", heartbeat_seconds=12)
    assert brokers[0].frames == [
        (0, {"action": "hello", "version": 1, "name": "me", "heartbeat": 12.0, "accept": ["progress", "quiet"]})
    ]


# Heartbeat


def test_pings_go_out_at_a_third_of_the_heartbeat(farm: Farm) -> None:
    """As agreed with the broker, which may want it shorter."""
    brokers = served_by(farm, WELCOME | {"heartbeat": 6}, *[{"ok": True}] * 100)
    farm.master(heartbeat_seconds=30)
    run(farm, 13, 0.5)
    assert brokers[0].heard("ping") == [2, 4, 6, 8, 10, 12]
    with Farm(Settings(max_heartbeat_seconds=3)) as shorter:
        shorter.master(heartbeat_seconds=30)
        assert [call.getTime() for call in shorter.gloom.clock.getDelayedCalls()] == [1, 3]
        run(shorter, 20, 0.5)
        assert len(shorter.gloom.master_endpoint.connections) == 1


def test_a_silent_broker_is_dropped_and_tried_again(farm: Farm) -> None:
    """After twice the heartbeat without a sign of life: an error in the log, and a new connection."""
    brokers = served_by(farm, WELCOME | {"heartbeat": 30})
    farm.master()
    with logged("gloom.client") as events:
        run(farm, 59.5, 0.5)
        assert len(brokers) == 1
        run(farm, 1, 0.1)
    assert brokers[0].heard("ping") == [10, 20, 30, 40, 50]
    assert "the connection to the broker is dropped: it was silent for 60 s" in map(formatEvent, events)
    assert len(brokers) == 2


def test_any_sign_of_life_counts(farm: Farm) -> None:
    """A broker that sends anything, even half a frame, lives."""
    brokers = served_by(farm, WELCOME | {"heartbeat": 30})
    farm.master()
    piece = to_frame(b"x" * 1000)[:1]
    for _ in range(20):
        run(farm, 25, 0.5)
        brokers[0].transport.write(piece)
        piece = b"\x01"
    assert len(brokers) == 1


@pytest.mark.parametrize("agreed", [0, 0.0, -5])
def test_a_broker_that_agrees_on_no_heartbeat_gets_no_pings(farm: Farm, agreed: float) -> None:
    """Nothing is scheduled, and silence is no reason to end the connection."""
    brokers = served_by(farm, WELCOME | {"heartbeat": agreed})
    farm.master()
    assert farm.gloom.clock.getDelayedCalls() == []
    farm.advance(100_000)
    assert [message["action"] for _, message in brokers[0].frames] == ["hello"]


def test_no_heartbeat_may_be_asked_for(farm: Farm) -> None:
    """heartbeat_seconds=0 leaves both ends without one."""
    farm.master(heartbeat_seconds=0)
    assert farm.gloom.clock.getDelayedCalls() == []


def test_a_broker_that_names_no_limit_gets_large_jobs(farm: Farm) -> None:
    """max_frame absent means the protocol's own."""
    brokers = served_by(farm, {"ok": True})
    master = farm.master()
    Firings().of([master.submit("length", "x" * 100_000)])
    farm.advance()
    assert len(brokers[0].heard("submit")) == 1


def test_the_refusal_of_an_old_broker_reaches_the_caller(farm: Farm) -> None:
    """A broker of 2009 refuses the hello; its reason reaches waiting callers."""
    served_by(farm, {"error": "unknown_action", "reason": "hello"})
    master = farm.master(start=False)
    waiting = master.when_connected(attempts=1)
    master.startService()
    with pytest.raises(TransportError, match="unknown_action -> hello"):
        farm.result(waiting)


# when_connected


def test_when_connected_fires_with_the_connection(farm: Farm) -> None:
    """Whether it is asked before the start, while connecting, or when connected; each gets a Deferred of its own."""
    master = farm.master(start=False)
    waiting = [master.when_connected(), master.when_connected()]
    assert not any(one.called for one in waiting)
    master.startService()
    waiting.append(master.when_connected())
    for one in waiting:
        assert farm.result(one) is None
    assert farm.gloom.result(master.when_connected()) is None


def test_when_connected_gives_up_after_so_many_attempts(farm: Farm) -> None:
    """Counted from the call; a caller without a limit waits on."""
    endpoint = Endpoint(farm.gloom.clock, refuse)
    master = master_at(farm, endpoint)
    for_ever = master.when_connected()
    run(farm, 1, 0.05)
    failed = len(endpoint.times)
    waiting = master.when_connected(attempts=2)
    while not waiting.called:
        farm.advance(0.05)
    assert len(endpoint.times) == failed + 2
    with pytest.raises(TransportError, match="refused"):
        farm.result(waiting)
    endpoint.attempt = farm.gloom.master_endpoint.connect
    farm.advance(15)
    assert farm.result(for_ever) is None


def test_when_connected_of_a_stopped_service_fails(farm: Farm) -> None:
    """A waiting caller gets the error when the service is stopped, and a later one at once."""
    master = master_at(farm, Endpoint(farm.gloom.clock, refuse))
    waiting = [master.when_connected(), master.when_connected(attempts=1)]
    farm.stop(master, 0)
    for one in (*waiting, master.when_connected()):
        with pytest.raises(TransportError, match="the service was stopped"):
            farm.result(one)
    master.startService()
    unstarted = farm.master(start=False)
    early = unstarted.when_connected()
    farm.stop(unstarted, 0)
    with pytest.raises(TransportError, match="the service was stopped"):
        farm.result(early)


def test_when_connected_may_be_given_up(farm: Farm) -> None:
    """Cancelling one wait, as addTimeout does, leaves the service and the others alone."""
    master = farm.master(start=False)
    cancelled, kept = master.when_connected(), master.when_connected()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        farm.result(cancelled)
    master.startService()
    assert farm.result(kept) is None


@pytest.mark.parametrize("how", ["connected", "failed", "stopped"])
def test_the_callbacks_of_a_wait_may_give_up_another(farm: Farm, how: str) -> None:
    """One waiter may cancel others in its callback, and each fires once."""
    master = master_at(farm, Endpoint(farm.gloom.clock, refuse), start=False)
    if how == "connected":
        master = farm.master(start=False)
    waiting = [master.when_connected(attempts=1) for _ in range(3)]
    firings = Firings().of(waiting)
    waiting[0].addBoth(lambda _: waiting[2].cancel())
    if how == "stopped":
        farm.stop(master, 0)
    else:
        master.startService()
    farm.advance()
    assert [index for index, _ in firings.answers] == [0, 2, 1]
    assert dict(firings.answers)[2].type is CancelledError


# Stopping in every state


def pending(_factory: IProtocolFactory) -> Deferred[Any]:
    return Deferred()


@pytest.mark.parametrize("state", ["new", "connecting", "waiting for hello", "pausing", "connected"])
def test_a_service_stops_at_once_in_every_state(farm: Farm, state: str) -> None:
    """And leaves no timer, no connection and no line in the log that speaks of a failure."""
    clock = farm.gloom.clock
    if state == "waiting for hello":
        farm.gloom.master_endpoint.server = Scripted(Protocol)
    attempts = {"connecting": pending, "pausing": refuse}
    endpoint = Endpoint(clock, attempts.get(state, farm.gloom.master_endpoint.connect))
    master = master_at(farm, endpoint, start=state != "new")
    waiting = master.when_connected() if state != "connected" else None
    with logged("gloom.client") as events:
        stopped = master.stopService()
        farm.result(stopped)
    assert events == []
    if waiting is not None:
        with pytest.raises(TransportError, match="stopped"):
            farm.result(waiting)
    assert not any(one.connected for one in farm.gloom.master_endpoint.connections)
    assert clock.getDelayedCalls() == []
    farm.advance(100)
    assert len(endpoint.times) == (state != "new")


@pytest.mark.parametrize("state", ["new", "connecting", "waiting for hello", "pausing", "connected"])
def test_a_service_starts_again_from_every_state(farm: Farm, state: str) -> None:
    """Also without waiting until it has stopped; it has one connection then."""
    if state == "waiting for hello":
        farm.gloom.master_endpoint.server = Scripted(Protocol)
    attempts = {"connecting": pending, "pausing": refuse}
    endpoint = Endpoint(farm.gloom.clock, attempts.get(state, farm.gloom.master_endpoint.connect))
    master = master_at(farm, endpoint, start=state != "new")
    farm.gloom.master_endpoint.server = farm.gloom.masters
    endpoint.attempt = farm.gloom.master_endpoint.connect
    first = master.stopService()
    master.startService()
    second = master.stopService()
    master.startService()
    connected = master.when_connected()
    # A connection that is closing does not count.
    assert not connected.called or state == "new"
    for one in (first, second, connected):
        farm.result(one)
    run(farm, 100, 5)
    assert [one.connected for one in farm.gloom.master_endpoint.connections].count(True) == 1


def test_requests_between_two_stops_fail(farm: Farm) -> None:
    """Also when its first stop is not complete yet: nobody waits for a connection that will not come."""
    master = master_at(farm, farm.gloom.master_endpoint)
    farm.advance()
    first = master.stopService()
    master.startService()
    asked = [master.submit("t", 1), master.when_connected()]
    second = master.stopService()
    for one in asked:
        with pytest.raises(TransportError, match="stopped"):
            farm.result(one)
    for one in (first, second):
        farm.result(one)


def test_a_second_start_is_the_same_start(farm: Farm) -> None:
    """One service has one connection."""
    master = farm.master()
    master.startService()
    farm.advance()
    assert len(farm.gloom.master_endpoint.connections) == 1


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_failed_wait_may_stop_the_service(farm: Farm, attempts: int) -> None:
    """Giving up in the errback, even while it is being started, stops it for good."""
    endpoint = Endpoint(farm.gloom.clock, refuse)
    master = master_at(farm, endpoint, start=False)
    stopped = list[Deferred[None]]()
    master.when_connected(attempts).addErrback(lambda _: stopped.append(master.stopService()))
    master.startService()
    run(farm, 5, 0.1)
    farm.result(stopped[0])
    assert len(endpoint.times) == attempts
    assert farm.gloom.clock.getDelayedCalls() == []


def test_a_fulfilled_wait_may_stop_the_service(farm: Farm) -> None:
    """Stopping in the callback closes the new connection, and nothing comes after it."""
    master = farm.master(start=False)
    stopped = list[Deferred[None]]()
    master.when_connected().addCallback(lambda _: stopped.append(master.stopService()))
    master.startService()
    farm.advance()
    farm.result(stopped[0])
    farm.advance(100)
    assert [one.connected for one in farm.gloom.master_endpoint.connections] == [False]


def test_a_stop_gives_up_waiting_without_stopping_less(farm: Farm) -> None:
    """A time limit on the stop's Deferred does not keep the service from being stopped."""
    slave = farm.slave("work", lambda _body: Deferred())
    answer = farm.master().submit("work", 1)
    farm.advance()
    slave.stopService().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    farm.advance(31)
    assert not any(one.connected for one in farm.gloom.slave_endpoint.connections)
    farm.raw_slave("work").ask({"action": "respond", "body": 1})
    assert farm.result(answer) == 1


# Endpoints of every kind


def test_any_exception_of_an_endpoint_is_a_failed_attempt(farm: Farm) -> None:
    """Raised or in its Deferred, and even a CancelledError of its own: the next attempt is made."""

    def raises(_factory: IProtocolFactory) -> Deferred[Any]:
        raise OSError("out of descriptors")

    def cancels(_factory: IProtocolFactory) -> Deferred[Any]:
        return fail(CancelledError())

    endpoint = Endpoint(farm.gloom.clock, raises)
    master = master_at(farm, endpoint)
    for attempt in (cancels, farm.gloom.master_endpoint.connect):
        endpoint.attempt = attempt
        farm.advance(15)
    assert master.connection is not None


def test_an_endpoint_with_an_error_of_its_own_for_a_cancel_stops_too(farm: Farm) -> None:
    """Twisted's own end with an error of their own when a connection attempt is cancelled."""

    def attempt(_factory: IProtocolFactory) -> Deferred[Any]:
        return Deferred(lambda deferred: deferred.errback(ConnectError(string="cancelled")))

    master = master_at(farm, Endpoint(farm.gloom.clock, attempt))
    with logged("gloom.client") as events:
        farm.result(master.stopService())
    assert events == []


# The log


def test_a_series_of_failures_is_two_lines(farm: Farm) -> None:
    """A farm without a broker does not fill its disks: one line when it goes, one when it is back."""
    master = farm.master(name="me")
    with logged("gloom.client") as events:
        farm.gloom.master_endpoint.refusing = True
        farm.gloom.drop_all()
        run(farm, 60, 0.1)
        farm.gloom.master_endpoint.refusing = False
        run(farm, 16, 0.1)
    assert master.connection is not None
    assert [(event["log_level"].name, formatEvent(event)) for event in events] == [
        ("warn", f"me: the connection to the broker ended: {str(ConnectionAborted()).rstrip('.')}"),
        ("warn", "me: no broker: An error occurred while connecting: the broker is down; retrying"),
        ("info", "me: connected"),
    ]


# Real sockets


class Listening:
    """A broker on sockets in this process; ``async with`` it."""

    def __init__(self, *addresses: str) -> None:
        clock: Any = reactor
        self._around = memory_surroundings(Settings(), clock)
        self.masters = PeerFactory(MasterProtocol, self._around)
        self.slaves = PeerFactory(SlaveProtocol, self._around)
        self._ports: list[Any] = []

    async def __aenter__(self) -> Listening:
        for factory in (self.masters, self.slaves):
            self._ports.append(await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory))
        self.master_address, self.slave_address = (f"127.0.0.1:{port.getHost().port}" for port in self._ports)
        return self

    async def __aexit__(self, *_: object) -> None:
        for port in self._ports:
            await port.stopListening()
        for factory in (self.masters, self.slaves):
            await factory.close()
        self._around.stop()


async def test_a_job_goes_over_sockets() -> None:
    """By addresses as a person writes them, with the reactor's own time; and again after a restart of both ends."""
    async with Listening() as broker:
        slave = Slave(broker.slave_address, "double", lambda n: 2 * n, reactor=reactor)
        master = Master(broker.master_address, reactor=reactor)
        for n in range(2):
            slave.startService()
            master.startService()
            await master.when_connected(attempts=1)
            assert await master.submit("double", n) == 2 * n
            for transport in [peer.transport for peer in broker.masters.peers | broker.slaves.peers]:
                transport.abortConnection()
            assert await master.submit("double", "x") == "xx"
            await slave.stopService()
            await master.stopService()


async def test_a_large_answer_goes_over_sockets() -> None:
    """More than a socket's buffer, in both directions at once, many times."""
    async with Listening() as broker:
        slave = Slave(broker.slave_address, "echo", lambda body: body, reactor=reactor)
        master = Master(broker.master_address, reactor=reactor)
        slave.startService()
        master.startService()
        for answer in [master.submit("echo", "x" * 3_000_000) for _ in range(10)]:
            assert len(await answer) == 3_000_000
        await slave.stopService()
        await master.stopService()


async def test_no_event_comes_after_a_broker_broke_the_protocol() -> None:
    """Frames after an invalid one in the same chunk may mean anything, and are dropped."""
    brokers = list[Broker]()
    clock: Any = reactor

    def build() -> Broker:
        brokers.append(Broker(clock, WELCOME))
        return brokers[-1]

    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Scripted(build))
    master = Master(f"127.0.0.1:{port.getHost().port}", reactor=reactor)
    master.startService()
    await master.when_connected()
    answer = master.submit("echo", 1, id=1)
    brokers[0].say({"ok": True})
    brokers[0].say(b"nonsense")
    brokers[0].say({"id": 1, "body": "not this"})
    with logged("gloom.client"):
        while len(brokers) < 2 or not brokers[1].heard("submit"):
            await master.when_connected()
            await _turn()
    brokers[1].say({"ok": True})
    brokers[1].say({"id": 1, "body": "this"})
    assert await answer == "this"
    await master.stopService()
    await port.stopListening()
    for broker in brokers:
        broker.transport.abortConnection()
    await _turn()


def _turn() -> Deferred[None]:
    clock: Any = reactor
    return deferLater(clock, 0.001)


async def test_a_connection_attempt_that_hangs_is_given_up_by_a_stop() -> None:
    """A host that does not answer the first packet does not hold the stop."""
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            # Fills the backlog, so that the next attempt waits.
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        master = Master(f"127.0.0.1:{deaf.getsockname()[1]}", reactor=reactor)
        master.startService()
        waiting = master.when_connected()
        await _turn()
        await master.stopService()
        with pytest.raises(TransportError):
            await waiting
        # Twisted looks after an attempt that was cancelled early in its next turn.
        await _turn()


async def test_the_error_names_an_address_without_a_broker(tmp_path: Path) -> None:
    """A refused connection and a missing socket are failures with words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"unix:{tmp_path}/none"):
        master = Master(address, reactor=reactor)
        master.startService()
        with pytest.raises(TransportError, match=r"refused|No such file"):
            await master.when_connected(attempts=1)
        await master.stopService()


# The wire, seen from the client


def test_requests_of_one_turn_leave_in_one_piece(farm: Farm) -> None:
    """A hundred submissions of one turn are one write."""
    master = farm.master()
    writes = list[int]()
    transport = farm.gloom.master_endpoint.connections[-1]
    write = transport.write

    def count(data: bytes) -> None:
        writes.append(len(data))
        write(data)

    transport.write = count  # type: ignore[method-assign]
    firings = Firings().of([master.submit("echo", n) for n in range(100)])
    farm.advance()
    assert len(writes) == 1
    farm.slave("echo", lambda body: body)
    assert len(firings.answers) == 100
    assert isinstance(transport, MemoryTransport)


def test_a_refusal_is_typed(farm: Farm) -> None:
    """A caller catches RequestRefused, for a refusal of the client as for one of the broker."""
    with pytest.raises(RequestRefused):
        farm.result(farm.master().submit("nobody", 1, require_slave=True))
