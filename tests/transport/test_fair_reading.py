"""Fair reading on real sockets, and on a clock that work advances: long work is cut into slices, unseen by peers."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IConsumer, IReactorFDSet, ISystemHandle
from twisted.internet.task import Clock
from zope.interface import directlyProvides, implementer

from gloom.server.peers import PeerFactory
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.server.service import memory_surroundings
from gloom.settings import Settings
from tests.support.wire import HELLO, OK, PING, join, respond, submit


class Reactor(Clock):
    """
    Turned by hand.

    Attributes:
        tick_seconds: Seconds that each reading of the clock takes: the cost of work.
    """

    def __init__(self) -> None:
        super().__init__()
        directlyProvides(self, IReactorFDSet)
        self.readers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard
        self.tick_seconds = 0.0

    def seconds(self) -> float:
        self.rightNow += self.tick_seconds
        return float(self.rightNow)


@implementer(ISystemHandle, IConsumer)
class Transport:
    """A transport over a real socket, reduced to the methods that these tests need."""

    def __init__(self, handle: socket.socket) -> None:
        self.handle = handle
        self.protocol: Any = None

    def getHandle(self) -> socket.socket:
        return self.handle

    def write(self, data: bytes) -> None:
        raise AssertionError("the socket is large enough")

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def abortConnection(self) -> None:
        self.handle.close()
        self.protocol.connectionLost()

    loseConnection = abortConnection


class Far:
    """The peer's end of a connection."""

    def __init__(self, handle: socket.socket) -> None:
        self.socket = handle
        handle.setblocking(False)
        self._data = b""

    def send(self, *messages: Any) -> None:
        payloads = (message if isinstance(message, bytes) else json.dumps(message).encode() for message in messages)
        self.socket.sendall(b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads))

    def take(self) -> list[Any]:
        """Return the received messages."""
        with suppress(BlockingIOError):
            self._data += self.socket.recv(1 << 22)
        messages = []
        while len(self._data) >= 4 and len(self._data) >= 4 + (length := struct.unpack(">I", self._data[:4])[0]):
            messages.append(json.loads(self._data[4 : 4 + length]))
            self._data = self._data[4 + length :]
        return messages


class Broker:
    """A broker, and its connections."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.around = memory_surroundings(Settings(stall_seconds=5.0), self.reactor)
        self.around.turns._is_real = True
        self.masters = PeerFactory(MasterProtocol, self.around)
        self.slaves = PeerFactory(SlaveProtocol, self.around)
        self._sockets: list[socket.socket] = []

    @property
    def unanswered(self) -> int:
        return self.around.broker.unanswered

    def _peer(self, factory: Any, *first: Any) -> Far:
        near, far = socket.socketpair()
        self._sockets += [near, far]
        for one in (near, far):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        near.setblocking(False)
        transport = Transport(near)
        transport.protocol = factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        peer = Far(far)
        for message in first:
            peer.send(message)
            self.turn()
            assert peer.take()[0]["ok"]
        return peer

    def master(self, *first: Any) -> Far:
        return self._peer(self.masters, *first)

    def slave(self, *first: Any) -> Far:
        return self._peer(self.slaves, *first)

    def turn(self) -> None:
        """Run one turn of the reactor: the sockets, then the due timers."""
        assert self.around.poll is not None
        self.around.poll.doRead()
        # Like a reactor and unlike a Clock: a call that a call schedules runs in a later turn.
        calls: list[Any] = [call for call in self.reactor.calls if call.getTime() <= self.reactor.rightNow]
        for call in calls:
            if call.active():
                self.reactor.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

    def end(self) -> None:
        for factory in (self.masters, self.slaves):
            factory.abort()
        self.around.stop()
        for one in self._sockets:
            one.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.end()


def test_requests_of_one_are_answered_in_order_with_others_in_between(broker: Broker) -> None:
    """However many requests arrive at once, another peer's ping is answered after one slice, and no request is lost."""
    heavy, light = broker.master(HELLO), broker.master(HELLO)
    broker.reactor.tick_seconds = 0.002
    heavy.send(*({"action": f"no {number}"} for number in range(1000)))
    broker.turn()
    replies, heard = heavy.take(), 0
    assert 0 < len(replies) < 500
    while len(replies) < 1000:
        light.send(PING)
        broker.turn()
        heard += len(light.take())
        replies += heavy.take()
    asked = [re.search(r"no (\d+)", reply["reason"]) for reply in replies]
    assert [int(one[1]) for one in asked if one] == list(range(1000))
    assert heard >= 5


