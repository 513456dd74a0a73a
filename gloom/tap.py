"""
The plugin of twistd: a command line becomes settings, endpoints and a service.

`Options` holds texts, `read_parts` checks them and reads the files that they
name, `make_service` assembles a service of the parts. Only `makeService`, which
twistd calls, takes the global reactor.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, cast

import twisted
from twisted.application.service import IService, MultiService
from twisted.python import usage

import gloom
from gloom.errors import SettingsError, StartupError
from gloom.host.filelimit import DescriptorService
from gloom.host.malloc import MemoryService, find_trim, keep_freed_blocks, let_be
from gloom.host.memoryalarm import MemoryAlarm, find_bounds, find_kept, find_usage
from gloom.host.signals import SignalService
from gloom.host.systemd import SystemdService
from gloom.reactor import IReactor
from gloom.server.access import Access, read_access
from gloom.server.endpoints import LOOPBACK, Ports, read_ports
from gloom.server.reload import Reload
from gloom.server.service import BrokerService, memory_surroundings
from gloom.server.tls import ServerTLS
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.transport.clock import make_monotonic
from gloom.transport.collector import count_collections

#: The options that are numbers in `Settings`, where ``-`` is ``_``: option, help text.
LIMITS: tuple[tuple[str, str], ...] = (
    ("max-frame-bytes", "largest message that is accepted, 1024 to 2147483648"),
    ("retries", "how often a job is tried again after its slave disappeared, 0 to 100"),
    ("max-jobs", "most jobs in flight"),
    ("max-queued-bytes", "most bytes of all jobs in flight together"),
    ("master-share", "largest part of these two limits for one master, over 0 up to 1"),
    ("max-joined-types", "most joined types of all slaves together"),
    (
        "max-memory-bytes",
        "memory of the process at which jobs are refused; 0: three quarters of the memory that the system allows",
    ),
    ("max-connections", "most open connections, both ports together"),
    ("max-unread-bytes", "most bytes that wait for one peer that does not read, before it is dropped"),
    (
        "max-total-unread-bytes",
        "most bytes that wait for all peers together, before the slowest reader is dropped",
    ),
    (
        "stall-seconds",
        "seconds without progress in a half-received frame, and for the first frame of a connection in all, "
        "before the connection is dropped",
    ),
    ("drain-seconds", "how many seconds a shutdown waits for jobs that slaves have in hand"),
)

#: Values of the options --master-port and --slave-port, for the help texts of all commands that have them.
PORTS = (
    "PORT is a port number, or a Twisted endpoint description such as "
    "tcp6:9998, unix:/run/gloom/masters.sock:mode=660 or systemd:domain=INET:name=gloom-master. "
    "A port number listens on loopback only, unless --interface says otherwise; 0 takes a free port."
)


class Options(usage.Options):
    """The options of ``twistd gloom``, as texts: `read_parts` checks them."""

    synopsis = "[options]"
    longdesc = (
        f"Runs the gloom broker: masters submit jobs on one port, slaves take them on the other. {PORTS} "
        "twistd stays in the foreground with: twistd --nodaemon --pidfile= gloom"
    )
    optParameters = [
        [
            "interface",
            "i",
            None,
            f"IP address on which port numbers listen, 0.0.0.0 or :: for all [default: {LOOPBACK}]",
        ],
        *([option, None, str(getattr(Settings, option.replace("-", "_"))), text] for option, text in LIMITS),
        ["access", None, None, "TOML file of the clients that may connect, by token or certificate, and their rights"],
        ["tls-cert", None, None, "PEM file: the certificate and chain for TLS on all ports"],
        ["tls-key", None, None, "PEM file: the private key [default: in the file of --tls-cert]"],
        ["tls-client-ca", None, None, "PEM file: accept only clients with a certificate of these authorities"],
    ]
    optFlags = [
        ["require-type", None, "refuse jobs without a type; without this option any slave may take them"],
        ["verbose", "v", "log every refused request, and the reason"],
    ]

    def __init__(self) -> None:
        super().__init__()
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
            _exit_with_usage_error(error)

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}")


def _exit_with_usage_error(error: object) -> NoReturn:
    # twistd would print the whole usage before the one line that matters.
    sys.exit(f"twistd gloom: {error} (see twistd gloom --help)")


@dataclass(frozen=True)
class Parts:
    """
    The parts of a daemon that its options name.

    Attributes:
        settings: The broker's limits.
        ports: Where it listens.
        access: The access rules; None admits everyone to everything.
        access_file: The file of these rules, which a reload reads again.
        tls: The certificates of --tls-cert, or None.
    """

    settings: Settings
    ports: Ports
    access: Access | None = None
    access_file: Path | None = None
    tls: ServerTLS | None = None


def read_parts(options: Options, reactor: IReactor) -> Parts:
    """
    Check the options, and read the files that they name.

    Args:
        options: Parsed.
        reactor: Will listen.

    Raises:
        SettingsError: A value is wrong; the text begins with its option, without the dashes.
    """
    settings = Settings.from_texts(
        {option: options[option] for option, _ in LIMITS},
        require_type=bool(options["require-type"]),
        verbose=bool(options["verbose"]),
    )
    tls = _read_tls(*(_path(options[option]) for option in ("tls-cert", "tls-key", "tls-client-ca")))
    access_file = _path(options["access"])
    access = None if access_file is None else read_access(access_file)
    texts: dict[str, Sequence[str]] = {
        "master-port": options["master-port"] or [str(MASTER_PORT)],
        "slave-port": options["slave-port"] or [str(SLAVE_PORT)],
    }
    ports = read_ports(reactor, texts, options["interface"], tls)
    return Parts(settings, ports, access, access_file, tls)


def _read_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> ServerTLS | None:
    if certificate is not None:
        return ServerTLS(certificate, key, client_ca)
    if key is not None or client_ca is not None:
        raise SettingsError("tls-key and --tls-client-ca go with --tls-cert")
    return None


def _path(text: str | None) -> Path | None:
    # Absolute: twistd may change its directory (--rundir) before a reload reads the file.
    return None if text is None else Path(text).absolute()


def makeService(options: Options) -> IService:
    """Return the service that twistd runs; a wrong option ends the process with one line and status 1."""
    from twisted.internet import reactor as installed

    reactor = cast(IReactor, installed)
    try:
        parts = read_parts(options, reactor)
    except SettingsError as error:
        _exit_with_usage_error(f"--{error}")
    _report_startup_errors_in_one_line()
    make_monotonic(reactor)
    return make_service(parts, reactor)


def make_service(parts: Parts, reactor: IReactor) -> MultiService:
    """
    Assemble the daemon's service.

    Args:
        parts: As `read_parts` returns them.
        reactor: Listens, and is the clock.
    """
    around = memory_surroundings(parts.settings, reactor, parts.access)
    ports = parts.ports
    broker = BrokerService(reactor, around, ports.masters, ports.slaves, encrypted=ports.encrypted)
    jobs = around.broker
    bounds = find_bounds(parts.settings.max_memory_bytes)
    top = MultiService()
    for service in (
        DescriptorService(parts.settings.max_connections),
        SignalService(reactor, reactor, broker.hurry, Reload(around, parts.access_file, parts.tls)),
        broker,
        MemoryService(reactor, lambda: jobs.used_bytes, settle=_settle_memory),
        MemoryAlarm(reactor, jobs, bounds, find_trim(), find_usage(), find_kept()),
        SystemdService(reactor, reactor),
    ):
        service.setServiceParent(top)
    return top


def _settle_memory() -> None:
    keep_freed_blocks()
    let_be()
    count_collections()


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
