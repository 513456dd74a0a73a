"""The daemon's life cycle in memory: gloom.server.service with doubles for endpoints, peers and the reactor."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent
from zope.interface import implementer

import gloom
from gloom.errors import StartupError
from gloom.server.access import Access
from gloom.server.peers import PeerFactory
from gloom.server.service import BrokerService, ListenService, memory_surroundings
from gloom.settings import Settings
from gloom.wire.framereader import to_frame
from gloom.wire.messages import OK
from tests.support.in_memory import carry, connect
from tests.support.logged import logged

LOOPBACK_NOTE = "this host only"
HERE = IPv4Address("TCP", "127.0.0.1", 9998)


@implementer(IListeningPort)
class Port:
    """
    A listening port.

    Attributes:
        stopped: The Deferred of its stopListening, or None before that.
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
        result: The outcome of listening: a port, an exception, or a Deferred of either.

    Attributes:
        factories: The factories that it was asked to listen with.
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


def service_on(
    masters: Any,
    slaves: Any,
    reactor: MemoryReactorClock | None = None,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    access: Access | None = None,
) -> BrokerService:
    """Return a service with one endpoint for each role; an address stands for a port on it."""
    places = [Endpoint(Port(one) if isinstance(one, IPv4Address) else one) for one in (masters, slaves)]
    reactor = MemoryReactorClock() if reactor is None else reactor
    return BrokerService(reactor, memory_surroundings(settings, reactor, access), places[:1], places[1:])


def lines(events: list[Any]) -> list[str]:
    return [formatEvent(event) for event in events]


def start(service: Any) -> list[str]:
    """Start *service* as twistd does, and return its log lines."""
    with logged("gloom.server.service") as events:
        service.privilegedStartService()
        service.startService()
    return lines(events)


def run(reactor: MemoryReactorClock) -> list[str]:
    """Run the reactor's start hooks, and return the log lines since."""
    with logged("gloom.server.service") as events:
        for call, args, kwargs in reactor.whenRunningHooks:
            call(*args, **kwargs)
    return lines(events)


# Starting


def test_a_start_says_where_masters_and_slaves_connect() -> None:
    """The log names each port's role and address."""
    service = service_on(IPv4Address("TCP", "10.0.0.5", 9998), IPv4Address("TCP", "0.0.0.0", 9999))
    assert start(service)[:2] == ["masters on 10.0.0.5:9998", "slaves on 0.0.0.0:9999"]


def test_up_is_said_when_the_reactor_runs() -> None:
    """The broker logs that it is up once the reactor runs: only then is SIGTERM a clean stop."""
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
    """On loopback the line says that other hosts cannot connect, and names the option that changes that."""
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
    """For any other address the line is the address alone."""
    assert start(listening(Port(address))) == [f"masters on {place}"]


def listening(result: Any, reactor: Any = None, statuses: list[int] | None = None) -> ListenService:
    """Return a service for masters that listens with *result*."""
    reactor = MemoryReactorClock() if reactor is None else reactor
    broker = service_on(HERE, HERE)
    told = [] if statuses is None else statuses
    return ListenService(reactor, "masters", Endpoint(result), broker.masters, exit_with=told.append)


def test_privileged_and_ordinary_start_listen_once() -> None:
    """twistd starts a service twice, before and after it drops root; the port is opened once."""
    endpoint = Endpoint(Port(HERE))
    reactor = MemoryReactorClock()
    service = BrokerService(reactor, memory_surroundings(Settings(), reactor), [endpoint], [])
    start(service)
    assert len(endpoint.factories) == 1


def test_every_endpoint_serves_the_same_broker() -> None:
    """A job from the second of two master ports is answered by the slave on the slave port."""
    reactor = MemoryReactorClock()
    endpoints = [Endpoint(Port(HERE)) for _ in range(3)]
    service = BrokerService(reactor, memory_surroundings(Settings(), reactor), endpoints[:2], endpoints[2:])
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


# Failing to listen


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            taken(),
            "cannot listen for masters on 127.0.0.1:9998: Address already in use (--master-port chooses another)",
        ),
        (
            taken("::1"),
            "cannot listen for masters on [::1]:9998: Address already in use (--master-port chooses another)",
        ),
        (
            taken(""),
            "cannot listen for masters on any address:9998: Address already in use (--master-port chooses another)",
        ),
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
    """The start fails with one line: the role, the address and the reason. The log has the same line as an error."""
    service = listening(error)
    with logged("gloom.server.service") as events, pytest.raises(StartupError) as raised:
        service.privilegedStartService()
    assert str(raised.value) == line
    assert lines(events) == [line]
    assert events[0]["log_level"] is LogLevel.error


def test_the_second_port_that_is_taken_fails_the_whole_start() -> None:
    """A broker that gets only one of its two ports does not come up."""
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
    with logged("gloom.server.service") as events:
        result.errback(taken())
    assert lines(events) == [
        "cannot listen for masters on 127.0.0.1:9998: Address already in use (--master-port chooses another)"
    ]
    assert statuses == [1]
    assert reactor.hasStopped


