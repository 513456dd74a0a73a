"""Notifications to systemd: gloom.host.systemd with a real datagram socket, and a test clock."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel

from gloom.host.systemd import ServiceManager, SystemdService
from tests.support.logged import logged

READY = f"READY=1\nMAINPID={os.getpid()}"
WATCHDOG = "WATCHDOG=1"
STOPPING = "STOPPING=1"


class Manager:
    """
    A stand-in for systemd.

    Attributes:
        environ: The environment of the process that it starts.
    """

    def __init__(self, address: str, **environ: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@"), **environ}

    def take(self) -> list[str]:
        """Return the notifications since the last call: a datagram to a unix socket arrives as soon as it is sent."""
        heard = []
        while True:
            try:
                heard.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(str(tmp_path / "notify"))
    yield one
    one.close()


def started(environ: dict[str, str]) -> tuple[SystemdService, MemoryReactorClock]:
    reactor = MemoryReactorClock()
    service = SystemdService(reactor, reactor, environ)
    service.startService()
    return service, reactor


def run(reactor: MemoryReactorClock) -> None:
    """Run the reactor's start hooks."""
    for call, args, kwargs in reactor.whenRunningHooks:
        call(*args, **kwargs)


def test_ready_comes_with_the_running_reactor(manager: Manager) -> None:
    """systemd receives READY, with the process's id, once the reactor runs and not before."""
    service, reactor = started(manager.environ)
    assert manager.take() == []
    run(reactor)
    assert manager.take() == [READY]
    service.stopService()


def test_a_watchdog_is_pinged_three_times_in_its_time(manager: Manager) -> None:
    """A watchdog is pinged at once, and then at each third of WATCHDOG_USEC."""
    service, reactor = started({**manager.environ, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    run(reactor)
    assert manager.take() == [READY, WATCHDOG]
    reactor.advance(9.9)
    assert manager.take() == []
    reactor.advance(0.2)
    assert manager.take() == [WATCHDOG]
    reactor.pump([10.0] * 3)
    assert manager.take() == [WATCHDOG] * 3
    service.stopService()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
    ],
    ids=["no watchdog", "zero", "no number", "another process's"],
)
def test_a_watchdog_that_is_not_ours_is_not_pinged(manager: Manager, environ: dict[str, str]) -> None:
    """Without WATCHDOG_USEC, or with another process's id, there are no pings and no timer."""
    service, reactor = started({**manager.environ, **environ})
    run(reactor)
    assert manager.take() == [READY]
    assert reactor.getDelayedCalls() == []
    service.stopService()


def test_stopping_is_told_once_and_ends_the_pings(manager: Manager) -> None:
    """After STOPPING systemd receives nothing more."""
    service, reactor = started({**manager.environ, "WATCHDOG_USEC": "3000000"})
    run(reactor)
    manager.take()
    service.stopService()
    reactor.advance(10)
    assert manager.take() == [STOPPING]
    assert reactor.getDelayedCalls() == []


def test_a_service_that_stops_before_the_reactor_runs_is_never_ready(manager: Manager) -> None:
    """A start that failed is not reported as READY afterwards."""
    service, reactor = started(manager.environ)
    service.stopService()
    run(reactor)
    assert manager.take() == [STOPPING]


def test_a_service_that_was_never_started_tells_nothing(manager: Manager) -> None:
    """A broker that was stopped without a start, since it could not listen, notifies nobody."""
    reactor = MemoryReactorClock()
    SystemdService(reactor, reactor, manager.environ).stopService()
    assert manager.take() == []


def test_an_abstract_socket_is_reached() -> None:
    """A NOTIFY_SOCKET that begins with @ is an abstract socket, without a file."""
    manager = Manager(f"\0gloom-test-{uuid4()}")
    service, reactor = started(manager.environ)
    run(reactor)
    assert manager.take() == [READY]
    service.stopService()
    manager.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    """A broker that systemd did not start sends no notification, and logs no complaint."""
    with logged("gloom.host.systemd") as events:
        service, reactor = started(environ)
        run(reactor)
        service.stopService()
    assert events == []


def test_a_systemd_that_is_gone_is_logged_and_survived(tmp_path: Path) -> None:
    """If no socket listens on NOTIFY_SOCKET, a warning names the lost notification, and the broker goes on."""
    with logged("gloom.host.systemd") as events:
        service, reactor = started({"NOTIFY_SOCKET": str(tmp_path / "absent"), "WATCHDOG_USEC": "3000000"})
        run(reactor)
        reactor.advance(1)
        service.stopService()
    assert [event["lines"] for event in events] == [READY.replace("\n", " "), WATCHDOG, WATCHDOG, STOPPING]
    assert {event["log_level"] for event in events} == {LogLevel.warn}


def test_a_systemd_that_does_not_read_does_not_stop_the_broker(manager: Manager) -> None:
    """A full queue of datagrams causes a warning, and the broker does not wait."""
    teller = ServiceManager(manager.environ)
    with logged("gloom.host.systemd") as events:
        while not events:
            teller.tell(WATCHDOG)
    assert isinstance(events[0]["error"], BlockingIOError)
    teller.close()


def test_a_broker_without_a_free_descriptor_still_says_that_it_lives(manager: Manager) -> None:
    """The watchdog is pinged even when peers have taken every descriptor."""
    service, reactor = started({**manager.environ, "WATCHDOG_USEC": "3000000"})
    run(reactor)
    manager.take()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        reactor.advance(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert manager.take() == [WATCHDOG]
    service.stopService()
