"""
The daemon's life: listening, stopping, and the MultiService of both ports.

Parts are passed in (broker, settings, reactor, endpoints); `gloom.tap` makes
them from a command line, tests make them from doubles.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Any

from twisted.application.service import MultiService, Service
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


class ListenService(Service):
    """
    One listening endpoint that is up, or has stopped the daemon.

    Twisted's `StreamServerEndpointService` logs a failure and runs on deaf.

    Args:
        reactor: What to stop when listening fails late.
        role: ``"masters"`` or ``"slaves"``, for the log.
        endpoint: Where to listen.
        factory: Makes the protocols.

    Attributes:
        port: The listening port, or None.

    Raises:
        StartupError: From the start of the service, when it cannot listen.
    """

    log = Logger()

    def __init__(self, reactor: Any, role: str, endpoint: IStreamServerEndpoint, factory: PeerFactory[Any]) -> None:
        self.port: IListeningPort | None = None
        self._reactor = reactor
        self._role = role
        self._endpoint = endpoint
        self._factory = factory
        self._listening: Deferred[Any] | None = None

    def privilegedStartService(self) -> None:
        if self._listening is not None:
            return
        problems: list[str] = []
        self._listening = self._endpoint.listen(self._factory)
        self._listening.addCallbacks(self._listens, self._cannot_listen, errbackArgs=(problems.append,))
        if problems:
            raise StartupError(problems[0])
        # From here on a failure comes too late for an exception.
        self._listening.addErrback(lambda _: None)

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

    def _cannot_listen(self, failure: Failure, tell: Any) -> None:
        if failure.check(CancelledError):
            return
        text = f"gloom: cannot listen for {self._role}: {_why(failure)}"
        if self._reactor.running:
            self.log.critical("{text}", text=text)
            _exit_with(1)
            self._reactor.stop()
        else:
            tell(text)


def _why(failure: Failure) -> str:
    error = failure.value
    if not isinstance(error, CannotListenError):
        return str(failure.getErrorMessage())
    why = getattr(error.socketError, "strerror", None) or error.socketError
    where = os.fsdecode(error.interface or "any address")
    return f"{where} port {error.port}: {why}" if isinstance(error.port, int) else f"{os.fsdecode(error.port)}: {why}"


def _exit_with(status: int) -> None:
    """Make the process end with *status*: neither twistd nor twist has a way to say so."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


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