def test_a_failure_just_before_the_reactor_runs_stops_it_when_it_does() -> None:
    """A failure between the start and the reactor's first turn stops the daemon too."""
    reactor, statuses, result = MemoryReactorClock(), [], Deferred()  # type: ignore[var-annotated]
    start(listening(result, reactor, statuses))
    result.errback(taken())
    assert not reactor.hasStopped
    run(reactor)
    assert reactor.hasStopped
    assert statuses == [1]


def test_a_stop_gives_up_listening_that_has_not_succeeded_yet() -> None:
    """A stop while the broker still waits for its port is no failure."""
    statuses: list[int] = []
    service = listening(Deferred(), statuses=statuses)
    start(service)
    with logged("gloom.server.service") as events:
        assert service.stopService() is None
    assert (events, statuses) == ([], [])


def test_a_stop_before_any_start_does_nothing() -> None:
    """A listener that was never started can be stopped."""
    assert listening(Port(HERE)).stopService() is None


# Stopping


def test_a_stop_closes_ports_then_masters_then_slaves() -> None:
    """A stop closes the ports first, then the masters, then the slaves, and waits for each step."""
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
    """A stop logs a line for each step: the connected peers, the lack of running jobs, and the end."""
    service = service_on(HERE, HERE)
    start(service)
    ends = [*connect(service.masters), *connect(service.masters), *connect(service.slaves)]
    ports: list[Any] = [listener.port for listener in service.listeners]
    with logged("gloom.server.service") as events:
        service.stopService()
        for port in ports:
            port.stopped.callback(None)
            carry(*ends)
        carry(*ends)
    assert lines(events) == [
        "stopping: no more connections; 2 masters and 1 slaves are connected",
        "drained: no job was in hand",
        f"gloom {gloom.__version__} is down",
    ]


def test_a_peer_that_does_not_read_cannot_hold_up_the_stop() -> None:
    """A connection with unread output is dropped after linger_seconds."""
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


# Draining


