"""
The daemon's service: both ports listen, drain and close.

Surroundings, reactor and endpoints are passed in: `gloom.tap` makes them from a
command line, tests from doubles.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable, Container, Sequence
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorCore, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

import gloom
from gloom.broker.memory import MemoryBroker
from gloom.errors import StartupError
from gloom.server.access import Access
from gloom.server.peers import PeerFactory, address_name
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.server.surroundings import Surroundings
from gloom.server.timer import Alarm
from gloom.settings import Settings
from gloom.transport.clock import monotonic
from gloom.transport.deferreds import fire

_LOOPBACK = ("127.", "::1", "::ffff:127.")


def exit_with(status: int) -> None:
    """Set the exit status of the process: neither twistd nor twist has a way to do so."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


def memory_surroundings(settings: Settings, clock: IReactorTime, access: Access | None = None) -> Surroundings:
    """Return surroundings with a new in-memory broker and its alarm on *clock*."""
    alarm = Alarm(monotonic(clock))
    broker = MemoryBroker(settings, alarm.set)
    alarm.ring = broker.deadline_passed
    return Surroundings(broker, settings, clock, access, alarm)


class ListenService(Service):
    """
    One listening endpoint; a failure to listen stops the daemon.

    Twisted's `StreamServerEndpointService` logs the failure and runs on without a port.

    Args:
        reactor: Stopped when listening fails after the start.
        role: ``"masters"`` or ``"slaves"``, for the log.
        endpoint: The endpoint.
        factory: Makes the protocols.
        is_encrypted: Whether its connections use TLS.
        exit_with: Sets the exit status when listening fails after the start.

    Attributes:
        port: The listening port, or None.
        is_encrypted: As above.

    Raises:
        StartupError: From the start of the service, if the endpoint cannot listen.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorCore,
        role: str,
        endpoint: IStreamServerEndpoint,
        factory: PeerFactory[Any],
        *,
        is_encrypted: bool = False,
        exit_with: Callable[[int], None] = exit_with,
    ) -> None:
        self.port: IListeningPort | None = None
        self.is_encrypted = is_encrypted
        self._reactor = reactor
        self._role = role
        self._endpoint = endpoint
        self._factory = factory
        self._exit_with = exit_with
        self._listening: Deferred[Any] | None = None
        self._starting = False
        self._problem: str | None = None

    def privilegedStartService(self) -> None:
        if self._listening is not None:
            return
        self._starting = True
        self._listening = self._endpoint.listen(self._factory)
        self._listening.addCallbacks(self._listens, self._cannot_listen)
        self._starting = False
        if self._problem is not None:
            raise StartupError(self._problem)

    def startService(self) -> None:
        super().startService()
        self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        if self.port is not None:
            port, self.port = self.port, None
            stopped: Deferred[Any] | None = port.stopListening()
            return stopped
        if self._listening is not None:
            self._listening.cancel()
        return None

    @property
    def is_reachable(self) -> bool:
        """Whether other hosts may be able to connect."""
        host = None if self.port is None else getattr(self.port.getHost(), "host", None)
        return host is not None and not host.startswith(_LOOPBACK)

    def _listens(self, port: IListeningPort) -> None:
        self.port = port
        address = port.getHost()
        host = getattr(address, "host", None)
        if host is None:
            place = os.fsdecode(getattr(address, "name", None) or "a socket without a name")
        else:
            place = address_name(address)
        if host is not None and host.startswith(_LOOPBACK):
            place += " (this host only; --interface ADDR opens it to others)"
        self.log.info("{role} on {place}", role=self._role, place=place)

    def _cannot_listen(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        problem = f"cannot listen for {self._role} on {_where_and_why(failure.value)}"
        if _is_taken(failure.value):
            problem += f" (--{self._role.removesuffix('s')}-port chooses another)"
        # Not critical: twist prints critical events before its log begins, so the line would appear twice.
        self.log.error("{problem}", problem=problem)
        if self._starting:
            self._problem = problem
        else:
            # Too late for an exception.
            self._exit_with(1)
            self._reactor.callWhenRunning(self._reactor.stop)


def _is_taken(error: Any) -> bool:
    """Return whether another process listens on a TCP port."""
    return isinstance(error, CannotListenError) and getattr(error.socketError, "errno", None) == errno.EADDRINUSE


def _where_and_why(error: Any) -> str:
    if isinstance(error, CannotListenError):
        why = getattr(error.socketError, "strerror", None) or error.socketError
        if not isinstance(error.port, int):
            return f"{os.fsdecode(error.port)}: {why}"
        host = os.fsdecode(error.interface or "any address")
        return f"{address_name(IPv4Address('TCP', host, error.port))}: {why}"
    if isinstance(error, OSError) and error.filename2 is not None:
        # The lock file of a unix socket, created before the socket.
        return f"{os.fsdecode(error.filename2).removesuffix('.lock')}: {error.strerror}"
    return f"its endpoint: {error}"


class BrokerService(MultiService):
    """
    Both ports in front of one broker.

    Args:
        reactor: Says when it runs; stopped when listening fails after the start.
        around: The broker, and the other state that both ports share.
        master_endpoints: Endpoints for masters.
        slave_endpoints: Endpoints for slaves.
        encrypted: Those of both with TLS.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorCore,
        around: Surroundings,
        master_endpoints: Sequence[IStreamServerEndpoint],
        slave_endpoints: Sequence[IStreamServerEndpoint],
        *,
        encrypted: Container[IStreamServerEndpoint] = (),
    ) -> None:
        super().__init__()
        self._around = around
        self._reactor = reactor
        # Fires when no job is in hand any more, or on `hurry`.
        self._drained: Deferred[None] = Deferred()
        self.masters = PeerFactory(MasterProtocol, around)
        self.slaves = PeerFactory(SlaveProtocol, around)
        ports: tuple[tuple[str, PeerFactory[Any], Sequence[IStreamServerEndpoint]], ...] = (
            ("masters", self.masters, master_endpoints),
            ("slaves", self.slaves, slave_endpoints),
        )
        self.listeners = [
            ListenService(reactor, role, endpoint, factory, is_encrypted=endpoint in encrypted)
            for role, factory, endpoints in ports
            for endpoint in endpoints
        ]
        for listener in self.listeners:
            listener.setServiceParent(self)

    def startService(self) -> None:
        super().startService()
        self._warn_if_open()
        # After the signal handlers are installed: a script may send a signal as soon as it reads this line.
        self._reactor.callWhenRunning(self._is_up)

    def _is_up(self) -> None:
        if self.running:
            self.log.info("gloom {version} is up", version=gloom.__version__)

    def _warn_if_open(self) -> None:
        reachable = [listener for listener in self.listeners if listener.is_reachable]
        if not all(listener.is_encrypted for listener in reachable):
            self.log.warn("open to other hosts, and anyone on the network can read the jobs (--tls-cert)")
        if reachable and self._around.access is None:
            self.log.warn("open to other hosts, and anyone who can connect may submit and take jobs (--access)")

    def stopService(self) -> Deferred[None]:
        """Drain and close (docs/operations.md, "Stopping"); the Deferred fires when no connection is left."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """End the drain: fail the jobs in hand, and drop every connection."""
        fire(self._drained)
        for factory in (self.masters, self.slaves):
            factory.abort()

    async def _stop(self) -> None:
        # One after the other: MultiService would stop all at once.
        for listener in self.listeners:
            stopped = listener.stopService()
            if stopped is not None:
                await stopped
        self.log.info(
            "stopping: no more connections; {masters} masters and {slaves} slaves are connected",
            masters=len(self.masters.peers),
            slaves=len(self.slaves.peers),
        )
        seconds = self._around.clock.seconds
        ends = seconds() + self._around.settings.drain_seconds
        await self._drain()
        for factory in (self.masters, self.slaves):
            await factory.close(ends - seconds())
        self._around.stop()
        self.log.info("gloom {version} is down", version=gloom.__version__)

    async def _drain(self) -> None:
        broker = self._around.broker
        seconds = self._around.settings.drain_seconds
        drained, clock = self._drained, self._around.clock
        now = clock.seconds
        ended: Deferred[None] = Deferred()

        def no_job_is_left() -> None:
            fire(drained)
            fire(ended)

        for factory in (self.masters, self.slaves):
            factory.quiet()
        # In a later turn: this closes connections, which must not call the broker while it is in a call.
        broker.drain(now(), lambda: clock.callLater(0, no_job_is_left))
        if not broker.unanswered:
            self.log.info("drained: no job was in hand")
            return
        self.log.info(
            "draining: {jobs} jobs in hand may take {seconds:g} s more", jobs=broker.unanswered, seconds=seconds
        )
        drained.addTimeout(seconds, clock, onTimeoutCancel=lambda *_: None)
        await drained
        if broker.unanswered:
            self.log.warn("ending {jobs} jobs that are still in hand", jobs=broker.unanswered)
            broker.abandon(now())
            await ended
        else:
            self.log.info("drained: every job has its outcome")
