"""
Who may do what: identities with a token or a certificate name, roles, and job types.

Implements docs/operations.md, "Access". Read from a TOML file:

    [[identity]]
    name = "renderers"
    token_sha256 = "9f86d081884c7d65..."     # of a long random token: gloom token
    roles = ["slave"]
    types = ["render-*"]

    [[identity]]
    name = "shop"
    certificate = "shop.example.org"         # common name or DNS name of a client certificate
    roles = ["master"]
    types = ["render-*", "mail"]
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gloom.errors import SettingsError
from gloom.wire.messages import MASTER, SLAVE

_KEYS = {"name", "token_sha256", "certificate", "roles", "types"}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_token(token: str) -> str:
    """
    Return what an access file keeps of *token*.

    A plain SHA-256: tokens are long and random (``gloom token``), so there is
    nothing to guess that a slower hash would protect.
    """
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """
    One entry of an access file.

    Attributes:
        name: For logs and errors.
        roles: Of ``"master"`` and ``"slave"``.
        types: Patterns (``*``, ``?``, ``[...]``) of job types; an untyped job needs ``*``.
        token_sha256: The hash of its token, or None.
        certificate: The name on its client certificate, or None.
    """

    name: str
    roles: frozenset[str]
    types: tuple[str, ...]
    token_sha256: str | None = None
    certificate: str | None = None

    def has_role(self, role: str) -> bool:
        """Return whether it may use the port of *role*."""
        return role in self.roles

    def has_type(self, type: str | None) -> bool:
        """Return whether it may have jobs of *type*."""
        if type is None:
            return "*" in self.types
        return any(fnmatch.fnmatchcase(type, pattern) for pattern in self.types)


class Access:
    """
    All identities of an access file.

    Args:
        identities: The entries; no two with one token or certificate name.
    """

    def __init__(self, identities: Sequence[Identity]) -> None:
        self._identities = tuple(identities)

    def with_token(self, token: str) -> Identity | None:
        """Return whose token it is, or None; takes the same time for each wrong one."""
        digest = hash_token(token)
        found = None
        for identity in self._identities:
            if identity.token_sha256 is not None and hmac.compare_digest(identity.token_sha256, digest):
                found = identity
        return found

    def with_certificate(self, names: Iterable[str]) -> Identity | None:
        """Return whose certificate has one of *names*, or None."""
        names = set(names)
        return next((identity for identity in self._identities if identity.certificate in names), None)


def read_access(path: Path) -> Access:
    """
    Read an access file.

    Raises:
        SettingsError: It cannot be read, or an entry is wrong; the text says which and what is allowed.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"access: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"access: {path} is not TOML: {error}") from None
    entries = content.pop("identity", None)
    if content or not isinstance(entries, list) or not entries:
        raise SettingsError(f"access: {path} must hold [[identity]] entries, one or more, and nothing else")
    identities = [_identity(path, number, entry) for number, entry in enumerate(entries, 1)]
    for key in ("name", "token_sha256", "certificate"):
        values = [getattr(identity, key) for identity in identities if getattr(identity, key) is not None]
        if len(set(values)) < len(values):
            raise SettingsError(f"access: {path}: two identities have the same {key}")
    return Access(identities)


def _identity(path: Path, number: int, entry: Any) -> Identity:
    def wrong(what: str) -> SettingsError:
        return SettingsError(f"access: {path}: identity {number}: {what}")

    if not isinstance(entry, dict):
        raise wrong("must be a table")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise wrong(f"{unknown[0]!r} is unknown; there are {', '.join(sorted(_KEYS))}")
    name, token, certificate = entry.get("name"), entry.get("token_sha256"), entry.get("certificate")
    roles, types = entry.get("roles"), entry.get("types")
    if not isinstance(name, str) or not name:
        raise wrong("name must be a string that is not empty")
    if (token is None) == (certificate is None):
        raise wrong("must have token_sha256 or certificate, one of the two")
    if token is not None and not (isinstance(token, str) and _SHA256.fullmatch(token)):
        raise wrong("token_sha256 must be 64 hexadecimal digits in lower case, as gloom token prints them")
    if certificate is not None and not (isinstance(certificate, str) and certificate):
        raise wrong("certificate must be the name on a client certificate")
    if not isinstance(roles, list) or not roles or not all(role in (MASTER, SLAVE) for role in roles):
        raise wrong('roles must be a list of "master", "slave" or both')
    if not isinstance(types, list) or not types or not all(isinstance(type, str) for type in types):
        raise wrong('types must be a list of patterns such as "render-*"; "*" is every type')
    return Identity(name, frozenset(roles), tuple(types), token, certificate)


def certificate_names(transport: Any) -> list[str]:
    """Return the common name and the DNS names of the client certificate that *transport* was shown."""
    shown = transport.getPeerCertificate()
    if shown is None:
        return []
    from cryptography import x509

    certificate = shown.to_cryptography()
    names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return names
    return [*names, *alternatives.value.get_values_for_type(x509.DNSName)]
