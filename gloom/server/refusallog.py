"""
The log of refused credentials.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from gloom.errors import ProtocolError
from gloom.logs import PeerLogger

# At most one log line in this time, however many credentials are refused.
_REFUSALS_LOG_SECONDS = 10.0


class RefusalLog:
    """
    Counts refused credentials, and logs them without letting a stranger fill the log.

    Attributes:
        count: How many there were in all.
    """

    log = PeerLogger()

    def __init__(self, clock: IReactorTime) -> None:
        self.count = 0
        self._clock = clock
        self._told = 0
        self._next_seconds = 0.0

    def add(self, peer: str, error: ProtocolError) -> None:
        """Count one, and log it if it is time."""
        self.count += 1
        now = self._clock.seconds()
        if now >= self._next_seconds:
            self._next_seconds = now + _REFUSALS_LOG_SECONDS
            new, self._told = self.count - self._told, self.count
            self.log.warn(
                "{peer}: {code}: {reason} ({new} since the last such line, {count} in all)",
                peer=peer,
                code=error.code,
                reason=error.reason,
                new=new,
                count=self.count,
            )
