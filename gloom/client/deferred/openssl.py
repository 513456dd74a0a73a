"""
A client's side of TLS for endpoints of Twisted; needs the extra ``gloom[tls]``.

OpenSSL is imported only when TLS is asked for.
"""

from __future__ import annotations

from typing import Any

from gloom.client.tls import ClientTLS
from gloom.errors import SettingsError
from gloom.transport.certificates import read_own_certificate, read_trust_root
from gloom.wire.tls import ALPN


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
            trustRoot=platformTrust() if tls.ca is None else read_trust_root("tls ca", tls.ca),
            acceptableProtocols=[ALPN.encode()],
            extraCertificateOptions=_own_certificate(tls),
        )
    except (SSL.Error, TypeError, ValueError) as error:
        raise SettingsError(f"tls: {error}") from None


def _own_certificate(tls: ClientTLS) -> dict[str, Any]:
    from twisted.internet.ssl import TLSVersion

    options: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_3}
    if tls.certificate is not None:
        options |= read_own_certificate(("tls certificate", "tls key"), tls.certificate, tls.key)
    return options
