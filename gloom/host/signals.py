"""
What the daemon does on signals: SIGTERM and SIGINT drain and then end at once, SIGHUP reloads.

Twisted's own way ends the process by the signal that it got, whatever the
services did; a daemon that was asked to stop and did has status 0.
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
    Takes over the signals once the reactor runs.

    Args:
        reactor: Stopped by the first signal.
        threads: The same reactor, which signal handlers call as other threads would.
        hurry: Called on each further one: end now.
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
        # Twisted sets its own when the reactor starts.
        self._reactor.callWhenRunning(self._take_over)

    def stopService(self) -> None:
        super().stopService()
        # Whatever stopped the reactor: from now on a signal is for ending at once.
        self._stopping = True

    def _take_over(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        # In the middle of anything: the reactor does the rest in its own time.
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