def test_what_waits_for_its_turn_is_bounded_and_half_a_frame_is_no_stall(broker: Broker) -> None:
    """The broker does not read from a peer that waits for its turn, and counts it as neither silent nor stalled."""
    peer = broker.master(HELLO | {"heartbeat": 1.0})
    (protocol,) = broker.masters.peers
    broker.reactor.tick_seconds = 0.002
    frames = b"".join(struct.pack(">I", 17) + b'{"action":"ping"}' for _ in range(9000))
    sent = peer.socket.send(frames + b"\0")
    for _ in range(20):
        broker.turn()
        assert len(protocol._reader._data) + len(protocol._reader._kept) <= 65536 + 21
    assert protocol.waits and not broker.around.stalls._watched
    # More time passes than the heartbeat and the stall timeout allow.
    broker.reactor.advance(6.0)
    heard = len(peer.take())
    for _ in range(5000):
        broker.turn()
        heard += len(peer.take())
        if heard == sent // 21:
            break
    assert heard == sent // 21


def test_submit_many_is_worked_off_in_steps(broker: Broker) -> None:
    """
    A batch is worked off in steps, with others served in between.

    Its reply precedes its outcomes and later replies.
    """
    master, slave, light = broker.master(HELLO), broker.slave(join()), broker.master(HELLO)
    broker.reactor.tick_seconds = 0.0004
    jobs = [{"id": number, "type": "t", "body": number} if number % 3 else {} for number in range(300)]
    master.send({"action": "submit_many", "jobs": jobs}, submit("after"))
    said: list[Any] = []
    served, pings = 0, 0
    while not served:
        broker.turn()
        light.send(PING)
        pings += len(light.take())
        for message in slave.take():
            if message.get("action") == "job":
                slave.send(respond())
        said += master.take()
        served = len(said) and said[-1] == {"id": "after", "body": 2}
    reply, *rest = said
    assert [one.get("error", one.get("ok")) for one in reply["jobs"]] == [
        True if number % 3 else "missing_field" for number in range(300)
    ]
    assert rest.count(OK) == 1
    outcomes = [message["id"] for message in rest if "id" in message]
    assert outcomes == [number for number in range(300) if number % 3] + ["after"]
    assert pings >= 5


def test_an_id_is_taken_until_its_outcome_is_sent(broker: Broker) -> None:
    """The outcome held back for a batch's reply belongs to the earlier job, so the batch may not reuse its id."""
    master, slave = broker.master(HELLO), broker.slave(join())
    broker.reactor.tick_seconds = 0.0004
    jobs = [{"id": number, "type": "t", "body": number} for number in range(300)]
    master.send({"action": "submit_many", "jobs": [*jobs, {"id": 0, "type": "t", "body": "again"}]})
    said: list[Any] = []
    while len(said) < 301:
        broker.turn()
        for message in slave.take():
            if message.get("action") == "job":
                slave.send(respond(message["body"]))
        said += master.take()
    reply, *outcomes = said
    assert reply["jobs"][-1] == {"error": "id_exists", "reason": "0"}
    assert [(outcome["id"], outcome["body"]) for outcome in outcomes] == [(number, number) for number in range(300)]


def test_many_answers_do_not_wait_for_the_reply(broker: Broker) -> None:
    """When many outcomes are held back for a reply, the rest of the batch is processed at once."""
    object.__setattr__(broker.around.settings, "pause_unread_bytes", 1000)
    master, slave = broker.master(HELLO), broker.slave(join())
    broker.reactor.tick_seconds = 0.0004
    master.send({"action": "submit_many", "jobs": [{"id": number, "type": "t", "body": 0} for number in range(2000)]})
    said: list[Any] = []
    turns = 0
    while not said:
        broker.turn()
        turns += 1
        for message in slave.take():
            if message.get("action") == "job":
                slave.send(respond("x" * 2000))
        said += master.take()
    assert len(said[0]["jobs"]) == 2000
    assert turns < 20


