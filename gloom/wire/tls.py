"""
TLS as both ends use it: the protocol's ALPN name, and PEM files.

Certificates and keys need the extra ``gloom[tls]``, so `cryptography` is
imported by the functions that return them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gloom.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

#: The ALPN name. A server without one refuses every client that offers one.
ALPN = "gloom/1"


def read_pem(name: str, path: Path | str) -> bytes:
    """
    Return the content of a file.

    Args:
        name: The file's role, which begins the text of an error: ``tls-cert``.
        path: The file.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {path}: {error.strerror}") from None


def read_certificates(name: str, path: Path | str) -> list[Certificate]:
    """
    Return the certificates in a file, one or more.

    Args:
        name: As for `read_pem`.
        path: The file.

    Raises:
        SettingsError: It cannot be read, or holds no certificate.
    """
    from cryptography.x509 import load_pem_x509_certificates

    pem = read_pem(name, path)
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise SettingsError(f"{name}: {path} holds no PEM certificate, or a damaged one") from None


def read_private_key(name: str, path: Path | str) -> PrivateKeyTypes:
    """
    Return the private key in a file.

    Args:
        name: As for `read_pem`.
        path: The file.

    Raises:
        SettingsError: It cannot be read, or holds no key, or an encrypted one.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_pem(name, path)
    try:
        return load_pem_private_key(pem, None)
    except (TypeError, ValueError):
        raise SettingsError(f"{name}: {path} holds no PEM private key, or one with a password") from None
