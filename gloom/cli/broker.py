"""
``gloom broker``: the daemon in the foreground.

The options, their texts and their defaults are those of ``twistd gloom``
(`gloom.tap.Options`): this module only presents them as click does.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import click
from click.core import ParameterSource
from twisted.logger import Logger, LogLevel, globalLogBeginner

from gloom.cli.loglines import TimedLines
from gloom.cli.output import FAILED, leave_stdout
from gloom.errors import SettingsError, StartupError
from gloom.host.filelimit import fitting_connections
from gloom.reactor import IReactor
from gloom.settings import Settings
from gloom.tap import PORTS, Options, Parts, make_service, read_parts
from gloom.transport.clock import make_monotonic

# Of no concern to a first start on loopback.
_LAST = ("access", "tls-")

_HELP = f"""
Run the broker, to which masters and slaves connect.

Masters submit jobs on one port (gloom submit, gloom map), slaves take them on the
other (gloom work). The broker stays in the foreground, writes no files, and logs to
standard error.

{PORTS}

After Ctrl-C or SIGTERM running jobs may finish (--drain-seconds), and the exit status
is 0; a second signal ends the broker at once. SIGHUP reads the files of --access and
--tls-... again.

Where the system allows a process fewer open files than --max-connections needs by
default, the default is as many as it allows.

\b
Examples:
    gloom broker
    gloom broker --master-port 7000 --slave-port 7001
    gloom broker --interface 10.0.0.5 --access access.toml --tls-cert broker.pem
"""


def _option(option: str, short: str | None, default: str | None, text: str) -> click.Option:
    metavar = _metavar(option, default)
    return click.Option(_names(option, short), metavar=metavar, default=default, show_default=True, help=text)


def _metavar(option: str, default: str | None) -> str:
    if option == "interface":
        return "ADDRESS"
    if default is None:
        return "FILE"
    return "SECONDS" if option.endswith("-seconds") else "N"


def _flag(option: str, short: str | None, text: str) -> click.Option:
    return click.Option(_names(option, short), is_flag=True, help=text)


def _names(option: str, short: str | None) -> list[str]:
    return [f"--{option}"] if short is None else [f"--{option}", f"-{short}"]


def _port(option: str) -> click.Option:
    text = getattr(Options, f"opt_{option.replace('-', '_')}").__doc__
    return click.Option([f"--{option}"], metavar="PORT", multiple=True, help=text)


def _parameters() -> list[click.Option]:
    """Return the options of ``twistd gloom`` as click's, those of access and TLS last."""
    # Lists of four and of three, which usage.Options does not annotate.
    parameters: Any = Options.optParameters
    flags: Any = Options.optFlags
    options = [
        _port("master-port"),
        _port("slave-port"),
        *(_option(*one) for one in parameters),
        *(_flag(*one) for one in flags),
    ]
    return sorted(options, key=lambda option: _name(option).startswith(_LAST))


def _name(option: click.Parameter) -> str:
    """Return the name of an option of the daemon, ``max-jobs`` for example."""
    return option.opts[0].removeprefix("--")


def fill_in(ctx: click.Context) -> Options:
    """Return the options of the daemon that a command line gives, with a number of connections that fits the system."""
    options = Options()
    for option in OPTIONS:
        value = ctx.params[str(option.name)]
        options[_name(option)] = [*value] if option.multiple else value
    if ctx.get_parameter_source("max_connections") is ParameterSource.DEFAULT:
        options["max-connections"] = str(fitting_connections(Settings.max_connections))
    return options


@click.pass_context
def _run(ctx: click.Context, /, **_values: Any) -> None:
    from twisted.internet import reactor as installed

    reactor = cast(IReactor, installed)
    try:
        parts = read_parts(fill_in(ctx), reactor)
    except SettingsError as error:
        raise click.UsageError(f"--{error}") from None
    sys.exit(leave_stdout(_serve(reactor, parts)))


def _serve(reactor: Any, parts: Parts) -> int:
    """Run the daemon until a signal ends it; return the exit status."""
    log_level = LogLevel.debug if parts.settings.verbose else LogLevel.info
    globalLogBeginner.beginLoggingTo([TimedLines("gloom broker", log_level)], redirectStandardIO=False)
    make_monotonic(reactor)
    service = make_service(parts, reactor)
    try:
        service.privilegedStartService()
        service.startService()
    except StartupError:
        return FAILED  # it is in the log
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.callWhenRunning(_say_how_to_stop)
    reactor.run()
    return 0


def _say_how_to_stop() -> None:
    Logger().info("stop with Ctrl-C or SIGTERM: running jobs finish first; a second one ends at once")


OPTIONS = _parameters()
command = click.Command("broker", params=[*OPTIONS], callback=_run, help=_HELP)
