"""
Where the broker is: the options ``--master`` and ``--slave``, and a master that is connected.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from gloom.errors import TransportError
from gloom.settings import MASTER_PORT, SLAVE_PORT

if TYPE_CHECKING:
    from gloom.client.deferred import Master

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _valid_address(_context: click.Context, _option: click.Parameter, value: str) -> str:
    # Here, not above: a help text needs no reactor.
    from twisted.internet import reactor

    from gloom.client.address import client_endpoint

    try:
        client_endpoint(reactor, value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _address_option(role: str, port: int, what_for: str) -> Decorator:
    return click.option(
        f"--{role}",
        metavar="ADDRESS",
        callback=_valid_address,
        envvar=f"GLOOM_{role.upper()}",
        show_envvar=True,
        default=f"127.0.0.1:{port}",
        show_default=True,
        help=f"Where the broker {what_for}: HOST:PORT or a Twisted client endpoint description.",
    )


#: Where masters connect; the parameter ``master``, a string that `client_endpoint` understands.
master_option = _address_option("master", MASTER_PORT, "takes jobs")

#: Where slaves connect; the parameter ``slave``, a string that `client_endpoint` understands.
slave_option = _address_option("slave", SLAVE_PORT, "hands out jobs")


@asynccontextmanager
async def connected_master(reactor: Any, address: str) -> AsyncIterator[Master]:
    """
    Yield a master that is connected to *address*, and stop it afterwards.

    Args:
        reactor: What it connects with.
        address: What `client_endpoint` understands.

    Raises:
        TransportError: There is no broker; nothing is tried twice.
    """
    from twisted.logger import Logger, LogPublisher

    from gloom.client.deferred import Master

    master = Master(address, reactor=reactor)
    # The exception says it, and nothing is tried again yet.
    master.log = Logger(observer=LogPublisher())
    master.startService()
    try:
        try:
            await master.when_connected(attempts=1)
        except TransportError as error:
            raise TransportError(f"cannot reach the broker at {address}: {_why(error)}") from None
        del master.log
        yield master
    finally:
        await master.stopService()


def _why(error: TransportError) -> str:
    # Twisted's "Connection was refused by other side: 111: Connection refused"
    return re.sub(r"^.*: \d+: ", "", str(error))
