"""
Certificates from PEM files as Twisted's TLS takes them; needs the extra ``gloom[tls]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloom.wire.tls import read_certificates, read_private_key


def read_own_certificate(names: tuple[str, str], certificate: Path | str, key: Path | str | None) -> dict[str, Any]:
    """
    Return the certificate that this end shows, as arguments of `twisted.internet.ssl.CertificateOptions`.

    Args:
        names: The roles of both files, which begin the text of an error.
        certificate: PEM file, the certificate first, then its chain.
        key: PEM file of the private key; None where *certificate* holds it too.

    Raises:
        SettingsError: A file cannot be read, or lacks its certificate or key.
    """
    # Of the package cryptography: pyOpenSSL deprecates its own classes, which Twisted's annotations name.
    chain = read_certificates(names[0], certificate)
    private_key = read_private_key(names[1], key or certificate)
    return {"certificate": chain[0], "extraCertChain": chain[1:], "privateKey": private_key}


def read_trust_root(name: str, path: Path | str) -> Any:
    """
    Return the authorities in a PEM file, as Twisted's argument ``trustRoot``.

    Args:
        name: The file's role, which begins the text of an error.
        path: The file.

    Raises:
        SettingsError: It cannot be read, or holds no certificate.
    """
    from cryptography.hazmat.primitives.serialization import Encoding
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    authorities = [one.public_bytes(Encoding.PEM) for one in read_certificates(name, path)]
    return trustRootFromCertificates([Certificate.loadPEM(one) for one in authorities])
