"""
Notifications to systemd: ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)).

A datagram socket is enough: the protocol is one ``sendto``, not worth a dependency
(docs/decisions/0006-dependencies.md). Without ``NOTIFY_SOCKET`` nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class ServiceManager:
    """
    The socket of systemd, if systemd has started this process.

    Args:
        environ: Has ``NOTIFY_SOCKET``.
    """

    log = Logger()

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path[:1] == "@" else path
        self._socket: socket.socket | None = None
        if path[:1] in ("/", "@"):
            # Kept open: a broker without a free descriptor must still send its pings.
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # A systemd that does not read must not block the broker.
            self._socket.setblocking(False)

    def tell(self, *lines: str) -> None:
        """Send *lines* in one datagram; a failure is only logged."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            self.log.warn("systemd was not told {lines}: {error}", lines=" ".join(lines), error=error)

    def close(self) -> None:
        """Close the socket; `tell` does nothing from now on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SystemdService(Service):
    """
    Sends ``READY=1`` once the reactor runs, ``WATCHDOG=1`` at intervals, ``STOPPING=1`` at the end.

    The reactor sends the pings on purpose: if it hangs, they stop.

    Args:
        reactor: Says when it runs.
        clock: Times the pings of the watchdog.
        environ: Has systemd's variables.
    """

    def __init__(self, reactor: IReactorCore, clock: IReactorTime, environ: Mapping[str, str] = os.environ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._environ = environ
        self._manager: ServiceManager | None = None
        self._watchdog: LoopingCall | None = None

    def startService(self) -> None:
        super().startService()
        self._manager = ServiceManager(self._environ)
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        if self._manager is None:
            return
        self._manager.tell("READY=1", f"MAINPID={os.getpid()}")
        seconds = self._watchdog_seconds()
        if seconds:
            self._watchdog = LoopingCall(self._manager.tell, "WATCHDOG=1")
            self._watchdog.clock = self._clock
            # Three pings in the allowed time: a single late one has no consequence.
            self._watchdog.start(seconds / 3)

    def _watchdog_seconds(self) -> float:
        pid = self._environ.get("WATCHDOG_PID", str(os.getpid()))
        microseconds = self._environ.get("WATCHDOG_USEC", "0")
        if pid != str(os.getpid()) or not microseconds.isdecimal():
            return 0.0
        return int(microseconds) / 1e6

    def stopService(self) -> None:
        super().stopService()
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()
        if self._manager is not None:
            self._manager.tell("STOPPING=1")
            self._manager.close()
            self._manager = None