def test_a_batch_ends_with_its_connection(broker: Broker) -> None:
    """A disconnect in mid-batch forgets the submitted jobs, as for any lost master, and submits no more."""
    master = broker.master(HELLO)
    (protocol,) = broker.masters.peers
    broker.reactor.tick_seconds = 0.002
    master.send({"action": "submit_many", "jobs": [{"id": number, "type": "t", "body": 0} for number in range(500)]})
    broker.turn()
    assert 0 < broker.unanswered < 500
    protocol.transport.abortConnection()
    for _ in range(5):
        broker.turn()
    assert broker.unanswered == 0
    assert not broker.around.turns._shares


def test_a_broker_that_closes_has_answered_what_it_had_begun(broker: Broker) -> None:
    """On a shutdown in mid-batch, the reply says which jobs were accepted, and each of those has its outcome."""
    master = broker.master(HELLO)
    (protocol,) = broker.masters.peers
    broker.reactor.tick_seconds = 0.002
    master.send({"action": "submit_many", "jobs": [{"id": number, "type": "t", "body": 0} for number in range(500)]})
    broker.turn()
    accepted = broker.unanswered
    assert 0 < accepted < 500
    broker.around.broker.drain(broker.reactor.seconds(), lambda: None)
    protocol.close()
    reply, *outcomes = master.take()
    assert [one.get("error") for one in reply["jobs"]] == [None] * accepted + ["draining"] * (500 - accepted)
    assert [outcome["error"] for outcome in outcomes] == ["draining"] * accepted


def test_a_peer_whose_ping_was_not_read_yet_is_not_silent(broker: Broker) -> None:
    """After a pause, the broker reads the sockets before it drops any peer for silence."""
    good, silent = broker.master(HELLO | {"heartbeat": 2.0}), broker.master(HELLO | {"heartbeat": 2.0})
    good.send(PING)
    broker.reactor.advance(3.0)
    assert len(broker.masters.peers) == 1
    broker.turn()
    assert good.take() == [OK]
    broker.reactor.advance(3.0)
    assert not broker.masters.peers
    del silent


def test_an_answer_that_was_not_read_yet_is_no_timeout(broker: Broker) -> None:
    """After a pause, the broker reads a slave's answer before it judges the deadline."""
    master, slave = broker.master(HELLO), broker.slave(join())
    master.send(submit(1, timeout=2.0, retries=0), submit(2, expires=2.0))
    broker.turn()
    assert master.take() == [OK, OK]
    slave.send(respond())
    broker.reactor.advance(3.0)
    broker.turn()
    assert master.take() == [{"id": 1, "body": 2}]
    assert [message.get("id") for message in slave.take()] == [1, None, 2]


def test_a_frame_whose_rest_was_not_read_yet_is_no_stall(broker: Broker) -> None:
    """A frame whose rest lies unread in the socket is not a stall: the delay is the broker's own."""
    peer = broker.master()
    peer.socket.send(struct.pack(">I", 17) + b'{"act')
    broker.turn()
    assert broker.around.stalls._watched
    peer.socket.send(b'ion":"ping"}')
    broker.reactor.advance(7.0)
    broker.turn()
    assert [message["error"] for message in peer.take()] == ["invalid_state"]


def test_the_end_of_a_peer_belongs_to_its_turn(broker: Broker) -> None:
    """The broker learns of a disconnect when the socket reports it, and not in the reactor's later turn."""
    slave, master = broker.slave(join()), broker.master(HELLO)
    slave.socket.close()
    broker.turn()
    assert broker.slaves.peers  # the transport has not reported it
    master.send(submit(1, require_slave=True))
    broker.turn()
    assert master.take()[0]["error"] == "no_slaves"
