"""
The access rules: identities with a token or a certificate name, their roles, and their job types.

Implements docs/operations.md, "Access". The rules come from a TOML file:

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
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, ValidationError, convert, structs

from gloom.errors import SettingsError
from gloom.wire.messages import MASTER, SLAVE

# The patterns end with \Z, since $ would admit a final newline.
_Role = Annotated[str, Meta(pattern=rf"^({MASTER}|{SLAVE})\Z")]
_SHA256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Name = Annotated[str, Meta(min_length=1)]
_LONGEST_QUOTE = 100


def hash_token(token: str) -> str:
    """
    Return the hash of *token* that an access file has.

    A plain SHA-256 is enough: tokens are long and random (``gloom token``), so
    a slower hash would protect nothing.
    """
    return hashlib.sha256(token.encode()).hexdigest()


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    """
    One entry of an access file.

    Attributes:
        name: The name in logs and errors.
        roles: ``"master"``, ``"slave"`` or both.
        types: Patterns (``*``, ``?``, ``[...]``) of job types; an untyped job needs ``*``.
        token_sha256: The hash of its token, or None.
        certificate: The name on its client certificate, or None.
    """

    name: _Name
    roles: Annotated[frozenset[_Role], Meta(min_length=1)]
    types: Annotated[tuple[str, ...], Meta(min_length=1)]
    token_sha256: _SHA256 | None = None
    certificate: _Name | None = None

    def has_role(self, role: str) -> bool:
        """Return whether this identity may use the port of *role*."""
        return role in self.roles

    def has_type(self, type: str | None) -> bool:
        """Return whether this identity may submit or take jobs of *type*."""
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
        """Return the identity with *token*, or None, in the same time for every wrong token."""
        digest = hash_token(token)
        found = None
        for identity in self._identities:
            if identity.token_sha256 is not None and hmac.compare_digest(identity.token_sha256, digest):
                found = identity
        return found

    def with_certificate(self, names: Iterable[str]) -> Identity | None:
        """Return the identity with one of the *names* of a certificate, or None."""
        names = set(names)
        return next((identity for identity in self._identities if identity.certificate in names), None)


def read_access(path: Path) -> Access:
    """
    Read an access file.

    Raises:
        SettingsError: The file cannot be read, or an entry is wrong; the text names the entry and the rule.
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


# The rule of each key, for errors.
_RULES = {
    "name": "a string that is not empty",
    "roles": f'a list of "{MASTER}", "{SLAVE}" or both',
    "types": 'a list of patterns such as "render-*"; "*" is every type',
    "token_sha256": "64 hexadecimal digits in lower case, as gloom token prints them",
    "certificate": "the name on a client certificate",
}
# Never quoted: someone may have put the token itself there.
_SECRET = frozenset({"name", "token_sha256", "certificate"})


def _identity(path: Path, number: int, entry: Any) -> Identity:
    try:
        identity = convert(entry, Identity)
    except ValidationError:
        raise SettingsError(f"access: {path}: identity {number}: {_problem(entry)}") from None
    if (identity.token_sha256 is None) == (identity.certificate is None):
        raise SettingsError(f"access: {path}: identity {number}: must have token_sha256 or certificate, one of the two")
    return identity


def _problem(entry: Any) -> str:
    """Return the mistake in *entry*, which is no `Identity`."""
    if not isinstance(entry, dict):
        return "must be a table"
    unknown = sorted(entry.keys() - _RULES.keys())
    if unknown:
        return f"{unknown[0]!r} is unknown; there are {', '.join(sorted(_RULES))}"
    wrong = next(field.name for field in structs.fields(Identity) if not _fits(entry.get(field.name), field.type))
    got = f", got {entry[wrong]!r}"[:_LONGEST_QUOTE] if wrong in entry and wrong not in _SECRET else ""
    return f"{wrong} must be {_RULES[wrong]}{got}"


def _fits(value: Any, type: Any) -> bool:
    try:
        convert(value, type)
    except ValidationError:
        return False
    return True


def certificate_names(transport: Any) -> list[str]:
    """Return the common name and the DNS names of the peer's certificate."""
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
