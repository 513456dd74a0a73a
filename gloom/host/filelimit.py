"""
The limit on file descriptors: each connection takes one, and a shell's default allows few.

The soft limit is raised up to the hard limit, which needs no privilege
(docs/operations.md, "Limits").
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from twisted.application.service import Service
from twisted.logger import Logger

#: Descriptors for all else: standard streams, log, ports, epoll, systemd, and one to accept and refuse with.
RESERVED_DESCRIPTORS = 64

Limits = tuple[int, int]


def _get_limits() -> Limits:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _set_limits(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def fitting_connections(wanted: int, get_limits: Callable[[], Limits] = _get_limits) -> int:
    """
    Return *wanted*, or as many connections as the hard limit of descriptors has room for.

    Args:
        wanted: A number of connections; returned as it is where not even one fits.
        get_limits: Returns the soft and the hard limit.
    """
    _soft, hard = get_limits()
    most = hard - RESERVED_DESCRIPTORS
    return wanted if hard == resource.RLIM_INFINITY or most < 1 else min(wanted, most)


class DescriptorService(Service):
    """
    Raises the soft limit of descriptors at its start, and warns if the hard limit is too low.

    Args:
        max_connections: Connections that need a descriptor each.
        get_limits: Returns the soft and the hard limit.
        set_limits: Sets both.
    """

    log = Logger()

    def __init__(
        self,
        max_connections: int,
        get_limits: Callable[[], Limits] = _get_limits,
        set_limits: Callable[[Limits], None] = _set_limits,
    ) -> None:
        self._max_connections = max_connections
        self._get_limits = get_limits
        self._set_limits = set_limits

    def startService(self) -> None:
        super().startService()
        wanted = self._max_connections + RESERVED_DESCRIPTORS
        has = self._raise_to(wanted)
        if has < wanted:
            self.log.warn(
                "{connections} connections need {wanted} descriptors, and this process may have {has}: "
                "raise its hard limit (ulimit -Hn, LimitNOFILE=), or lower --max-connections",
                connections=self._max_connections,
                wanted=wanted,
                has=has,
            )

    def _raise_to(self, wanted: int) -> int:
        """Raise the soft limit to *wanted* if the hard limit allows it, and return it."""
        soft, hard = self._get_limits()
        if _is_at_least(soft, wanted):
            return wanted
        most = wanted if _is_at_least(hard, wanted) else hard
        try:
            self._set_limits((most, hard))
        except (OSError, ValueError):
            # A sandbox may forbid it.
            return soft
        return most


def _is_at_least(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
