"""The access file: its contents, its error messages, and the identity behind a token or a certificate."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gloom.errors import SettingsError
from gloom.server.access import Access, Identity, certificate_names, hash_token, read_access
from tests.support.certificates import certificate_of

GOOD = f"""
[[identity]]
name = "shop"
token_sha256 = "{hash_token("shop-token")}"
roles = ["master"]
types = ["up", "render-*"]

[[identity]]
name = "farm"
certificate = "farm.example.org"
roles = ["slave", "master"]
types = ["*"]
"""


def access_of(tmp_path: Path, text: str) -> Access:
    file = tmp_path / "access.toml"
    file.write_text(text)
    return read_access(file)


# Files


def test_a_file_is_read(tmp_path: Path) -> None:
    """Each entry becomes an identity with its roles and types, found by its token or its certificate."""
    access = access_of(tmp_path, GOOD)
    shop = access.with_token("shop-token")
    assert shop == Identity("shop", frozenset({"master"}), ("up", "render-*"), hash_token("shop-token"))
    farm = access.with_certificate(["other", "farm.example.org"])
    assert farm == Identity("farm", frozenset({"slave", "master"}), ("*",), None, "farm.example.org")


def entry(**more: Any) -> str:
    """Return the text of one entry with *more* fields; a field that is None is left out."""
    values = {"name": '"shop"', "token_sha256": f'"{"0" * 64}"', "roles": '["master"]', "types": '["*"]'} | more
    return "[[identity]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value is not None)


WRONG_ENTRIES = [
    (entry(colour='"red"'), "'colour' is unknown; there are certificate, name, roles, token_sha256, types"),
    (entry(name=None), "name must be a string that is not empty"),
    (entry(name='""'), "name must be a string that is not empty"),
    (entry(name="5"), "name must be a string that is not empty"),
    (entry(token_sha256=None), "must have token_sha256 or certificate, one of the two"),
    (entry(certificate='"c"'), "must have token_sha256 or certificate, one of the two"),
    (entry(token_sha256='"secret"'), "token_sha256 must be 64 hexadecimal digits in lower case, as gloom token"),
    (entry(token_sha256=f'"{"A" * 64}"'), "token_sha256 must be 64 hexadecimal digits in lower case"),
    (entry(token_sha256=f'"{"0" * 65}"'), "token_sha256 must be 64 hexadecimal digits"),
    (entry(token_sha256="0"), "token_sha256 must be 64 hexadecimal digits"),
    (entry(token_sha256=None, certificate='""'), "certificate must be the name on a client certificate"),
    (entry(token_sha256=None, certificate="5"), "certificate must be the name on a client certificate"),
    (entry(roles=None), 'roles must be a list of "master", "slave" or both'),
    (entry(roles="[]"), "roles must be a list"),
    (entry(roles='"master"'), "roles must be a list"),
    (
        entry(roles='["master", "admin"]'),
        """roles must be a list of "master", "slave" or both, got ['master', 'admin']""",
    ),
    (entry(roles='["master\\n"]'), "roles must be a list"),
    (entry(token_sha256=f'"{"0" * 64}\\n"'), "token_sha256 must be 64 hexadecimal digits"),
    (entry(roles="{master = 1}"), "roles must be a list"),
    (entry(roles='[["master"]]'), "roles must be a list"),
    (entry(types=None), 'types must be a list of patterns such as "render-*"; "*" is every type'),
    (entry(types="[]"), "types must be a list of patterns"),
    (entry(types='"*"'), "types must be a list of patterns"),
    (
        entry(types='["a", 5]'),
        """types must be a list of patterns such as "render-*"; "*" is every type, got ['a', 5]""",
    ),
    (entry(types=f"[{'5, ' * 100}]"), "types must be a list of patterns"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG_ENTRIES, ids=range(len(WRONG_ENTRIES)))
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, problem: str) -> None:
    """The error names the file, the wrong entry and the allowed values; it shows no hash."""
    with pytest.raises(SettingsError, match=f"^access: .*access.toml: identity 3: {re.escape(problem)}") as caught:
        access_of(tmp_path, GOOD + text)
    assert "secret" not in str(caught.value)
    assert "000" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "identity = []", "identity = 5", '[identity]\nname = "shop"', entry() + "[other]\n", "x = 1\n" + entry()],
    ids=range(6),
)
def test_a_file_holds_identities_and_nothing_else(tmp_path: Path, text: str) -> None:
    """A file without entries, or with any other key, is refused, so that a misspelling admits nobody."""
    with pytest.raises(SettingsError, match=r"must hold \[\[identity\]\] entries, one or more, and nothing else"):
        access_of(tmp_path, text)


def test_an_entry_is_a_table(tmp_path: Path) -> None:
    """An entry that is not a table is refused, and named by its number."""
    with pytest.raises(SettingsError, match="identity 1: must be a table"):
        access_of(tmp_path, "identity = [1]")


@pytest.mark.parametrize(
    ("second", "key"),
    [
        (entry(token_sha256=f'"{"1" * 64}"'), "name"),
        (entry(name='"other"'), "token_sha256"),
        (entry(name='"x"', token_sha256=None, certificate='"c"'), "certificate"),
    ],
)
def test_two_entries_must_differ(tmp_path: Path, second: str, key: str) -> None:
    """Two identities with the same name, token or certificate are refused as ambiguous."""
    first = entry(name='"y"', token_sha256=None, certificate='"c"') if key == "certificate" else entry()
    with pytest.raises(SettingsError, match=f"two identities have the same {key}$"):
        access_of(tmp_path, first + second)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A file that is missing, a folder, or not TOML is an error with its path and the reason."""
    with pytest.raises(SettingsError, match=r"access: cannot read .*/no such: No such file or directory$"):
        read_access(tmp_path / "no such")
    with pytest.raises(SettingsError, match=r"access: cannot read .*: Is a directory$"):
        read_access(tmp_path)
    with pytest.raises(SettingsError, match=r"access\.toml is not TOML: "):
        access_of(tmp_path, "name = ")
    (tmp_path / "access.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(SettingsError, match=r"access\.toml is not TOML: "):
        read_access(tmp_path / "access.toml")


# Identities


def test_a_token_is_kept_as_its_hash() -> None:
    """The broker keeps the SHA-256 of the token in UTF-8, which other tools can compute too."""
    assert hash_token("tökén") == hashlib.sha256("tökén".encode()).hexdigest()


def test_only_the_whole_token_is_known() -> None:
    """A token is found among several; a token that differs in any way is not."""
    identities = [Identity(name, frozenset(), (), hash_token(f"token {name}")) for name in "abc"]
    access = Access([*identities, Identity("d", frozenset(), (), certificate="token d")])
    assert [access.with_token(f"token {name}") for name in "abcd"] == [*identities, None]
    for wrong in ("", "token", "token a ", "Token a", hash_token("token a")):
        assert access.with_token(wrong) is None


def test_a_certificate_is_known_by_any_of_its_names() -> None:
    """
    Any one name of a certificate identifies it.

    Names are compared whole; an identity with a token has no certificate.
    """
    known, other = (Identity(name, frozenset(), (), certificate=f"{name}.example.org") for name in ("a", "b"))
    access = Access([Identity("t", frozenset(), (), "0" * 64), known, other])
    assert access.with_certificate(iter(["x", "b.example.org"])) is other
    for names in ([], ["example.org"], ["A.example.org"], ["*.example.org"], ["None"]):
        assert access.with_certificate(names) is None


def test_roles() -> None:
    """An identity has the roles that it was given."""
    both, none = Identity("b", frozenset({"master", "slave"}), ()), Identity("n", frozenset(), ())
    assert both.has_role("master") and both.has_role("slave")
    assert not none.has_role("master") and not none.has_role("slave")


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (["*"], ["a", "A", "*", "\n", "x" * 255, None], []),
        (["render-*"], ["render-", "render-4k", "render-*"], ["render", "Render-4k", "a render-4k", None]),
        (["up", "v?"], ["up", "v1", "v?"], ["upp", "v", "v12", None]),
        (["[ab]", "x.y"], ["a", "b"], ["c", "ab", "xzy", "[ab]"]),
        (["**", "?*"], ["anything"], [None]),
        ([""], [], ["a", None]),
    ],
)
def test_patterns(patterns: list[str], allowed: list[str | None], refused: list[str | None]) -> None:
    """A pattern matches a whole type, case-sensitively. Only the pattern * admits untyped jobs."""
    identity = Identity("i", frozenset(), tuple(patterns))
    assert [type for type in allowed if not identity.has_type(type)] == []
    assert [type for type in refused if identity.has_type(type)] == []


# Certificates


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((None,), []),
        (("shop",), ["shop"]),
        (("shop", "a.example.org", "b.example.org"), ["shop", "a.example.org", "b.example.org"]),
        ((None, "a.example.org"), ["a.example.org"]),
    ],
)
def test_the_names_of_a_certificate(names: tuple[str | None, ...], found: list[str]) -> None:
    """The names of a client's certificate are its common name and all its DNS names."""
    shown = certificate_of(*names)
    assert certificate_names(SimpleNamespace(getPeerCertificate=lambda: shown)) == found


def test_no_certificate_has_no_names() -> None:
    """A client without a certificate has no names."""
    assert certificate_names(SimpleNamespace(getPeerCertificate=lambda: None)) == []
