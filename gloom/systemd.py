"""
What systemd is told: ready, alive, stopping (sd_notify(3), sd_watchdog_enabled(3)).

A plain datagram socket: the protocol is one ``sendto``, not worth a dependency
(docs/decisions/0006-dependencies.md). Without ``NOTIFY_SOCKET`` nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger()


def notify(environ: Mapping[str, str], *lines: str) -> bool:
    """
    Send *lines* to the service manager.

    Returns:
        Whether there is one and it took them.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(address)
            sender.sendall("\n".join(lines).encode())
        except OSError as error:
            _log.warn("systemd was not told {lines}: {error}", lines=lines, error=error)
            return False
    return True


class SystemdService(Service):
    """
    Tells systemd ``READY=1`` once the reactor runs, ``WATCHDOG=1`` while it turns, ``STOPPING=1`` at the end.

    The pings come from the reactor on purpose: a reactor that hangs stops them.

    Args:
        reactor: Clock and event loop.
        environ: Where systemd's variables are.
    """

    def __init__(self, reactor: Any, environ: Mapping[str, str] = os.environ) -> None:
        self._reactor = reactor
        self._environ = environ
        self._watchdog: LoopingCall | None = None

    def startService(self) -> None:
        super().startService()
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        if not self.running:
            return
        notify(self._environ, "READY=1", f"MAINPID={os.getpid()}")
        seconds = self._watchdog_seconds()
        if seconds:
            self._watchdog = LoopingCall(notify, self._environ, "WATCHDOG=1")
            self._watchdog.clock = self._reactor
            # Three in the allowed time: one late ping is no reason to be killed.
            self._watchdog.start(seconds / 3)

    def _watchdog_seconds(self) -> float:
        pid = self._environ.get("WATCHDOG_PID", str(os.getpid()))
        microseconds = self._environ.get("WATCHDOG_USEC", "0")
        if pid != str(os.getpid()) or not microseconds.isdecimal():
            return 0.0
        return int(microseconds) / 1e6

    def stopService(self) -> None:
        super().stopService()
        notify(self._environ, "STOPPING=1")
        if self._watchdog is not None and self._watchdog.running:
            self._watchdog.stop()
