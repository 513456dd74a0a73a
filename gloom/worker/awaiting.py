"""
Functions that return coroutines or Deferreds, in a process that runs one job at a time.

asyncio's loop runs during such a job. If the function's code imports Twisted's
reactor, it gets the asyncio reactor on the same loop, so that one coroutine may
await both kinds. No part of Twisted is imported before that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gloom.worker.lifetime import disregard_stop_signals

if TYPE_CHECKING:
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor

_REACTOR = "twisted.internet.reactor"


class Awaiter(MetaPathFinder, Loader):
    """
    Waits for awaitables, and as an import hook provides Twisted's reactor.

    Attributes:
        reactor: The reactor on this loop, or None until the job's code imports it.
    """

    def __init__(self) -> None:
        self.reactor: AsyncioSelectorReactor | None = None
        self._runner = asyncio.Runner()

    def result_of(self, awaitable: Awaitable[Any]) -> Any:
        """Return the result of a coroutine, a Deferred or an asyncio future, or raise its exception."""
        return self._runner.run(_drive(awaitable))

    def close(self) -> None:
        """Stop the reactor and cancel the remaining tasks of earlier jobs."""
        if self.reactor is not None:
            self.reactor.stop()
            # This run ends the threads of the reactor, which would keep the process alive; the reactor stops it.
            self._runner.get_loop().run_forever()
        self._runner.close()

    # The import hook

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _REACTOR:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return the reactor, in its running state: its loop runs during jobs."""
        from twisted.internet.asyncioreactor import AsyncioSelectorReactor

        loop = self._runner.get_loop()
        self.reactor = AsyncioSelectorReactor(loop)
        self.reactor.startRunning(installSignalHandlers=True)  # SIGCHLD, for spawnProcess
        disregard_stop_signals()
        return self.reactor

    def exec_module(self, module: ModuleType) -> None:
        """Leave the reactor as it is."""

    def foreign_reactor(self) -> str | None:
        """Return the name of a reactor that the function's code has installed, or None."""
        installed: object = sys.modules.get(_REACTOR)
        return None if installed is self.reactor else type(installed).__name__


async def _drive(awaitable: Awaitable[Any]) -> Any:
    return await _Bridge(_await(awaitable), asyncio.get_running_loop())


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class _Bridge:
    """Awaits a coroutine that may await asyncio's futures, Deferreds, or both."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Any = self._coroutine.send
        value: Any = None
        while True:
            try:
                awaited = step(value)
            except StopIteration as done:
                return done.value
            step, value = self._coroutine.send, None
            try:
                if _is_deferred(awaited):
                    yield from self._fired(awaited)
                else:
                    value = yield awaited
            except BaseException as error:
                step, value = self._coroutine.throw, error

    def _fired(self, deferred: Any) -> Generator[Any, Any, None]:
        """Wait until *deferred* has fired; the awaiting coroutine itself takes the result."""
        fired = self._loop.create_future()

        def wake(result: Any) -> Any:
            with suppress(asyncio.InvalidStateError):  # cancelled
                fired.set_result(None)
            return result

        deferred.addBoth(wake)
        try:
            yield from fired
        except asyncio.CancelledError:
            deferred.cancel()
            raise


def _is_deferred(awaited: Any) -> bool:
    # None is a bare yield of asyncio. Code that has a Deferred has imported its module.
    defer = sys.modules.get("twisted.internet.defer")
    return awaited is not None and defer is not None and isinstance(awaited, defer.Deferred)
