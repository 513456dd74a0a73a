"""
twistd's door: a command line becomes settings, endpoints and a service.

The only room, with `gloom.cli`, that may import the global reactor.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import twisted
from twisted.application.service import IService, MultiService
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import quoteStringArgument, serverFromString, wrapServerTLS
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage

import gloom
from gloom.errors import SettingsError, StartupError
from gloom.host.filelimit import DescriptorService
from gloom.host.malloc import MemoryService, find_trim, let_be
from gloom.host.memoryalarm import MemoryAlarm, find_bounds, find_kept, find_usage
from gloom.host.signals import SignalService
from gloom.host.systemd import SystemdService
from gloom.server.access import Access, read_access
from gloom.server.service import BrokerService, memory_surroundings
from gloom.server.surroundings import Surroundings
from gloom.server.tls import ServerTLS
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.transport.clock import make_monotonic
from gloom.transport.collector import count_collections

LOOPBACK = "127.0.0.1"
# Twisted's 50 refuses connections when a farm of slaves comes back at once.
BACKLOG = 1024
TLS_OPTIONS = ("tls-cert", "tls-key", "tls-client-ca")
# Endpoint descriptions that bring TLS themselves.
TLS_KINDS = ("ssl", "tls")

#: The options that are fields of `Settings`: option, field, kind, what it says.
LIMITS: tuple[tuple[str, str, type[int] | type[float], str], ...] = (
    ("max-frame-bytes", "max_frame_bytes", int, "largest message that is accepted, 1024 to 2147483648"),
    ("retries", "retries", int, "how often a job whose slave disappeared is tried again, 0 to 100"),
    ("max-jobs", "max_jobs", int, "how many jobs may be in flight"),
    ("max-queued-bytes", "max_queued_bytes", int, "how many bytes the jobs in flight may have together"),
    ("master-share", "master_share", float, "which part of these two one master may hold, over 0 up to 1"),
    (
        "max-joined-types",
        "max_joined_types",
        int,
        "how many joined types all slaves may have together",
    ),
    (
        "max-memory-bytes",
        "max_memory_bytes",
        int,
        "how much memory the process may take before jobs are refused; 0: three quarters of what the system allows",
    ),
    ("max-connections", "max_connections", int, "how many connections may be open, both ports together"),
    (
        "max-unread-bytes",
        "max_unread_bytes",
        int,
        "how much may wait for a peer that does not read, before it is dropped",
    ),
    (
        "max-total-unread-bytes",
        "max_total_unread_bytes",
        int,
        "how much may wait for all peers together, before the slowest reader is dropped",
    ),
    (
        "stall-seconds",
        "stall_seconds",
        float,
        "how long a frame may stand half way, and the first one of a connection may take, before it is dropped",
    ),
    ("drain-seconds", "drain_seconds", float, "how long a shutdown waits for the jobs in hand"),
)


class Options(usage.Options):
    """The options of ``twistd gloom``, as strings; `postOptions` checks them all."""

    synopsis = "[options]"
    longdesc = (
        "Runs the gloom broker: masters submit jobs on one port, slaves take them on the other. "
        "PORT is a port number, or a Twisted endpoint description such as "
        "tcp6:9998, unix:/run/gloom/masters.sock:mode=660 or systemd:domain=INET:name=gloom-master. "
        "A port number listens on loopback only, unless --interface says otherwise; 0 takes a free port. "
        "twistd stays in the foreground with: twistd --nodaemon --pidfile= gloom"
    )
    optParameters = [
        [
            "interface",
            "i",
            None,
            f"IP address on which port numbers listen, 0.0.0.0 or :: for all [default: {LOOPBACK}]",
        ],
        *([option, None, getattr(Settings, field), text] for option, field, _, text in LIMITS),
        ["access", None, None, "TOML file that says who may do what, with tokens or client certificates"],
        ["tls-cert", None, None, "PEM file: the certificate and chain for TLS on all ports"],
        ["tls-key", None, None, "PEM file: the private key [default: it is in the file of --tls-cert]"],
        ["tls-client-ca", None, None, "PEM file: accept only clients with a certificate of these authorities"],
    ]
    optFlags = [
        ["require-type", None, "refuse jobs without a type; without this any slave may take them"],
        ["verbose", "v", "log every request that is refused, and why"],
    ]

    def __init__(self, reactor: Any = None) -> None:
        super().__init__()
        self._reactor = reactor
        self["master-port"] = []
        self["slave-port"] = []

    def opt_master_port(self, port: str) -> None:
        self["master-port"].append(port)

    def opt_slave_port(self, port: str) -> None:
        self["slave-port"].append(port)

    opt_master_port.__doc__ = f"PORT for masters; may be given more than once [default: {MASTER_PORT}]"
    opt_slave_port.__doc__ = f"PORT for slaves; may be given more than once [default: {SLAVE_PORT}]"

    def opt_version(self) -> NoReturn:
        """Show gloom's version and exit."""
        print(f"gloom {gloom.__version__} (Twisted {twisted.__version__}, Python {platform.python_version()})")
        sys.exit(0)

    def parseOptions(self, options: list[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # twistd would print the whole usage before the one line that matters.
            sys.exit(f"twistd gloom: {error} (see twistd gloom --help)")

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}")

    def postOptions(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self["reactor"] = self._reactor
        self["settings"] = self._settings()
        ports = {
            "master-port": self["master-port"] or [str(MASTER_PORT)],
            "slave-port": self["slave-port"] or [str(SLAVE_PORT)],
        }
        self._check_interface(ports)
        self["tls"] = self._tls()
        self["allowed"] = self._access()
        self["encrypted"] = []
        for option, values in ports.items():
            self[f"{option}-endpoints"] = [self._endpoint(option, value) for value in values]

    def _settings(self) -> Settings:
        limits = {field: _number(option, kind, self[option]) for option, field, kind, _ in LIMITS}
        try:
            return Settings(**limits, require_type=bool(self["require-type"]), verbose=bool(self["verbose"]))
        except SettingsError as error:
            raise usage.UsageError(f"--{error}") from None

    def _tls(self) -> ServerTLS | None:
        certificate, key, client_ca = (_path(self[option]) for option in TLS_OPTIONS)
        if certificate is None:
            if key is not None or client_ca is not None:
                raise usage.UsageError("--tls-key and --tls-client-ca go with --tls-cert")
            return None
        try:
            return ServerTLS(certificate, key, client_ca)
        except SettingsError as error:
            raise usage.UsageError(f"--{error}") from None

    def _access(self) -> Access | None:
        self["access-file"] = file = _path(self["access"])
        if file is None:
            return None
        try:
            return read_access(file)
        except SettingsError as error:
            raise usage.UsageError(f"--{error}") from None

    def _check_interface(self, ports: dict[str, list[str]]) -> None:
        interface = self["interface"]
        if interface is None:
            return
        if not isIPAddress(interface) and not isIPv6Address(interface):
            raise usage.UsageError(f"--interface must be an IP address such as 0.0.0.0 or ::, got {interface!r}")
        if not any(value.strip().isdecimal() for values in ports.values() for value in values):
            raise usage.UsageError("--interface goes with port numbers; an endpoint description has its own interface=")

    def _endpoint(self, option: str, value: str) -> IStreamServerEndpoint:
        try:
            description = self._description(value.strip())
            endpoint: IStreamServerEndpoint = serverFromString(self._reactor, description)
            return self._encrypted(description.partition(":")[0], endpoint)
        except KeyError as error:
            problem = f"no socket {error} was inherited from systemd"
        except IndexError:
            is_inherited = value.strip().startswith("systemd:")
            problem = "no socket of this index was inherited from systemd" if is_inherited else "a part is missing"
        except Exception as error:
            # Whatever a parser of Twisted or of another package raises: the value is wrong.
            problem = str(error)
        raise usage.UsageError(
            f"--{option} must be a port number or a Twisted endpoint description, got {value!r}: {problem}"
        )

    def _encrypted(self, kind: str, endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        """Return *endpoint* with the TLS of --tls-cert, if there is that, and note whether it has TLS now."""
        if self["tls"] is not None:
            endpoint = wrapServerTLS(self["tls"], endpoint)
        if self["tls"] is not None or kind in TLS_KINDS:
            self["encrypted"].append(endpoint)
        return endpoint

    def _description(self, value: str) -> str:
        kind, _, rest = value.partition(":")
        if value.isdecimal():
            interface = quoteStringArgument(self["interface"] or LOOPBACK)
            kind, rest = "tcp", value
            value = f"tcp:{int(value)}:interface={interface}:backlog={BACKLOG}"
        if kind in TLS_KINDS and self["tls"] is not None:
            raise ValueError("it has TLS of its own, which does not go with --tls-cert")
        port = rest.partition(":")[0].removeprefix("port=")
        # Twisted finds these two only when it listens, or never.
        if kind in ("tcp", "tcp6", "ssl") and port.isdecimal() and int(port) > 65535:
            raise ValueError("a port is 0 to 65535")
        if kind == "tls" and not Path(port).is_dir():
            raise ValueError(f"{port!r} is not a directory of certificates")
        return value


def _path(text: str | None) -> Path | None:
    # Absolute: twistd may change its directory (--rundir) before the file is read again.
    return None if text is None else Path(text).absolute()


def _number(option: str, kind: type[int] | type[float], text: Any) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise usage.UsageError(f"--{option} must be {what}, got {text!r}") from None


def makeService(options: Options) -> IService:
    """Return the service that twistd runs."""
    _report_startup_errors_in_one_line()
    reactor = options["reactor"]
    make_monotonic(reactor)
    around = memory_surroundings(options["settings"], reactor, options["allowed"])
    broker = BrokerService(
        reactor,
        around,
        options["master-port-endpoints"],
        options["slave-port-endpoints"],
        encrypted=options["encrypted"],
    )
    jobs = around.broker
    bounds = find_bounds(options["settings"].max_memory_bytes)
    reload = Reload(around, options["access-file"], options["tls"])
    top = MultiService()
    for service in (
        DescriptorService(options["settings"].max_connections),
        SignalService(reactor, broker.hurry, reload),
        broker,
        MemoryService(reactor, lambda: jobs.used_bytes, settle=_settle_collector),
        MemoryAlarm(reactor, jobs, bounds, find_trim(), find_usage(), find_kept()),
        SystemdService(reactor),
    ):
        service.setServiceParent(top)
    return top


def _settle_collector() -> None:
    let_be()
    count_collections()


class Reload:
    """
    Reads the access file and the certificates again; what is wrong leaves the old ones in use.

    Args:
        around: Where new connections find the access rules.
        access: The access file, or None.
        tls: The certificates, or None.
    """

    log = Logger()

    def __init__(self, around: Surroundings, access: Path | None, tls: ServerTLS | None) -> None:
        self._around = around
        self._access = access
        self._tls = tls

    def __call__(self) -> None:
        """Reload, and log how it went."""
        if self._access is None and self._tls is None:
            self.log.info("SIGHUP: there is nothing to read again without --access and --tls-cert")
            return
        try:
            allowed = None if self._access is None else read_access(self._access)
            if self._tls is not None:
                self._tls.reload()
        except SettingsError as error:
            self.log.error("SIGHUP: nothing is changed: {error}", error=error)
        else:
            # Both or none.
            self._around.access = allowed
            self.log.info("SIGHUP: access rules and certificates are read again, for new connections")


def _report_startup_errors_in_one_line() -> None:
    # An exception is the only way out of a start that twistd reports to its
    # launching process too (SystemExit leaves it waiting); its traceback would
    # hide the line that matters.
    previous = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, StartupError):
            print(f"gloom: {error}", file=sys.__stderr__)
        else:
            previous(kind, error, traceback)

    sys.excepthook = show
