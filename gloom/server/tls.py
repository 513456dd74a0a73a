"""
TLS for the daemon's ports: TLS 1.3, client certificates, and new files without a restart.

Twisted's endpoint descriptions have none of these. TLS needs the extra
``gloom[tls]``, so OpenSSL is imported only when there are certificates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gloom.errors import SettingsError
from gloom.transport.certificates import read_own_certificate, read_trust_root
from gloom.wire.tls import ALPN

if TYPE_CHECKING:
    from OpenSSL import SSL


class ServerTLS:
    """
    The server's side of TLS; give it to `twisted.internet.endpoints.wrapServerTLS`.

    Args:
        certificate: PEM file, the server's certificate first, then its chain.
        key: PEM file of its private key; None where *certificate* holds it too.
        client_ca: PEM file of the authorities; a client must show a certificate
            of one of them. None asks for no client certificate.

    Raises:
        SettingsError: A file cannot be read or used; the text names it.
    """

    def __init__(self, certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> None:
        self._files = (certificate, key or certificate, client_ca)
        self.reload()

    def reload(self) -> None:
        """
        Read the files again, for new connections.

        Raises:
            SettingsError: As above; the old certificates stay in use.
        """
        self._context = _context(*self._files)

    def getContext(self) -> SSL.Context:
        """Return OpenSSL's context for the next connection (Twisted's context factory)."""
        return self._context


def _context(certificate: Path, key: Path, client_ca: Path | None) -> SSL.Context:
    try:
        from OpenSSL import SSL
        from twisted.internet.ssl import CertificateOptions, TLSVersion
    except ImportError as error:
        raise SettingsError(f"tls-cert needs the extra gloom[tls]: {error}") from None
    options = CertificateOptions(
        **read_own_certificate(("tls-cert", "tls-key"), certificate, key),
        trustRoot=None if client_ca is None else read_trust_root("tls-client-ca", client_ca),
        raiseMinimumTo=TLSVersion.TLSv1_3,
        acceptableProtocols=[ALPN.encode()],
    )
    try:
        return options.getContext()
    except (SSL.Error, TypeError) as error:
        raise SettingsError(f"tls-key: {key} is not a key for {certificate}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    # OpenSSL's argument is a list of (library, function, reason).
    first = error.args[0] if error.args else error
    return str(first[-1][-1]) if isinstance(first, list) and first else str(first)
