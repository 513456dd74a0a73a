"""
The address of the broker and the client's credentials: their options, and a connected master.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gloom.cli.output import say
from gloom.client.tls import ClientTLS
from gloom.errors import RequestRefused, TransportError
from gloom.settings import MASTER_PORT, SLAVE_PORT

if TYPE_CHECKING:
    from gloom.client.deferred import Master
    from gloom.reactor import IReactor

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Place:
    """
    A port of a broker, and the credentials to show there.

    Attributes:
        address: As `gloom.client.deferred.address.client_endpoint` takes it.
        token: The client's token, or None.
        tls: The TLS options, or None for a connection without TLS.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    tls: ClientTLS | None = None


def _valid_address(_context: click.Context, _option: click.Parameter, value: str) -> str:
    # Here, not above: a help text needs no reactor.
    from twisted.internet import reactor

    from gloom.client.deferred.address import client_endpoint

    try:
        client_endpoint(reactor, value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _place(address: str, token_file: str | None, use_tls: bool, **files: str | None) -> Place:
    from twisted.internet import reactor

    from gloom.client.deferred.address import client_endpoint

    names = ("ca", "certificate", "key", "server_name")
    given = dict(
        zip(names, (files[name] for name in ("tls_ca", "tls_cert", "tls_key", "tls_server_name")), strict=True)
    )
    tls = ClientTLS(**given) if use_tls or any(given.values()) else None
    try:
        client_endpoint(reactor, address, tls)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Place(address, _token(token_file), tls)


def _token(file: str | None) -> str | None:
    if file is None:
        return _token_of_environment()
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.BadParameter(f"cannot read {file}: {why}", param_hint="--token-file") from None
    if not token:
        raise click.BadParameter(f"{file} is empty", param_hint="--token-file")
    if len(token.splitlines()) > 1:
        raise click.BadParameter(f"{file} must hold one line, the token", param_hint="--token-file")
    return token


def _token_of_environment() -> str | None:
    token = os.environ.get("GLOOM_TOKEN", "").strip()
    # A token is never quoted.
    if len(token.splitlines()) > 1:
        raise click.UsageError("GLOOM_TOKEN must hold one line, the token")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise click.UsageError("GLOOM_TOKEN is not UTF-8") from None
    return token or None


def _place_options(role: str, port: int) -> Decorator:
    options = [
        click.option(
            f"--{role}",
            "address",
            metavar="ADDRESS",
            callback=_valid_address,
            envvar=f"GLOOM_{role.upper()}",
            show_envvar=True,
            default=f"127.0.0.1:{port}",
            show_default=True,
            help=f"Address of the broker's port for {role}s: HOST:PORT or a Twisted client endpoint description.",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            help="File with this client's token.  [default: the token in GLOOM_TOKEN]  "
            "No option takes the token itself: everyone on this host could see it.",
        ),
        click.option("--tls", "use_tls", is_flag=True, help="Use TLS; implied by each of the four options below."),
        _tls_option("--tls-ca", "PEM file: trust these authorities instead of the system's.", "GLOOM_TLS_CA"),
        _tls_option("--tls-cert", "PEM file: this client's certificate and its chain.", "GLOOM_TLS_CERT"),
        _tls_option("--tls-key", "PEM file: the private key.  [default: in the file of --tls-cert]", "GLOOM_TLS_KEY"),
        click.option(
            "--tls-server-name",
            metavar="NAME",
            help="Name that the broker's certificate must have.  [default: the host of ADDRESS]",
        ),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_place(*args: Any, **given: Any) -> Any:
            names = ("address", "token_file", "use_tls", "tls_ca", "tls_cert", "tls_key", "tls_server_name")
            place = _place(**{name: given.pop(name) for name in names})
            return command(*args, **{role: place}, **given)

        decorated: Callable[..., Any] = with_place
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _tls_option(name: str, help: str, variable: str) -> Any:
    return click.option(name, metavar="FILE", envvar=variable, show_envvar=True, help=help)


#: Where masters connect; the parameter ``master``, a `Place`.
master_options = _place_options("master", MASTER_PORT)

#: Where slaves connect; the parameter ``slave``, a `Place`.
slave_options = _place_options("slave", SLAVE_PORT)


@asynccontextmanager
async def connected_master(reactor: IReactor, place: Place, *, waits: bool = False) -> AsyncIterator[Master]:
    """
    Yield a master that is connected to *place*, and stop it afterwards.

    Args:
        reactor: Connects.
        place: The broker's port for masters.
        waits: Whether to wait for a broker that cannot be reached; one message says so.

    Raises:
        TransportError: No broker can be reached, and *waits* is false; or the
            broker refuses this client.
    """
    from twisted.logger import Logger, LogPublisher

    from gloom.client.deferred import Master

    master = Master(place.address, reactor=reactor, token=place.token, tls=place.tls)
    # This module itself reports on the first connection.
    master.log = Logger(observer=LogPublisher())
    master.startService()
    try:
        await _connected(master, place, waits)
        del master.log
        yield master
    finally:
        await master.stopService()


async def _connected(master: Master, place: Place, waits: bool) -> None:
    told = False
    while True:
        try:
            return await master.when_connected(attempts=1)
        except TransportError as error:
            failed = _failed(place, error)
            if not (waits and _may_pass(error.__cause__)):
                raise failed from None
            if not told:
                say(f"{failed}; waiting for it (Ctrl-C gives up)")
            told = True


def _failed(place: Place, error: TransportError) -> TransportError:
    if isinstance(error.__cause__, RequestRefused):
        return TransportError(f"the broker at {place.address} refuses: {error.__cause__}")
    return TransportError(f"cannot reach the broker at {place.address}: {_why(error)}")


def _may_pass(cause: BaseException | None) -> bool:
    """Return whether the broker may be reachable later: nothing listens yet, or it has just died."""
    from twisted.internet.error import ConnectError, UnknownHostError

    from gloom.client.deferred.connection import TLSFailed

    if isinstance(cause, TLSFailed | UnknownHostError):
        return False
    return isinstance(cause, ConnectError) or type(cause) is TransportError


def _why(error: TransportError) -> str:
    from gloom.client.deferred.connection import TLSMismatch

    # Twisted's "Connection was refused by other side: 111: Connection refused"
    text = re.sub(r"^.*: \d+: ", "", str(error))
    if isinstance(error.__cause__, TLSMismatch):
        text += ": leave out --tls and --tls-..." if error.__cause__.client_speaks_tls else ": --tls, or --tls-ca FILE"
    return text
