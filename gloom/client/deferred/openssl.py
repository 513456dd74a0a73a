"""
A client's side of TLS for endpoints of Twisted; needs the extra ``gloom[tls]``.

OpenSSL is imported only when TLS is asked for.
"""

from __future__ import annotations

from typing import Any

from gloom.client.tls import ALPN, ClientTLS, read_pem
from gloom.errors import SettingsError


def client_options(tls: ClientTLS, host: str) -> Any:
    """
    Return the options of Twisted's ``wrapClientTLS`` for a broker on *host*.

    Raises:
        SettingsError: A file cannot be read or used, or the extra ``gloom[tls]`` is not installed.
    """
    try:
        from OpenSSL import SSL
        from twisted.internet.ssl import optionsForClientTLS, platformTrust
    except ImportError as error:
        raise SettingsError(f"TLS needs the extra gloom[tls]: {error}") from None
    # Python's ssl reads the files first, because its errors are clearer.
    tls.ssl_context()
    try:
        return optionsForClientTLS(
            tls.server_name or host,
            trustRoot=platformTrust() if tls.ca is None else _authorities(read_pem("ca", tls.ca)),
            acceptableProtocols=[ALPN.encode()],
            extraCertificateOptions=_own_certificate(tls),
        )
    except (SSL.Error, TypeError, ValueError) as error:
        raise SettingsError(f"tls: {error}") from None


def _own_certificate(tls: ClientTLS) -> dict[str, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from twisted.internet.ssl import TLSVersion

    options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_3}
    if tls.certificate is not None:
        chain = x509.load_pem_x509_certificates(read_pem("certificate", tls.certificate))
        key = load_pem_private_key(read_pem("key", tls.key or tls.certificate), None)
        options |= {"certificate": chain[0], "extraCertChain": chain[1:], "privateKey": key}
    return options


def _authorities(pem: bytes) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    authorities = x509.load_pem_x509_certificates(pem)
    return trustRootFromCertificates([Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in authorities])
