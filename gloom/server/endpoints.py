"""
The endpoints of the daemon's ports: port numbers and Twisted's descriptions, with or without TLS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import quoteStringArgument, serverFromString, wrapServerTLS
from twisted.internet.interfaces import IStreamServerEndpoint

from gloom.errors import SettingsError
from gloom.reactor import IReactor
from gloom.server.tls import ServerTLS

LOOPBACK = "127.0.0.1"
# Twisted's 50 refuses connections when a farm of slaves reconnects at once.
BACKLOG = 1024
# Kinds of endpoint descriptions that configure TLS themselves.
TLS_KINDS = ("ssl", "tls")
_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Ports:
    """
    Where the daemon listens.

    Attributes:
        masters: Endpoints for masters.
        slaves: Endpoints for slaves.
        encrypted: Those of both with TLS.
    """

    masters: Sequence[IStreamServerEndpoint]
    slaves: Sequence[IStreamServerEndpoint]
    encrypted: Sequence[IStreamServerEndpoint]


def read_ports(
    reactor: IReactor, texts: Mapping[str, Sequence[str]], interface: str | None, tls: ServerTLS | None
) -> Ports:
    """
    Return the endpoints that the options name.

    Args:
        reactor: The reactor that will listen.
        texts: The values of ``master-port`` and ``slave-port``.
        interface: IP address for port numbers; None for loopback.
        tls: TLS for every endpoint; None for the TLS of the descriptions alone.

    Raises:
        SettingsError: A value is wrong; the text begins with the option.
    """
    _check_interface(interface, texts)
    reader = _Reader(reactor, interface or LOOPBACK, tls)
    masters = [reader.read("master-port", text) for text in texts["master-port"]]
    slaves = [reader.read("slave-port", text) for text in texts["slave-port"]]
    return Ports(masters, slaves, reader.encrypted)


def _check_interface(interface: str | None, texts: Mapping[str, Sequence[str]]) -> None:
    if interface is None:
        return
    if not isIPAddress(interface) and not isIPv6Address(interface):
        raise SettingsError(f"interface must be an IP address such as 0.0.0.0 or ::, got {interface!r}")
    if not any(text.strip().isdecimal() for values in texts.values() for text in values):
        raise SettingsError("interface goes with port numbers; an endpoint description has its own interface=")


class _Reader:
    """Makes endpoints of the options' texts, and collects those with TLS in `encrypted`."""

    def __init__(self, reactor: IReactor, interface: str, tls: ServerTLS | None) -> None:
        self.encrypted: list[IStreamServerEndpoint] = []
        self._reactor = reactor
        self._interface = interface
        self._tls = tls

    def read(self, option: str, text: str) -> IStreamServerEndpoint:
        """
        Return the endpoint of one value.

        Raises:
            SettingsError: It is neither a port number nor a description that Twisted accepts.
        """
        try:
            return self._endpoint(self._description(text.strip()))
        except KeyError as error:
            problem = f"no socket {error} was inherited from systemd"
        except IndexError:
            is_inherited = text.strip().startswith("systemd:")
            problem = "no socket of this index was inherited from systemd" if is_inherited else "a part is missing"
        except Exception as error:
            # A parser of Twisted, or of another package, may raise anything: the value is wrong.
            problem = str(error)
        raise SettingsError(
            f"{option} must be a port number or a Twisted endpoint description, got {text!r}: {problem}"
        )

    def _endpoint(self, description: str) -> IStreamServerEndpoint:
        endpoint: IStreamServerEndpoint = serverFromString(self._reactor, description)
        if self._tls is not None:
            endpoint = wrapServerTLS(self._tls, endpoint)  # type: ignore[arg-type] # it takes a context factory too
        if self._tls is not None or description.partition(":")[0] in TLS_KINDS:
            self.encrypted.append(endpoint)
        return endpoint

    def _description(self, text: str) -> str:
        if text.isdecimal():
            interface = quoteStringArgument(self._interface)
            text = f"tcp:{int(text)}:interface={interface}:backlog={BACKLOG}"
        kind, _, rest = text.partition(":")
        if kind in TLS_KINDS and self._tls is not None:
            raise ValueError("it has TLS of its own, which does not go with --tls-cert")
        _check_first_part(kind, rest.partition(":")[0].removeprefix("port="))
        return text


def _check_first_part(kind: str, part: str) -> None:
    """Check two mistakes that Twisted reports only when it listens, or never."""
    if kind in ("tcp", "tcp6", "ssl") and part.isdecimal() and int(part) > _LARGEST_PORT:
        raise ValueError(f"a port is 0 to {_LARGEST_PORT}")
    if kind == "tls" and not Path(part).is_dir():
        raise ValueError(f"{part!r} is not a directory of certificates")
