"""
The command ``gloom`` and its verbs.

A verb is the object ``command`` of the module ``gloom.cli.<verb>``. It is
imported only when it is called: its imports (Twisted, the reactor, rich) take
too long for a help text.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click

import gloom
from gloom.cli.output import FAILED, STDOUT_CLOSED, StdoutClosed, leave_stdout, say, writing_stdout
from gloom.errors import GloomError

#: Each verb with its line in ``gloom --help``.
VERBS = {
    "broker": "Run the broker, to which masters and slaves connect.",
    "submit": "Have one job done, and print its answer.",
    "map": "Have a job done for each line of standard input.",
    "work": "Take jobs, and answer them with a Python function or a program.",
    "bench": "Measure the speed of a running broker for a Python program.",
    "token": "Make a token for a broker's access file.",
    "demo": "Show a broker and two workers at work on real input.",
}


class _Verbs(click.Group):
    """A group that knows its verbs' names, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        similar = get_close_matches(args[0], VERBS, n=1)
        if similar and args[0] not in VERBS and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {similar[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"gloom.cli.{cmd_name}").command
        return command

    # click prints help texts in these two, and would turn a closed standard output into status 1.

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with writing_stdout():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with writing_stdout():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


_EPILOG = """
\b
A first look, with nothing running:
    gloom demo
\b
A broker, a worker and a job:
    gloom broker
    gloom work --type count -- wc -w
    gloom submit count "how many words are these"
\b
A job for each line of a file:
    gloom map count < lines.txt > answers.jsonl

The address of the broker: --master ADDRESS (submit, map, bench) and --slave
ADDRESS (work, bench), or the variables GLOOM_MASTER and GLOOM_SLAVE. ADDRESS is
HOST:PORT, or a Twisted client endpoint description such as
unix:/run/gloom/masters.sock.

A broker with access rules asks for a token: --token-file FILE, or the variable
GLOOM_TOKEN. For TLS: --tls and its options, or the variables GLOOM_TLS_CA,
GLOOM_TLS_CERT and GLOOM_TLS_KEY.

\b
Exit status:
    0    every job was answered, or the broker or work was asked to stop
    1    a job failed, or the broker cannot be reached, or cannot listen
    2    wrong usage
    124  no answer within --timeout
    141  standard output was closed
    129, 130, 143  ended by a hang-up, by Ctrl-C, by SIGTERM
"""


@click.group(cls=_Verbs, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gloom.__version__, prog_name="gloom", message="%(prog)s %(version)s")
def command() -> None:
    """Distribute jobs: masters submit them to a broker, slaves take them one at a time, answers come back."""


def main() -> NoReturn:
    """
    Run the command line of this process, and exit.

    A verb that runs in the reactor exits by itself (`gloom.cli.runner`). All
    other verbs, and help texts, return here.

    Raises:
        SystemExit: Always; the statuses are in ``gloom --help``.
    """
    try:
        # A help text returns its status; a verb that returns has succeeded.
        status = command.main(prog_name="gloom", standalone_mode=False) or 0
    except click.ClickException as error:
        with suppress(OSError):  # standard error is closed: nowhere to report it
            error.show()
        status = error.exit_code
    except StdoutClosed:
        status = STDOUT_CLOSED
    except GloomError as error:
        say(str(error))
        status = FAILED
    sys.exit(leave_stdout(status))
