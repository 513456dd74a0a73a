"""Masters and slaves around a broker in memory. A test must end without leftovers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from gloom.client.deferred import Master, Slave
from gloom.client.deferred.link import BrokerLink
from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer

# Longer than any stop may take: 30 s for the running job, 1 s for the broker to close.
STOPPING_SECONDS = 31.0

Link = TypeVar("Link", bound=BrokerLink)


class Farm:
    """
    A broker in memory, and the services of a test.

    As a context it stops them all at the end, and fails the test if one does
    not stop, or leaves a timer or an unanswered job.

    Attributes:
        gloom: The broker.
        services: Every service that was made, also those that were stopped.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.gloom = MemoryGloom(settings)
        self.services: list[BrokerLink] = []
        self.advance = self.gloom.advance

    def master(self, *, start: bool = True, **options: Any) -> Master:
        return self.add(Master(self.gloom.master_endpoint, reactor=self.gloom.clock, **options), start)

    def slave(
        self, type: str | list[str] | None, function: Callable[[Any], Any], *, start: bool = True, **options: Any
    ) -> Slave:
        return self.add(Slave(self.gloom.slave_endpoint, type, function, reactor=self.gloom.clock, **options), start)

    def add(self, service: Link, start: bool = True) -> Link:
        """Add *service* to those that are stopped at the end, and start it."""
        self.services.append(service)
        if start:
            service.startService()
            self.advance()
        return service

    def raw_slave(self, type: str | None, *, extended: bool = False) -> RawPeer:
        """Return a joined slave whose messages the test sends itself."""
        slave = self.gloom.slave()
        if extended:
            slave.ask({"action": "hello", "version": 1, "name": "raw"})
        slave.send({"action": "join", "type": type})
        # Discard the reply; keep a job that arrived with it.
        slave.frames = [frame for frame in slave.frames if b'"action":"job"' in frame]
        return slave

    def drop(self, seconds: float = 0.2) -> None:
        """End every connection, and let the clients reconnect."""
        self.gloom.drop_all()
        self.advance(seconds)

    def crash(self, seconds: float = 0.2) -> None:
        """Replace the broker by an empty one, as a crash does."""
        self.gloom.restart()
        self.drop(seconds)

    def result(self, deferred: Deferred[Any]) -> Any:
        """Deliver all messages, and return the result of *deferred*."""
        self.advance()
        return self.gloom.result(deferred)

    def stop(self, service: BrokerLink, seconds: float = STOPPING_SECONDS) -> None:
        stopped = service.stopService()
        self.advance()
        self.advance(seconds)
        self.result(stopped)

    def __enter__(self) -> Farm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stopped = [service.stopService() for service in self.services]
        if error is not None:
            return
        self.advance()
        self.advance(STOPPING_SECONDS)
        for one in stopped:
            self.result(one)
        self.gloom.drop_all()
        unanswered = [one.unanswered for one in self.services if isinstance(one, Master)]
        assert not any(unanswered), f"unanswered jobs were left: {unanswered}"
        assert self.gloom.clock.getDelayedCalls() == []


class Firings:
    """Every firing of the Deferreds of many jobs, so that a test sees a second one."""

    def __init__(self) -> None:
        self.answers: list[tuple[Any, Any]] = []

    def of(self, deferreds: Sequence[Deferred[Any]]) -> Firings:
        """Watch *deferreds*; each recorded answer names its Deferred by index."""
        for index, deferred in enumerate(deferreds):
            deferred.addBoth(self._fired, index)
        return self

    def _fired(self, result: Any, index: int) -> None:
        self.answers.append((index, result))

    def failures(self) -> list[BaseException]:
        return [result.value for _, result in self.answers if isinstance(result, Failure) and result.value]


class Scripted(Factory):
    """
    A server that the test scripts.

    Args:
        build: Returns the protocol of one more connection.
    """

    noisy = False

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Any:
        return self._build()
