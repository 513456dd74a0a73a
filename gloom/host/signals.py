"""
The daemon's signals: SIGTERM and SIGINT drain it, a second one ends it at once, SIGHUP reloads.

Twisted's own handlers end the process by the signal, even after a clean stop; a
daemon that has stopped on request exits with status 0.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import Logger


class SignalService(Service):
    """
    Installs the signal handlers once the reactor runs.

    Args:
        reactor: Stopped by the first signal.
        threads: The same reactor, which signal handlers call as other threads would.
        hurry: Called on each further signal, to end now.
        reload: Called on SIGHUP.
    """

    log = Logger()

    def __init__(
        self,
        reactor: IReactorCore,
        threads: IReactorFromThreads,
        hurry: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._threads = threads
        self._hurry = hurry
        self._reload = reload
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        # Not before: the reactor installs its own handlers when it starts.
        self._reactor.callWhenRunning(self._take_over)

    def stopService(self) -> None:
        super().stopService()
        # Also if no signal has stopped the reactor: the next signal ends the drain at once.
        self._stopping = True

    def _take_over(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        # Python runs handlers between any two instructions; the reactor calls the rest in a turn of its own.
        if number == signal.SIGHUP:
            self._threads.callFromThread(self._reload)
        else:
            self._threads.callFromThread(self._stop, signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:
            self.log.warn("{signal} again: ending now", signal=number.name)
            self._hurry()
        else:
            self._stopping = True
            self.log.info("{signal}: stopping", signal=number.name)
            self._reactor.stop()
