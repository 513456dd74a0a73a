"""The daemon's life in memory: gloom.service with doubles for endpoints, peers and the reactor."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from in_memory import carry, connect
from logged import logged
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent
from zope.interface import implementer

import gloom
from gloom.broker import MemoryBroker
from gloom.errors import StartupError
from gloom.framing import to_frame
from gloom.messages import OK
from gloom.protocols import PeerFactory
from gloom.service import BrokerService, ListenService
from gloom.settings import Settings

LOOPBACK_NOTE = "this host only"
HERE = IPv4Address("TCP", "127.0.0.1", 9998)


@implementer(IListeningPort)
class Port:
    """
    A listening port.

    Attributes:
        stopped: What its stopListening returned, or None before that.
    """

    def __init__(self, address: Any) -> None:
        self.stopped: Deferred[None] | None = None
        self._address = address

    def startListening(self) -> None: ...

    def stopListening(self) -> Deferred[None]:
        self.stopped = Deferred()
        return self.stopped

    def getHost(self) -> Any:
        return self._address


@implementer(IStreamServerEndpoint)
class Endpoint:
    """
    A place to listen.

    Args:
        result: What listening comes to: a port, an exception, or a Deferred of either.

    Attributes:
        factories: What it was asked to listen with.
    """

    def __init__(self, result: Any) -> None:
        self.factories: list[PeerFactory[Any]] = []
        self._result = result

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        self.factories.append(protocolFactory)
        if isinstance(self._result, Deferred):
            return self._result
        return fail(self._result) if isinstance(self._result, Exception) else succeed(self._result)


def taken(host: str = "127.0.0.1", port: Any = 9998) -> CannotListenError:
    return CannotListenError(host, port, OSError(errno.EADDRINUSE, "Address already in use"))


def service_on(masters: Any, slaves: Any, reactor: MemoryReactorClock | None = None) -> BrokerService:
    """Return a service with one endpoint a role; an address stands for a port on it."""
    places = [Endpoint(Port(one) if isinstance(one, IPv4Address) else one) for one in (masters, slaves)]
    reactor = MemoryReactorClock() if reactor is None else reactor
    return BrokerService(reactor, MemoryBroker(3), Settings(), places[:1], places[1:])


def lines(events: list[Any]) -> list[str]:
    return [formatEvent(event) for event in events]


def start(service: Any) -> list[str]:
    """Start *service* as twistd does, and return what it logs."""
    with logged("gloom.service") as events:
        service.privilegedStartService()
        service.startService()
    return lines(events)


def run(reactor: MemoryReactorClock) -> list[str]:
    """Have the reactor say that it runs, and return what is logged then."""
    with logged("gloom.service") as events:
        for call, args, kwargs in reactor.whenRunningHooks:
            call(*args, **kwargs)
    return lines(events)


# Starting


def test_a_start_says_where_masters_and_slaves_connect() -> None:
    """The log names each port's role and address."""
    service = service_on(IPv4Address("TCP", "10.0.0.5", 9998), IPv4Address("TCP", "0.0.0.0", 9999))
    assert start(service) == ["masters on 10.0.0.5:9998", "slaves on 0.0.0.0:9999"]


def test_up_is_said_when_the_reactor_runs() -> None:
    """Who waits for the line can send jobs, and signals: before the reactor runs SIGTERM is no clean stop."""
    reactor = MemoryReactorClock()
    start(service_on(HERE, HERE, reactor))
    assert run(reactor) == [f"gloom {gloom.__version__} is up"]


