"""The public double: its guarantees for the tests of a program that uses gloom."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol, IPushProducer, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

import gloom.testing
from gloom.client.deferred import Master, Slave
from gloom.settings import Settings
from gloom.testing import MemoryGloom, MemoryTransport

HELLO = {"action": "hello", "version": 1, "name": "raw", "heartbeat": 30}
SUBMIT = {"action": "submit", "id": "j", "type": "echo", "body": [1]}
JOIN = {"action": "join", "type": "echo"}


class Recorder(Protocol):
    """Records the frames that it receives, and the reason of its connection's end."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.ended: list[type[BaseException] | None] = []

    def dataReceived(self, data: bytes) -> None:
        self.data.append(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.ended.append(reason.type)


def linked() -> tuple[MemoryTransport, MemoryTransport, Recorder, Recorder]:
    address = IPv4Address("TCP", "127.0.0.1", 1)
    near, far = MemoryTransport(address, address), MemoryTransport(address, address)
    near.link(far)
    here, there = Recorder(), Recorder()
    for transport, protocol in ((near, here), (far, there)):
        transport.protocol = protocol
        protocol.makeConnection(transport)
    return near, far, here, there


# A broker in memory


def test_the_example_of_the_documentation() -> None:
    """The example in the module's docstring works unchanged."""
    lines = [line[4:] for line in (gloom.testing.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(lines) > 5
    scope: dict[str, Any] = {"MemoryGloom": MemoryGloom, "Master": Master, "Slave": Slave}
    exec("\n".join(lines), scope)
    for service in (scope["master"], scope["slave"]):
        stopped = service.stopService()
        scope["gloom"].advance(60)
        scope["gloom"].result(stopped)


def test_raw_peers_speak_whole_messages() -> None:
    """A raw slave and a raw master pass a job through the real broker, message by message."""
    gloom = MemoryGloom()
    slave, master = gloom.slave(), gloom.master()
    assert slave.ask(JOIN) == [{"ok": True}]
    assert master.ask(SUBMIT) == [{"ok": True}]
    assert slave.take() == [{"action": "job", "id": "j", "type": "echo", "body": [1]}]
    assert slave.ask(b'{"action":"respond","body":1.0}') == [{"ok": True}]
    assert master.frames == [b'{"id":"j","body":1.0}']
    assert master.take() == [{"id": "j", "body": 1.0}]
    assert master.take() == []


def test_raw_bytes_go_out_as_they_are() -> None:
    """A raw peer can send bytes that break the framing."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.send_bytes(b"\xff\xff\xff\xff")
    [error] = master.take()
    assert error["error"] == "size_error"
    assert master.lost


def test_the_settings_are_the_broker_s() -> None:
    """A double is made with the limits that a test chooses."""
    gloom = MemoryGloom(Settings(require_type=True, retries=0))
    [error] = gloom.master().ask({"action": "submit", "id": 1, "body": 1})
    assert error["error"] == "missing_field"


def test_a_dropped_peer_is_seen_by_the_broker() -> None:
    """When a raw slave drops, the broker gives its job to another."""
    gloom = MemoryGloom()
    first, second = gloom.slave(), gloom.slave()
    first.ask(JOIN)
    gloom.master().ask(SUBMIT)
    first.drop()
    assert first.lost
    second.send(JOIN)
    assert [message.get("id") for message in second.take()] == [None, "j"]


def test_time_is_carried_out_step_by_step() -> None:
    """While a minute passes, bytes arrive when they are sent, so that a client that pings in time is not dropped."""
    gloom = MemoryGloom()
    master = Master(gloom.master_endpoint, reactor=gloom.clock, heartbeat_seconds=30)
    master.startService()
    gloom.advance()
    gloom.advance(300.5)
    assert gloom.clock.seconds() == 300.5
    assert len(gloom.master_endpoint.connections) == 1
    assert gloom.master_endpoint.connections[0].connected
    stopped = master.stopService()
    gloom.advance(5)
    gloom.result(stopped)


def test_a_silent_peer_is_dropped_at_its_time() -> None:
    """The heartbeats of the real broker follow the double's clock."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(HELLO)
    gloom.advance(29.9)
    assert not master.lost
    gloom.advance(0.1)
    assert master.lost


def test_delayed_calls_see_their_own_time() -> None:
    """A delayed call runs at exactly its time, however far the test advances."""
    gloom = MemoryGloom()
    seen: list[float] = []

    def again() -> None:
        seen.append(gloom.clock.seconds())
        if len(seen) < 5:
            gloom.clock.callLater(0.1, again)

    gloom.clock.callLater(0.1, again)
    gloom.clock.callLater(7, seen.append, 7.0)
    gloom.advance(5)
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert gloom.clock.seconds() == 5
    gloom.advance(2)
    assert seen[-1] == 7


def test_a_broker_that_is_down_refuses() -> None:
    """A refusing endpoint fails each attempt, like a broker that does not run."""
    gloom = MemoryGloom()
    gloom.master_endpoint.refusing = True
    with pytest.raises(ConnectError, match="the broker is down"):
        gloom.result(gloom.master_endpoint.connect(Factory.forProtocol(Recorder)))
    assert gloom.master_endpoint.connections == []


def test_a_crash_loses_all_jobs_and_connections() -> None:
    """After restart and drop_all the peers are gone, and the new broker has no state."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.ask(SUBMIT)
    gloom.restart()
    gloom.drop_all()
    assert master.lost
    assert gloom.master_endpoint.connections == []
    assert gloom.slave().ask(JOIN) == [{"ok": True}]
    assert gloom.master().ask(SUBMIT) == [{"ok": True}]


def test_who_comes_back_at_once_is_not_dropped_again() -> None:
    """A client that reconnects while all peers are dropped keeps its new connection."""
    gloom = MemoryGloom()
    made: list[Recorder] = []

    class Eager(Recorder):
        def connectionMade(self) -> None:
            made.append(self)

        def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
            gloom.master_endpoint.connect(Factory.forProtocol(Eager))

    gloom.master_endpoint.connect(Factory.forProtocol(Eager))
    gloom.drop_all()
    assert len(made) == 2
    [transport] = gloom.master_endpoint.connections
    assert transport.connected
    assert transport.protocol is made[1]


# Results


def test_result_returns_what_has_fired() -> None:
    """The result of a fired Deferred is its value, or its exception is raised."""
    assert MemoryGloom.result(succeed(42)) == 42
    with pytest.raises(ZeroDivisionError):
        MemoryGloom.result(fail(ZeroDivisionError()))


def test_result_of_what_has_not_fired_is_an_assertion() -> None:
    """A Deferred that has not fired, or waits for another, fails the test, and keeps its later value."""
    inner: Deferred[int] = Deferred()
    outer: Deferred[int] = Deferred()
    outer.addCallback(lambda _: inner)
    for _ in range(2):
        with pytest.raises(AssertionError, match="has not fired"):
            MemoryGloom.result(outer)
        if not outer.called:
            outer.callback(0)
    inner.callback(7)
    assert MemoryGloom.result(outer) == 7


# Connections in memory


def test_a_transport_provides_what_twisted_s_do() -> None:
    """The double has the methods of the interfaces that it names."""
    near, _, _, _ = linked()
    assert verifyObject(ITransport, near)
    assert verifyObject(IPushProducer, near)
    assert verifyObject(IStreamClientEndpoint, MemoryGloom().master_endpoint)
    assert verifyObject(IProtocol, Recorder())


def test_bytes_arrive_in_order_and_together() -> None:
    """Bytes written before a delivery arrive together."""
    near, _, _, there = linked()
    near.write(b"1")
    near.writeSequence([b"2", b"3"])
    assert there.data == []
    assert near.carry()
    assert there.data == [b"123"]
    assert not near.carry()


@pytest.mark.parametrize("how", ["stalled", "paused"])
def test_a_peer_that_does_not_read_leaves_bytes_where_they_are(how: str) -> None:
    """A peer that does not read receives nothing, not even the end, until it reads again."""
    near, far, here, there = linked()
    if how == "stalled":
        far.stalled = True
    else:
        far.pauseProducing()
    near.write(b"1")
    near.loseConnection()
    assert not near.carry()
    far.stalled = False
    far.resumeProducing()
    assert near.carry() and near.carry()
    assert (there.data, there.ended, here.ended) == ([b"1"], [ConnectionDone], [ConnectionDone])


@pytest.mark.parametrize("verb", ["loseConnection", "stopProducing"])
def test_the_end_comes_after_what_was_written(verb: str) -> None:
    """Closing sends the buffered bytes first; both ends learn of the end once."""
    near, far, here, there = linked()
    near.write(b"last")
    getattr(near, verb)()
    while near.carry():
        pass
    assert (there.data, there.ended, here.ended) == ([b"last"], [ConnectionDone], [ConnectionDone])
    near.write(b"late")
    far.abortConnection()
    assert not near.carry()
    assert there.ended == [ConnectionDone]


def test_an_abort_drops_what_was_written() -> None:
    """An aborted connection ends at once, even if its peer does not read."""
    near, far, here, there = linked()
    far.stalled = True
    near.write(b"lost")
    near.abortConnection()
    assert (there.data, there.ended, here.ended) == ([], [ConnectionAborted], [ConnectionAborted])
    assert not near.connected and not far.connected


def test_addresses_are_those_of_the_standard_ports() -> None:
    """A client sees the broker's port, the broker sees a port for each client."""
    gloom = MemoryGloom()
    for endpoint, port in ((gloom.master_endpoint, 9998), (gloom.slave_endpoint, 9999)):
        for number in range(2):
            client = gloom.result(endpoint.connect(Factory.forProtocol(Recorder)))
            assert client.transport.getPeer() == IPv4Address("TCP", "127.0.0.1", port)
            assert client.transport.getHost() == IPv4Address("TCP", "127.0.0.1", 50000 + number)
