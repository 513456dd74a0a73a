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
    help="Id of the job; no other job in flight may have it.  [default: a generated one]",
)
@click.option(
    "-t",
    "--timeout",
    metavar="SECONDS",
    type=float,
    callback=valid_seconds,
    help="Cancel the job if there is no answer after this time; the exit status is 124.",
)
@terms_options
@delay_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome, answer or failure, as one line of JSON.")
@click.option("--progress", is_flag=True, help="Print the slave's progress reports as lines of JSON on standard error.")
@click.option("-v", "--traceback", is_flag=True, help="If the job fails, print the slave's traceback too.")
@master_options
def command(master: Place, body: str | None, text: bool, **options: Any) -> None:
    """
    Have one job done, and print its answer.

    TYPE is the job type; slaves that joined it can take the job. BODY is the
    job's input: JSON if it is valid JSON, else a string. @FILE reads it from a
    file; without BODY, or with -, it is read from standard input. Put --
    before a BODY that begins with -.

    A string answer is printed as it is, any other answer as JSON. --json
    prints the outcome on one line: {"id":..., "answer":...}, or {"id":...,
    "error":..., "reason":...} with further fields of the failure. On a
    terminal the slave's progress reports are shown.

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
        say(f"BODY looks like JSON but is not ({slip}); sending it as a string (--text avoids this warning)")
    run(lambda reactor: submit(reactor, master, job))


def _bytes(body: str | None) -> bytes:
    """Return the bytes that BODY names."""
    if body is None or body == "-":
        return _read_stdin()
    if body.startswith("@"):
        try:
            return Path(body[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"cannot read {body[1:]}: {error.strerror}", param_hint="BODY") from None
    # The bytes that were typed, even if the locale cannot decode them.
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