def test_a_service_that_stops_before_the_reactor_runs_is_never_up() -> None:
    """A start that failed is not reported as up afterwards."""
    reactor = MemoryReactorClock()
    service = service_on(HERE, HERE, reactor)
    start(service)
    service.stopService()
    assert run(reactor) == []


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (IPv4Address("TCP", "127.0.0.1", 7), "127.0.0.1:7"),
        (IPv4Address("TCP", "127.8.8.8", 7), "127.8.8.8:7"),
        (IPv6Address("TCP", "::1", 7), "[::1]:7"),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 7), "[::ffff:127.0.0.1]:7"),
    ],
)
def test_a_port_that_only_this_host_reaches_says_so(address: Any, place: str) -> None:
    """On loopback the line tells that other hosts cannot connect, and which option changes that."""
    (line,) = start(listening(Port(address)))
    assert line.startswith(f"masters on {place} (")
    assert LOOPBACK_NOTE in line
    assert "--interface" in line


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (IPv4Address("TCP", "0.0.0.0", 7), "0.0.0.0:7"),
        (IPv4Address("TCP", "192.168.1.127", 7), "192.168.1.127:7"),
        (IPv6Address("TCP", "::", 7), "[::]:7"),
        (UNIXAddress("/run/gloom/masters.sock"), "/run/gloom/masters.sock"),
        (UNIXAddress(None), "a socket without a name"),
    ],
)
def test_any_other_place_is_named_without_the_note(address: Any, place: str) -> None:
    """Where other hosts can connect, or no host at all, the line is the address alone."""
    assert start(listening(Port(address))) == [f"masters on {place}"]


def listening(result: Any, reactor: Any = None, statuses: list[int] | None = None) -> ListenService:
    """Return a service for masters that listens with *result*."""
    reactor = MemoryReactorClock() if reactor is None else reactor
    broker = service_on(HERE, HERE)
    told = [] if statuses is None else statuses
    return ListenService(reactor, "masters", Endpoint(result), broker.masters, exit_with=told.append)


def test_privileged_and_ordinary_start_listen_once() -> None:
    """twistd starts a service twice, before and after it gives up root: the port is opened once."""
    endpoint = Endpoint(Port(HERE))
    service = BrokerService(MemoryReactorClock(), MemoryBroker(3), Settings(), [endpoint], [])
    start(service)
    assert len(endpoint.factories) == 1


def test_every_endpoint_serves_the_same_broker() -> None:
    """A job from the second of two master ports is answered by the slave on the slave port."""
    reactor = MemoryReactorClock()
    endpoints = [Endpoint(Port(HERE)) for _ in range(3)]
    service = BrokerService(reactor, MemoryBroker(3), Settings(), endpoints[:2], endpoints[2:])
    start(service)
    master, slave = connect(endpoints[1].factories[0]), connect(endpoints[2].factories[0])
    for (near, _), message in (
        (slave, b'{"action":"join","type":"t"}'),
        (master, b'{"action":"submit","id":1,"type":"t","body":2}'),
        (slave, b'{"action":"respond","body":3}'),
    ):
        near.write(to_frame(message))
        carry(*master, *slave)
        reactor.advance(0)
        carry(*master, *slave)
    assert master[0].protocol.received == to_frame(OK) + to_frame(b'{"id":1,"body":3}')  # type: ignore[union-attr]


# Not being able to


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (taken(), "cannot listen for masters on 127.0.0.1:9998: Address already in use"),
        (taken("::1"), "cannot listen for masters on [::1]:9998: Address already in use"),
        (taken(""), "cannot listen for masters on any address:9998: Address already in use"),
        (
            CannotListenError(None, b"/run/m.sock", "Cannot acquire lock"),
            "cannot listen for masters on /run/m.sock: Cannot acquire lock",
        ),
        (
            OSError(errno.ENOENT, "No such file or directory", "123", None, b"/absent/m.sock.lock"),
            "cannot listen for masters on /absent/m.sock: No such file or directory",
        ),
        (RuntimeError("out of paper"), "cannot listen for masters on its endpoint: out of paper"),
    ],
    ids=["taken", "IPv6", "no interface", "unix taken", "unix without directory", "anything"],
)
def test_a_place_that_cannot_be_had_stops_the_start(error: Exception, line: str) -> None:
    """The start fails with one line: for whom, where, why; the same line is in the log as an error."""
    service = listening(error)
    with logged("gloom.service") as events, pytest.raises(StartupError) as raised:
        service.privilegedStartService()
    assert str(raised.value) == line
    assert lines(events) == [line]
    assert events[0]["log_level"] is LogLevel.error


