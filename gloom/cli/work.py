"""
``gloom work``: takes jobs, and answers them with a Python function or a program.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

import click
from twisted.internet.defer import CancelledError
from twisted.logger import Logger, LogLevel

from gloom.cli.connect import Place, slave_options
from gloom.cli.loglines import TimedLines
from gloom.cli.options import valid_name, valid_short_texts, valid_wait
from gloom.cli.output import FAILED
from gloom.cli.runner import run
from gloom.errors import GloomError, InvalidAction, RequestRefused
from gloom.reactor import IProcessReactor
from gloom.settings import SLAVE_PORT
from gloom.worker.childprocess import ChildError, start_child
from gloom.worker.service import Refused, Worker

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_PROGRAM = "gloom.cli.work.program"


class CannotWork(GloomError):
    """The worker cannot start, or the broker refuses it; the text is complete for the user."""


class _ProgramAfterDashes(click.Command):
    """A command that does not parse the arguments after ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            dashes = args.index("--")
            ctx.meta[_PROGRAM] = args[dashes + 1 :]
            args = args[:dashes]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "{MODULE:FUNCTION | --type TYPE -- PROGRAM [ARGUMENT ...]}"]


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@click.command(cls=_ProgramAfterDashes)
@click.argument("target", metavar="MODULE:FUNCTION", required=False)
@click.option(
    "-t",
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    callback=valid_short_texts,
    help="Job type to take; may be given more than once.  [default: the function's name]",
)
@click.option(
    "-c",
    "--concurrency",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=_cpus,
    show_default="the number of CPUs",
    help="Jobs at a time, each in a process of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="The program reads and prints JSON instead of text.")
@click.option(
    "--name",
    metavar="NAME",
    callback=valid_name,
    help="Name of this worker in the broker's reports, such as failures.  [default: host:pid]",
)
@click.option(
    "--finish-seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    callback=valid_wait,
    default=30,
    show_default=True,
    help="How long the worker finishes running jobs after Ctrl-C or SIGTERM.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Log connections, and the traceback of each failed job; else of each error once a minute.",
)
@slave_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    target: str | None,
    types: tuple[str, ...],
    as_json: bool,
    slave: Place,
    verbose: bool,
    **options: Any,
) -> None:
    """
    Take jobs, and answer them with a Python function or a program.

    A function takes a job's body and returns the answer: plain Python values
    that JSON can express. It may be a coroutine function, of asyncio or of
    Twisted, or return a Deferred. An exception fails the job;
    gloom.errors.TryAgain has the job tried once more. Python looks for the
    module in the current directory first.

    A program runs once per job. Its input is the body: the text of a JSON
    string, or the JSON of any other body. Its output, without the last
    newline, is the answer: a string. With --json, input and output are JSON.
    An exit status other than 0 fails the job. The environment has GLOOM_JOB_ID
    and GLOOM_JOB_TYPE.

    A function reports progress with gloom.worker.progress(value). If the
    master cancels a job, or the job runs longer than its --job-timeout, its
    process is killed with all that it has started.

    A job ends when its function returns or its process ends; processes that it
    has forked or started do not delay its end.

    After Ctrl-C, SIGTERM or SIGHUP the worker takes no more jobs and finishes
    the running ones; the exit status is 0, or 1 if some took too long. A
    second signal ends the worker at once. If the broker cannot be reached, the
    worker waits for it.

    \b
    Examples:
        gloom work math:sqrt
        gloom work -c 4 shop.jobs:resize_picture
        gloom work --type count -- wc -w
        gloom work --type shout --json -- jq '{text: .text | ascii_upcase}'
    """
    work, default_type = _work(target, ctx.meta.get(_PROGRAM), as_json)
    if not types and default_type is None:
        raise click.UsageError("a program needs --type TYPE")
    chosen = types or (str(default_type),)

    async def verb(reactor: IProcessReactor) -> int:
        start = partial(start_child, reactor, work)
        place: Any = {"token": slave.token, "tls": slave.tls}
        worker = Worker(start, chosen, slave.address, reactor=reactor, **place, **options)
        return await _until_stopped(worker, work, slave.address)

    run(verb, TimedLines("gloom work", LogLevel.debug if verbose else LogLevel.info))


def _work(target: str | None, program: list[str] | None, as_json: bool) -> tuple[Sequence[str], str | None]:
    """Return the arguments of a child process for the work, and the default job type."""
    if target is not None and program is not None:
        raise click.UsageError("give either MODULE:FUNCTION or a program after --, not both")
    if program is not None:
        return _program(program, as_json), None
    if target is None:
        raise click.UsageError("nothing answers the jobs: give MODULE:FUNCTION, or --type TYPE -- PROGRAM")
    if not _TARGET.fullmatch(target):
        raise click.UsageError(f"expected MODULE:FUNCTION, got {target!r}; a program comes after --")
    if as_json:
        raise click.UsageError("--json goes with a program, not with a function")
    return ["function", target], re.split("[:.]", target)[-1]


def _program(program: list[str], as_json: bool) -> Sequence[str]:
    if not program:
        raise click.UsageError("a program must follow --")
    if shutil.which(program[0]) is None:
        raise click.UsageError(f"there is no program {program[0]!r} that can be run")
    return ["json" if as_json else "text", *program]


async def _until_stopped(worker: Worker, work: Sequence[str], address: str) -> int:
    """Have *worker* work until a signal cancels this; return the exit status."""
    worker.startService()
    try:
        await worker.broken
    except ChildError as error:
        await worker.stopService()
        raise CannotWork(_why(work, error)) from None
    except Refused as refused:
        await worker.stopService()
        raise CannotWork(_why_refused(address, refused.error)) from None
    except CancelledError:
        pass  # asked to stop
    try:
        return await _finish(worker)
    except CancelledError:
        worker.kill()
        raise


async def _finish(worker: Worker) -> int:
    log = Logger()
    if worker.busy:
        log.info("stopping; jobs in hand: {busy} (the same again ends them)", busy=worker.busy)
    cut = await worker.stopService()
    if cut:
        log.warn("jobs that took too long and were ended: {cut}; the broker gives them to other workers", cut=cut)
        return FAILED
    log.info("stopped")
    return 0


def _why(work: Sequence[str], error: ChildError) -> str:
    told = error.fail
    reason = told.reason if told.traceback is None else f"\n{told.traceback.rstrip()}"
    return f"cannot work with {' '.join(work[1:])}: {reason}"


def _why_refused(address: str, error: RequestRefused) -> str:
    if error.error == InvalidAction.code:
        return f"{address} is the broker's port for masters; a worker needs its slave port: --slave HOST:{SLAVE_PORT}"
    return f"the broker at {address} refuses: {error}"
