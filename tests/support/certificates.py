"""Certificates in the form that a TLS transport returns them, generated on the spot."""

from __future__ import annotations

import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

ANY_DAY = datetime.datetime(2020, 1, 1)


class Shown:
    """The part of a `getPeerCertificate` result that gloom reads."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate

    def to_cryptography(self) -> x509.Certificate:
        return self._certificate


@cache
def certificate_of(common_name: str | None, *alternatives: str) -> Shown:
    """Return a certificate with *common_name*, and with *alternatives* as further DNS names."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [] if common_name is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)]
    name = x509.Name(attributes)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ANY_DAY)
        .not_valid_after(ANY_DAY + datetime.timedelta(days=1))
    )
    if alternatives:
        names: list[x509.GeneralName] = [x509.DNSName(one) for one in alternatives]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Shown(builder.sign(key, hashes.SHA256()))
