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
        from OpenSSL import SSL
        from twisted.internet.ssl import CertificateOptions, TLSVersion
    except ImportError as error:
        raise SettingsError(f"tls-cert needs the extra gloom[tls]: {error}") from None
    chain = _certificates("tls-cert", certificate)
    options = CertificateOptions(
        privateKey=_private_key(key),
        certificate=chain[0],
        extraCertChain=chain[1:],
        trustRoot=None if client_ca is None else _trust(client_ca),
        raiseMinimumTo=TLSVersion.TLSv1_3,
        acceptableProtocols=[ALPN],
    )
    try:
        return options.getContext()
    except (SSL.Error, TypeError) as error:
        raise SettingsError(f"tls-key: {key} is not a key for {certificate}: {_reason(error)}") from None


def _certificates(option: str, path: Path) -> list[Any]:
    from cryptography import x509

    text = _read(option, path)
    try:
        return list(x509.load_pem_x509_certificates(text))
    except ValueError:
        raise SettingsError(f"{option}: {path} holds no PEM certificate, or a damaged one") from None


def _private_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read("tls-key", path)
    try:
        return load_pem_private_key(text, None)
    except (TypeError, ValueError):
        raise SettingsError(f"tls-key: {path} holds no PEM private key, or one with a password") from None


def _trust(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    authorities = [one.public_bytes(Encoding.PEM) for one in _certificates("tls-client-ca", path)]
    return trustRootFromCertificates([Certificate.loadPEM(one) for one in authorities])


def _reason(error: Exception) -> str:
    # OpenSSL has a list of (library, function, reason).
    first = error.args[0] if error.args else error
    return str(first[-1][-1]) if isinstance(first, list) and first else str(first)


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{option}: cannot read {path}: {error.strerror}") from None
