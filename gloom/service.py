"""
The daemon's life: listening, stopping, and the MultiService of both ports.

Parts are passed in (broker, settings, reactor, endpoints); `gloom.tap` makes
them from a command line, tests make them from doubles.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

import gloom
from gloom.errors import StartupError
from gloom.framing import FlushTurn
from gloom.interfaces import IBroker
from gloom.protocols import MasterProtocol, PeerFactory, SlaveProtocol, address_name
from gloom.settings import Settings

_LOOPBACK = ("127.", "::1", "::ffff:127.")


def exit_with(status: int) -> None:
    """Make the process end with *status* once it ends: neither twistd nor twist has a way to say so."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


class ListenService(Service):
    """
    One listening endpoint that is up, or has stopped the daemon.

    Twisted's `StreamServerEndpointService` logs a failure and runs on deaf.

    Args:
        reactor: What to stop when listening fails late.
        role: ``"masters"`` or ``"slaves"``, for the log.
        endpoint: Where to listen.
        factory: Makes the protocols.
        exit_with: Is told the process's exit status when listening fails late.

    Attributes:
        port: The listening port, or None.

    Raises:
        StartupError: From the start of the service, when it cannot listen.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        role: str,
        endpoint: IStreamServerEndpoint,
        factory: PeerFactory[Any],
        exit_with: Callable[[int], None] = exit_with,
    ) -> None:
        self.port: IListeningPort | None = None
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
        # Not critical: twist would print that before its log begins, and so the same line twice.
        self.log.error("{problem}", problem=problem)
        if self._starting:
            self._problem = problem
        else:
            # Too late for an exception.
            self._exit_with(1)
            self._reactor.callWhenRunning(self._reactor.stop)


def _where_and_why(error: Any) -> str:
    if isinstance(error, CannotListenError):
        why = getattr(error.socketError, "strerror", None) or error.socketError
        if not isinstance(error.port, int):
            return f"{os.fsdecode(error.port)}: {why}"
        host = os.fsdecode(error.interface or "any address")
        return f"{address_name(IPv4Address('TCP', host, error.port))}: {why}"
    if isinstance(error, OSError) and error.filename2 is not None:
        # A unix socket's lock file, made before the socket.
        return f"{os.fsdecode(error.filename2).removesuffix('.lock')}: {error.strerror}"
    return f"its endpoint: {error}"


class BrokerService(MultiService):
    """
    Both ports in front of one broker.

    Args:
        reactor: Clock, and what to stop when listening fails late.
        broker: The `IBroker` that both ports share.
        settings: The broker's limits.
        master_endpoints: Where masters connect.
        slave_endpoints: Where slaves connect.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        broker: IBroker,
        settings: Settings,
        master_endpoints: Sequence[IStreamServerEndpoint],
        slave_endpoints: Sequence[IStreamServerEndpoint],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        clock: IReactorTime = reactor
        flushes = FlushTurn(clock)
        self.masters = PeerFactory(MasterProtocol, broker, settings, clock, flushes)
        self.slaves = PeerFactory(SlaveProtocol, broker, settings, clock, flushes)
        self.listeners = [
            *(ListenService(reactor, "masters", endpoint, self.masters) for endpoint in master_endpoints),
            *(ListenService(reactor, "slaves", endpoint, self.slaves) for endpoint in slave_endpoints),
        ]
        for listener in self.listeners:
            listener.setServiceParent(self)

    def startService(self) -> None:
        super().startService()
        # Not before signals are heard: who waits for this line may stop it at once.
        self._reactor.callWhenRunning(self._is_up)

    def _is_up(self) -> None:
        if self.running:
            self.log.info("gloom {version} is up", version=gloom.__version__)

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # In this order, and each waited for: MultiService would stop all at once.
        self.log.info(
            "stopping: {masters} masters and {slaves} slaves are connected",
            masters=len(self.masters.peers),
            slaves=len(self.slaves.peers),
        )
        for listener in self.listeners:
            stopped = listener.stopService()
            if stopped is not None:
                await stopped
        for factory in (self.masters, self.slaves):
            await factory.close()
        self.log.info("gloom {version} is down", version=gloom.__version__)
