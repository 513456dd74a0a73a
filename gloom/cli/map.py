"""
``gloom map``: a job for each line of standard input.
"""

from __future__ import annotations

from typing import Any

import click

from gloom.cli.connect import Place, master_options
from gloom.cli.options import priority_option, terms_options, text_option, type_argument


@click.command()
@type_argument
@click.option("--ordered", is_flag=True, help="Print answers in the order of the lines, not as they come.")
@click.option("--raw", is_flag=True, help="Print answers alone: strings as they are, anything else as JSON.")
@text_option
@priority_option
@click.option(
    "-w",
    "--window",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Lines in work at a time, from reading to printing; memory is that many lines and answers.",
)
@terms_options
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, and no summary at the end.")
@master_options
def command(master: Place, **options: Any) -> None:
    """
    Have a job done for each line of standard input.

    TYPE says which slaves can do them. A job gets its line: as JSON where it
    is JSON, else as a string. Empty lines are skipped, and counted in the line
    numbers. Each job prints one line of JSON, as its answer comes:

    \b
        {"line":1,"answer":42}
        {"line":3,"error":"job_failed","reason":"not a number","kind":"ValueError"}

    An error is job_failed, size_error (the broker takes no line of that size)
    or body_error (the line is not UTF-8, or Python cannot read the answer).

    With --raw a failure goes to standard error. A job that fails does not
    stop the others; the exit status is then 1. A broker that is not there is
    waited for. One that is lost on the way is waited for too, and what it had
    not answered is submitted again; one that has as much as it may hold is
    tried again, ever more slowly. Ctrl-C cancels what is unanswered at the
    broker.

    \b
    Examples:
        seq 1000 | gloom map double > answers.jsonl
        gloom map --ordered --raw upper < names.txt
        gloom map resize < jobs.jsonl | jq 'select(.error)'
    """
    # Here, not above: a help text needs no Twisted.
    from gloom.cli.mapping import MapOptions, map_lines
    from gloom.cli.runner import run

    chosen = MapOptions(**options)
    run(lambda reactor: map_lines(reactor, master, chosen))
