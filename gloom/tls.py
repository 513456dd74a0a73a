"""
TLS for the daemon's ports: TLS 1.3, client certificates, and new files without a restart.

What Twisted's endpoint strings cannot say. Needs the extra ``gloom[tls]``, so
OpenSSL is imported only when TLS is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloom.errors import SettingsError

#: A client that offers ALPN to a server that has none is refused, so the server has one.
ALPN = b"gloom/1"


class ServerTLS:
    """
    The server's side of TLS; give it to `twisted.internet.endpoints.wrapServerTLS`.

    Args:
        certificate: PEM file, the server's certificate first, then its chain.
        key: PEM file of its private key; None where *certificate* holds it too.
        client_ca: PEM file of the authorities whose client certificates are
            asked for and accepted; None asks for none.

    Raises:
        SettingsError: A file cannot be read or used; the text says which.
    """

    def __init__(self, certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> None:
        self._files = (certificate, key or certificate, client_ca)
        self.reload()

    def reload(self) -> None:
        """
        Read the files again, for the connections that come from now on.

        Raises:
            SettingsError: As above; the old ones stay in use.
        """
        self._context = _context(*self._files)

    def getContext(self) -> Any:
        """Return OpenSSL's context for the next connection (Twisted's context factory)."""
        return self._context


def _context(certificate: Path, key: Path, client_ca: Path | None) -> Any:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
        from OpenSSL import SSL
        from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, trustRootFromCertificates
    except ImportError as error:
        raise SettingsError(f"tls-cert needs the extra gloom[tls]: {error}") from None
    try:
        chain = x509.load_pem_x509_certificates(_read("tls-cert", certificate))
    except ValueError as error:
        raise SettingsError(f"tls-cert: {certificate} holds no PEM certificate: {error}") from None
    try:
        private = load_pem_private_key(_read("tls-key", key), None)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"tls-key: {key} holds no PEM private key without a password: {error}") from None
    trust = None
    if client_ca is not None:
        try:
            authorities = x509.load_pem_x509_certificates(_read("tls-client-ca", client_ca))
        except ValueError as error:
            raise SettingsError(f"tls-client-ca: {client_ca} holds no PEM certificate: {error}") from None
        trust = trustRootFromCertificates([Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in authorities])
    options = CertificateOptions(
        privateKey=private,  # type: ignore[arg-type]  # Twisted takes cryptography's objects too
        certificate=chain[0],  # type: ignore[arg-type]
        extraCertChain=chain[1:],  # type: ignore[arg-type]
        trustRoot=trust,
        raiseMinimumTo=TLSVersion.TLSv1_3,
        acceptableProtocols=[ALPN],
    )
    try:
        return options.getContext()
    except SSL.Error as error:
        raise SettingsError(f"tls-key: {key} is not the key of {certificate}: {error}") from None


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{option}: cannot read {path}: {error.strerror}") from None
