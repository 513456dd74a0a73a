"""The server's side of TLS: gloom.server.tls with files, and handshakes in memory."""

from __future__ import annotations

import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from gloom.errors import SettingsError
from gloom.server.tls import ServerTLS
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("broker.test", "server")


class Handshake:
    """
    A client's handshake with a server, in memory.

    Attributes:
        client: Python's own TLS.
        server: OpenSSL's connection of the server.
    """

    def __init__(self, tls: ServerTLS, authority: Authority, **client: Any) -> None:
        context = ssl.create_default_context(cafile=authority.file)
        for name, value in client.items():
            if name == "certificate":
                context.load_cert_chain(*value)
            else:
                setattr(context, name, value)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.server = SSL.Connection(tls.getContext(), None)
        self.server.set_accept_state()

    def shake(self) -> None:
        """Perform the handshake; raise the error of either side."""
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            if self._outgoing.pending:
                self.server.bio_write(self._outgoing.read())
            with suppress(SSL.WantReadError):
                self.server.do_handshake()
            with suppress(SSL.WantReadError):
                self._incoming.write(self.server.bio_read(1 << 16))

    def serial_number(self) -> Any:
        self.shake()
        certificate: Any = self.client.getpeercert()
        return certificate["serialNumber"]


def test_tls_1_3_is_spoken_and_nothing_older(files: tuple[Path, Path], authority: Authority) -> None:
    """The server speaks TLS 1.3; a client without it is refused in the handshake."""
    tls = ServerTLS(*files)
    handshake = Handshake(tls, authority)
    handshake.shake()
    assert handshake.client.version() == "TLSv1.3"
    with pytest.raises((SSL.Error, ssl.SSLError)):
        Handshake(tls, authority, maximum_version=ssl.TLSVersion.TLSv1_2).shake()


def test_key_and_certificate_may_be_in_one_file(files: tuple[Path, Path], authority: Authority) -> None:
    """Without a key file, the key is read from the certificate's file."""
    files[0].write_bytes(files[0].read_bytes() + files[1].read_bytes())
    Handshake(ServerTLS(files[0]), authority).shake()


def test_a_client_authority_makes_clients_show_a_certificate(
    files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    """With a client authority, a client must show one of its certificates; none, or a foreign one, is refused."""
    tls = ServerTLS(*files, authority.file)
    handshake = Handshake(tls, authority, certificate=authority.issue("client.test", "client"))
    handshake.shake()
    shown = handshake.server.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    assert "client.test" in shown.subject.rfc4514_string()
    with pytest.raises(SSL.Error):
        Handshake(tls, authority).shake()
    stranger = Authority(tmp_path, "stranger").issue("client.test", "other")
    with pytest.raises(SSL.Error):
        Handshake(tls, authority, certificate=stranger).shake()


def test_new_connections_get_what_was_reloaded(files: tuple[Path, Path], authority: Authority) -> None:
    """After a reload new connections see the new certificate; a failed reload keeps the old one."""
    tls = ServerTLS(*files)
    first = Handshake(tls, authority).serial_number()
    authority.issue("broker.test", "server")
    assert Handshake(tls, authority).serial_number() == first
    tls.reload()
    second = Handshake(tls, authority).serial_number()
    assert second != first
    files[1].write_text("")
    with pytest.raises(SettingsError):
        tls.reload()
    assert Handshake(tls, authority).serial_number() == second


def private(key: Any, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return text


DAMAGED = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("which", "content", "problem"),
    [
        (0, None, "tls-cert: cannot read {file}: No such file or directory"),
        (0, b"junk", "tls-cert: {file} holds no PEM certificate, or a damaged one"),
        (0, DAMAGED, "tls-cert: {file} holds no PEM certificate, or a damaged one"),
        (1, None, "tls-key: cannot read {file}: No such file or directory"),
        (1, b"junk", "tls-key: {file} holds no PEM private key, or one with a password"),
        (1, private(ec.generate_private_key(ec.SECP256R1()), b"secret"), "tls-key: {file} holds no PEM private key, "),
        (1, private(ec.generate_private_key(ec.SECP256R1())), "tls-key: {file} is not a key for "),
        (1, private(x25519.X25519PrivateKey.generate()), "tls-key: {file} is not a key for "),
        (2, None, "tls-client-ca: cannot read {file}: No such file or directory"),
        (2, DAMAGED, "tls-client-ca: {file} holds no PEM certificate, or a damaged one"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    which: int, content: bytes | None, problem: str, files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    """The error is one line with the option, the file and the fault, and shows no part of a key."""
    wrong = tmp_path / "wrong.pem"
    if content is not None:
        wrong.write_bytes(content)
    given = [*files, authority.file]
    given[which] = wrong
    with pytest.raises(SettingsError) as raised:
        ServerTLS(*given)
    text = str(raised.value)
    assert text.startswith(problem.format(file=wrong))
    assert "\n" not in text
    assert "PRIVATE KEY" not in text


def test_without_the_extra_the_line_says_what_to_install(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL is not among gloom's dependencies; --tls-cert without it names the extra to install."""
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    with pytest.raises(SettingsError, match=r"^tls-cert needs the extra gloom\[tls\]: "):
        ServerTLS(*files)
