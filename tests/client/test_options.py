"""The options that masters and slaves share: checked where they are made."""

from __future__ import annotations

import os
import socket
from dataclasses import FrozenInstanceError, fields
from enum import StrEnum
from typing import Any

import pytest
from twisted.internet.task import Clock

from gloom.client import blocking
from gloom.client.deferred import Master, Slave
from gloom.client.options import ClientKeywords, ClientOptions, Credentials


def test_the_keywords_are_the_fields() -> None:
    """Each option is a keyword of the Deferred clients, and the credentials are keywords of every client."""
    names = {field.name for field in fields(ClientOptions)}

    assert set(ClientKeywords.__annotations__) == names
    assert set(Credentials.__annotations__) == {"token", "tls"}


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"name": ""}, ValueError, "name must be 1 to 255 characters, got 0"),
        ({"name": 5}, TypeError, "name must be a string, got 5"),
        ({"heartbeat_seconds": -1}, ValueError, "heartbeat_seconds must be 0 to 1e9 seconds, got -1"),
        ({"heartbeat_seconds": "x"}, TypeError, "heartbeat_seconds must be a number of seconds, got 'x'"),
        ({"token": 5}, TypeError, "token must be a string, got int"),
    ],
)
def test_a_wrong_option_is_refused_by_every_client_that_takes_it(
    wrong: dict[str, Any], error: type[Exception], text: str
) -> None:
    """The options, a master and a slave refuse the same value with the same text."""
    makers = [
        lambda: ClientOptions(**wrong),
        lambda: Master("127.0.0.1:1", reactor=Clock(), **wrong),
        lambda: Slave("127.0.0.1:1", "echo", abs, reactor=Clock(), **wrong),
    ]
    if "token" in wrong:
        # Before it connects: nothing listens there.
        makers += [lambda: blocking.Master("127.0.0.1:1", **wrong), lambda: blocking.Slave("127.0.0.1:1", **wrong)]

    for make in makers:
        with pytest.raises(error) as raised:
            make()
        assert str(raised.value) == text


def test_options_cannot_be_changed() -> None:
    """A checked value stays checked."""
    options = ClientOptions(name="me")

    with pytest.raises(FrozenInstanceError):
        options.name = ""  # type: ignore[misc]


def test_options_show_no_token() -> None:
    """The token is in no log and no error."""
    assert "secret" not in repr(ClientOptions(token="secret"))


def test_a_member_of_an_enumeration_becomes_a_plain_string() -> None:
    """The encoder takes plain strings only."""

    class Names(StrEnum):
        ME = "me"

    assert type(ClientOptions(name=Names.ME).name) is str


def test_a_client_without_a_name_is_called_after_its_process() -> None:
    """The name at the broker is host:pid."""
    assert ClientOptions().peer_name == f"{socket.gethostname()}:{os.getpid()}"
