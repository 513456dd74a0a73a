"""
``gloom submit``: one job, and its answer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from gloom.cli.connect import Place, master_options
from gloom.cli.options import (
    delay_option,
    priority_option,
    terms_options,
    text_option,
    type_argument,
    valid_seconds,
    valid_short_text,
)
from gloom.cli.output import say
from gloom.cli.values import json_slip, read_body
from gloom.errors import BodyError


@click.command()
@type_argument
@click.argument("body", metavar="[BODY]", required=False)
@text_option
@priority_option
@click.option(
    "--id",
    metavar="ID",
    callback=valid_short_text,
    help="The job's id; no other job in flight may have it.  [default: made up]",
)
@click.option(
    "-t",
    "--timeout",
    metavar="SECONDS",
    type=float,
    callback=valid_seconds,
    help="Cancel it when there is no answer by then, with exit status 124.",
)
@terms_options
@delay_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome, answer or failure, as one line of JSON.")
@click.option("--progress", is_flag=True, help="Print what the slave tells of the job as lines of JSON on stderr.")
@click.option("-v", "--traceback", is_flag=True, help="When the job fails, print the slave's traceback too.")
@master_options
def command(master: Place, body: str | None, text: bool, **options: Any) -> None:
    """
    Have one job done, and print its answer.

    TYPE says which slaves can do it. BODY is what the job gets: JSON where it
    is JSON, else a string. @FILE is what a file holds, and without BODY, or
    with -, it is what standard input holds. A BODY that begins with - comes
    after --.

    An answer that is a string is printed as it is, any other as JSON. With
    --json the outcome is printed, on one line: {"id":..., "answer":...}, or
    {"id":..., "error":..., "reason":...} and what else is known of a failure.
    What the slave tells while it works is shown on a terminal.

    Ctrl-C cancels the job at the broker.

    \b
    Examples:
        gloom submit upper hello
        gloom submit add '{"a": 1, "b": 2}' --priority 5
        gloom submit double -- -21
        gloom submit words @README.md --timeout 10
        git log | gloom submit --text summarize
    """
    # Here, not above: a help text needs no Twisted.
    from gloom.cli.runner import run
    from gloom.cli.submission import Submission, submit

    try:
        job = Submission(body=read_body(_bytes(body), as_text=text), **options)
    except BodyError as error:
        raise click.BadParameter(str(error), param_hint="BODY") from None
    slip = None if text else json_slip(job.body)
    if slip is not None:
        say(f"BODY begins like JSON and is none ({slip}): it is sent as a string; with --text, without this line")
    run(lambda reactor: submit(reactor, master, job))


def _bytes(body: str | None) -> bytes:
    """Return what BODY stands for."""
    if body is None or body == "-":
        return _read_stdin()
    if body.startswith("@"):
        try:
            return Path(body[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"cannot read {body[1:]}: {error.strerror}", param_hint="BODY") from None
    # What was typed, where it is not the locale's text too.
    return os.fsencode(body)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint="BODY")
    if sys.stdin.isatty():
        say("type the body, and end it with Ctrl-D")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise click.BadParameter(f"cannot read standard input: {error.strerror}", param_hint="BODY") from None