def test_the_second_port_that_is_taken_fails_the_whole_start() -> None:
    """A broker with one of its two ports does not come up."""
    reactor = MemoryReactorClock()
    with pytest.raises(StartupError, match="for slaves on"):
        service_on(HERE, taken(port=9999), reactor).privilegedStartService()
    assert run(reactor) == []


def test_a_late_failure_stops_the_daemon_with_a_status() -> None:
    """Listening that fails after the start ends the process, status 1, with the line in the log."""
    reactor, statuses, result = MemoryReactorClock(), [], Deferred()  # type: ignore[var-annotated]
    service = listening(result, reactor, statuses)
    start(service)
    reactor.running = True
    with logged("gloom.service") as events:
        result.errback(taken())
    assert lines(events) == ["cannot listen for masters on 127.0.0.1:9998: Address already in use"]
    assert statuses == [1]
    assert reactor.hasStopped


def test_a_failure_just_before_the_reactor_runs_stops_it_when_it_does() -> None:
    """Between the start and the reactor's first turn a failure is not lost either."""
    reactor, statuses, result = MemoryReactorClock(), [], Deferred()  # type: ignore[var-annotated]
    start(listening(result, reactor, statuses))
    result.errback(taken())
    assert not reactor.hasStopped
    run(reactor)
    assert reactor.hasStopped
    assert statuses == [1]


def test_a_stop_gives_up_listening_that_has_not_succeeded_yet() -> None:
    """Stopping a broker that is still waiting for its port is no failure."""
    statuses: list[int] = []
    service = listening(Deferred(), statuses=statuses)
    start(service)
    with logged("gloom.service") as events:
        assert service.stopService() is None
    assert (events, statuses) == ([], [])


def test_a_stop_before_any_start_does_nothing() -> None:
    """A listener that was never started can be stopped."""
    assert listening(Port(HERE)).stopService() is None


# Stopping


def test_a_stop_closes_ports_then_masters_then_slaves() -> None:
    """Nobody new comes in while connections close, and each step is waited for."""
    service = service_on(HERE, HERE)
    start(service)
    master, slave = connect(service.masters), connect(service.slaves)
    ports: list[Any] = [listener.port for listener in service.listeners]
    done = service.stopService()
    for port in ports:
        carry(*master, *slave)
        assert master[0].connected
        port.stopped.callback(None)
    carry(*slave)
    assert slave[0].connected
    carry(*master)
    assert not master[0].connected
    assert not done.called
    carry(*slave)
    assert not slave[0].connected
    assert done.called


def test_a_stop_says_who_was_connected_and_when_it_is_done() -> None:
    """Two lines: the number of peers at the beginning, and the end."""
    service = service_on(HERE, HERE)
    start(service)
    ends = [*connect(service.masters), *connect(service.masters), *connect(service.slaves)]
    ports: list[Any] = [listener.port for listener in service.listeners]
    with logged("gloom.service") as events:
        service.stopService()
        for port in ports:
            port.stopped.callback(None)
            carry(*ends)
        carry(*ends)
    first, last = lines(events)
    assert first == "stopping: 2 masters and 1 slaves are connected"
    assert last.endswith(" is down")


def test_a_peer_that_does_not_read_cannot_hold_up_the_stop() -> None:
    """After linger_seconds a connection with something left to read is dropped."""
    reactor = MemoryReactorClock()
    service = service_on(HERE, HERE, reactor)
    start(service)
    near, far = connect(service.masters, reads=False)
    far.protocol.sendString(b"{}")  # type: ignore[union-attr]
    ports: list[Any] = [listener.port for listener in service.listeners]
    done = service.stopService()
    for port in ports:
        port.stopped.callback(None)
    carry(near, far)
    assert not done.called
    reactor.advance(Settings().linger_seconds)
    assert done.called
    assert not near.connected
