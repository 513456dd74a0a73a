"""
``gloom bench``: the speed of a running broker for a Python program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from gloom.cli.bench.plan import BenchOptions
from gloom.cli.connect import Place, master_options
from gloom.cli.options import valid_seconds
from gloom.settings import SLAVE_PORT

_DEFAULT_SECONDS = 5.0
_DEFAULT_WINDOW = 64


@click.command()
@click.option(
    "--masters",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Number of masters, which submit jobs.",
)
@click.option(
    "--slaves",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    help="Number of slaves, which answer them.",
)
@click.option(
    "--slots",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Jobs that each slave has in hand at once.",
)
@click.option(
    "-w",
    "--window",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help=f"Unanswered jobs of each master at a time.  [default: {_DEFAULT_WINDOW}]",
)
@click.option(
    "--rate",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    help="Instead of a window: submit N jobs a second, all masters together, whether answers come or not.",
)
@click.option(
    "--body-bytes",
    metavar="N",
    type=click.IntRange(2, 1 << 30),
    default=100,
    show_default=True,
    help="Size of a body, and so of its answer, as JSON.",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=float,
    callback=valid_seconds,
    help=f"How long each of the two parts submits jobs.  [default: {_DEFAULT_SECONDS:g}, or no limit with --jobs]",
)
@click.option("--jobs", metavar="N", type=click.IntRange(1, 10**12), help="How many jobs each part submits.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON.")
@click.option(
    "--slave",
    "slave_address",
    metavar="ADDRESS",
    envvar="GLOOM_SLAVE",
    show_envvar=True,
    default=f"127.0.0.1:{SLAVE_PORT}",
    show_default=True,
    help="Address of the same broker's port for slaves; the token and TLS are those of --master.",
)
@master_options
def command(
    master: Place, slave_address: str, window: int | None, rate: int | None, seconds: float | None, **options: Any
) -> None:
    """
    Measure the broker that runs at --master and --slave.

    Starts masters and slaves in this process; each has a connection of its own.
    Their jobs have a new type, gloom-bench-..., which no other slave takes; the
    answer to a job is its body. Other jobs are not touched, but the broker is
    under load during the bench.

    There are two parts: first one job at a time, then --window jobs in flight
    per master. With --rate the second part submits N jobs a second, and the
    latency of a job counts from the moment it was due, so that the figures
    show a broker that falls behind.

    The figures are those of a Python program: this process needs CPU time for
    each job too. Its share is printed; near 100 % this process, not the
    broker, was the limit.

    If the broker has access rules, they must allow the token both roles and
    the job types gloom-bench-*.

    Ctrl-C ends the bench, and leaves no job behind. Exit status 1: a job
    failed.

    \b
    Examples:
        gloom bench
        gloom bench --rate 2000 --seconds 60
        gloom bench --master broker.example:9998 --slave broker.example:9999 --json
    """
    # Here, not above: a help text needs no Twisted.
    from gloom.cli.bench.load import bench, only_failures
    from gloom.cli.runner import run

    if rate is not None and window is not None:
        raise click.UsageError("either --window or --rate, not both: with --rate no job waits for an answer")
    if seconds is None and options["jobs"] is None:
        seconds = _DEFAULT_SECONDS
    chosen = BenchOptions(window=window or _DEFAULT_WINDOW, rate=rate, seconds=seconds, **options)
    slave = _beside(master, slave_address)
    run(lambda reactor: bench(reactor, master, slave, chosen), only_failures)


def _beside(master: Place, address: str) -> Place:
    """Return the slave port of the broker of *master*."""
    from twisted.internet import reactor

    from gloom.client.deferred.address import client_endpoint

    try:
        client_endpoint(reactor, address, master.tls)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--slave' (env var: 'GLOOM_SLAVE')") from None
    return replace(master, address=address)