class Farm:
    """
    A service with a master and a slave, both of which accept ``quiet``, in memory.

    Attributes:
        done: The Deferred of the service's stop.
        log: The log lines since the stop.
    """

    def __init__(self, **settings: Any) -> None:
        self.reactor = MemoryReactorClock()
        self.service = service_on(HERE, HERE, self.reactor, Settings(**settings))
        start(self.service)
        self.master, self.slave = connect(self.service.masters), connect(self.service.slaves)
        self.log: list[str] = []
        for ends in (self.master, self.slave):
            self.say(ends, b'{"action":"hello","version":1,"accept":["quiet"]}')
        self.say(self.slave, b'{"action":"join","type":"t"}')
        self.heard(self.master), self.heard(self.slave)

    def submit(self, id: int) -> None:
        self.say(self.master, b'{"action":"submit","id":%d,"type":"t","body":0}' % id)

    def respond(self) -> None:
        self.say(self.slave, b'{"action":"respond","body":7}')

    def say(self, ends: Any, message: bytes) -> None:
        ends[0].write(to_frame(message))
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and deliver every message on its way."""
        with logged("gloom.server.service") as events:
            for step in (seconds, 0.0, 0.0):
                carry(*self.master, *self.slave)
                self.reactor.advance(step)
            carry(*self.master, *self.slave)
        self.log += lines(events)

    def heard(self, ends: Any) -> list[Any]:
        """Return the messages to this end since the last call."""
        data, ends[0].protocol.received = ends[0].protocol.received, b""
        messages = []
        while data:
            end = 4 + int.from_bytes(data[:4], "big")
            messages.append(json.loads(data[4:end]))
            data = data[end:]
        return messages

    def stop(self) -> None:
        with logged("gloom.server.service") as events:
            ports: list[Any] = [listener.port for listener in self.service.listeners]
            self.done = self.service.stopService()
            for port in ports:
                port.stopped.callback(None)
        self.log += lines(events)
        self.turn()


QUIET = {"action": "quiet"}
STOPPING = "stopping: no more connections; 1 masters and 1 slaves are connected"
DOWN = f"gloom {gloom.__version__} is down"


def test_a_job_in_hand_is_finished_before_the_broker_goes() -> None:
    """A running job may finish within the allowed time, and its answer reaches the master before connections close."""
    farm = Farm(drain_seconds=30.0)
    farm.submit(1)
    farm.heard(farm.master)
    farm.stop()
    farm.turn(29.0)
    assert not farm.done.called
    farm.respond()
    assert farm.heard(farm.master) == [QUIET, {"id": 1, "body": 7}]
    assert farm.done.called
    assert farm.log == [
        STOPPING,
        "draining: 1 jobs in hand may take 30 s more",
        "drained: every job has its outcome",
        DOWN,
    ]
    assert farm.reactor.getDelayedCalls() == []


def test_waiting_and_new_jobs_are_told_that_the_broker_goes() -> None:
    """A job that no slave has taken gets the outcome ``draining`` at once; a new one is refused with the same code."""
    farm = Farm()
    farm.submit(1)
    farm.submit(2)
    farm.heard(farm.master)
    farm.stop()
    quiet, outcome = farm.heard(farm.master)
    assert (quiet, outcome["id"], outcome["error"]) == (QUIET, 2, "draining")
    farm.submit(3)
    (refusal,) = farm.heard(farm.master)
    assert refusal["error"] == "draining"
    assert "id" not in refusal
    farm.respond()
    assert farm.done.called


def test_a_slave_is_told_quiet_and_given_nothing_more() -> None:
    """From the stop to the end a slave receives ``quiet``, the reply to its answer, and no job."""
    farm = Farm()
    farm.submit(1)
    farm.submit(2)
    farm.heard(farm.slave)
    farm.stop()
    farm.respond()
    assert farm.heard(farm.slave) == [QUIET, {"ok": True}]


def test_a_job_that_takes_too_long_ends_as_draining() -> None:
    """After drain_seconds every running job gets the outcome ``draining``, and the broker ends."""
    farm = Farm(drain_seconds=2.5)
    farm.submit(1)
    farm.heard(farm.master)
    farm.stop()
    farm.turn(2.4)
    assert farm.heard(farm.master) == [QUIET]
    farm.turn(0.2)
    (outcome,) = farm.heard(farm.master)
    assert (outcome["id"], outcome["error"]) == (1, "draining")
    assert farm.done.called
    assert farm.log == [
        STOPPING,
        "draining: 1 jobs in hand may take 2.5 s more",
        "ending 1 jobs that are still in hand",
        DOWN,
    ]


def test_a_slave_that_goes_while_draining_leaves_its_job_draining() -> None:
    """The job of a slave that disconnects during a drain is not retried and not waited for."""
    farm = Farm()
    farm.submit(1)
    farm.heard(farm.master)
    farm.stop()
    farm.slave[0].abortConnection()
    farm.turn()
    outcome = farm.heard(farm.master)[-1]
    assert (outcome["id"], outcome["error"]) == (1, "draining")
    assert farm.done.called


def test_without_time_to_drain_jobs_in_hand_end_at_once() -> None:
    """With drain_seconds of 0 the broker waits for no job."""
    farm = Farm(drain_seconds=0.0)
    farm.submit(1)
    farm.stop()
    assert farm.heard(farm.master)[-1]["error"] == "draining"
    assert farm.done.called


def test_a_hurry_ends_the_drain_and_drops_all_connections() -> None:
    """A second stop request drops all connections and finishes the stop at once."""
    farm = Farm()
    farm.submit(1)
    farm.stop()
    assert not farm.done.called
    with logged("gloom.server.service") as events:
        farm.service.hurry()
    farm.turn()
    assert lines(events)[0] == "ending 1 jobs that are still in hand"
    assert farm.done.called
    assert not farm.master[0].connected
    assert not farm.slave[0].connected


def test_a_hurry_while_ports_still_close_is_not_forgotten() -> None:
    """A second signal right behind the first ends the drain before it has begun."""
    farm = Farm()
    farm.submit(1)
    ports: list[Any] = [listener.port for listener in farm.service.listeners]
    done = farm.service.stopService()
    farm.service.hurry()
    for port in ports:
        port.stopped.callback(None)
    farm.turn()
    assert done.called


# Ports open to other hosts

EVERYWHERE = IPv4Address("TCP", "0.0.0.0", 9998)
READABLE = "open to other hosts, and anyone on the network can read the jobs (--tls-cert)"
FOR_ANYONE = "open to other hosts, and anyone who can connect may submit and take jobs (--access)"


@pytest.mark.parametrize("has_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("has_access", [False, True], ids=["anyone", "access"])
@pytest.mark.parametrize("address", [HERE, EVERYWHERE], ids=["loopback", "open"])
def test_a_port_open_to_others_is_warned_of(address: IPv4Address, has_access: bool, has_tls: bool) -> None:
    """
    Each missing protection has one warning, with its option.

    A port on loopback, or with both protections, has none.
    """
    reactor = MemoryReactorClock()
    around = memory_surroundings(Settings(), reactor, Access([]) if has_access else None)
    masters, slaves = Endpoint(Port(address)), Endpoint(Port(HERE))
    service = BrokerService(reactor, around, [masters], [slaves], encrypted=[masters] if has_tls else [])
    with logged("gloom.server.service") as events:
        service.privilegedStartService()
        service.startService()
    warnings = [event for event in events if event["log_level"] is LogLevel.warn]
    missing = [] if address is HERE else [READABLE] * (not has_tls) + [FOR_ANYONE] * (not has_access)
    assert lines(warnings) == missing
