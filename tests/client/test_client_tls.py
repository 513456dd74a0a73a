"""The files that a client speaks TLS with, where they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from gloom.client.deferred.address import client_endpoint
from gloom.client.tls import ClientTLS
from gloom.errors import SettingsError
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def endpoint(tls: ClientTLS) -> Any:
    return client_endpoint(reactor, "localhost:9998", tls)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    """Both clients say which, and why."""
    empty = tmp_path / "empty"
    empty.touch()
    certificate, key = authority.issue("one", "one")
    _, other_key = authority.issue("other", "other")
    for tls, said in (
        (ClientTLS(ca=tmp_path / "none"), f"tls ca: cannot read {tmp_path}/none: No such file or directory"),
        (ClientTLS(ca=empty), f"tls ca: {empty} holds no PEM certificate"),
        (ClientTLS(ca=key), f"tls ca: {key} holds no PEM certificate"),
        (ClientTLS(certificate=certificate, key=tmp_path / "none"), f"tls key: cannot read {tmp_path}/none"),
        (ClientTLS(certificate=certificate, key=other_key), f"tls certificate: {certificate} and its key do not fit"),
        (ClientTLS(certificate=certificate), f"tls certificate: {certificate} and its key do not fit"),
    ):
        for use in (tls.ssl_context, lambda tls=tls: endpoint(tls)):
            with pytest.raises(SettingsError) as raised:
                use()
            assert str(raised.value).startswith(said)


def test_a_certificate_may_hold_its_key(authority: Authority, tmp_path: Path) -> None:
    """One file then does for both; without authorities the system's are trusted."""
    certificate, key = authority.issue("one", "one")
    both = tmp_path / "both"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert ClientTLS(certificate=both).ssl_context().get_ca_certs() is not None
    assert endpoint(ClientTLS(certificate=both)) is not None


def test_an_address_without_a_host_needs_a_server_name() -> None:
    """Else any certificate would do."""
    with pytest.raises(ValueError, match="needs server_name"):
        client_endpoint(reactor, "unix:/run/x", ClientTLS())
    assert client_endpoint(reactor, "unix:/run/x", ClientTLS(server_name="x")) is not None
