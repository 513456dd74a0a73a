"""
SIGHUP: the access file and the certificates are read again, for new connections.
"""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from gloom.errors import SettingsError
from gloom.server.access import read_access
from gloom.server.surroundings import Surroundings
from gloom.server.tls import ServerTLS


class Reload:
    """
    Reads the access file and the certificates again; if either is wrong, both old ones stay in use.

    Args:
        around: Holds the access rules for new connections.
        access: The access file, or None.
        tls: The certificates, or None.
    """

    log = Logger()

    def __init__(self, around: Surroundings, access: Path | None, tls: ServerTLS | None) -> None:
        self._around = around
        self._access = access
        self._tls = tls

    def __call__(self) -> None:
        """Reload, and log the result."""
        if self._access is None and self._tls is None:
            self.log.info("SIGHUP: there is nothing to read again without --access and --tls-cert")
            return
        try:
            allowed = None if self._access is None else read_access(self._access)
            if self._tls is not None:
                self._tls.reload()
        except SettingsError as error:
            self.log.error("SIGHUP: nothing is changed: {error}", error=error)
        else:
            self._around.access = allowed
            self.log.info("SIGHUP: access rules and certificates are read again, for new connections")
