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
@click.option("--ordered", is_flag=True, help="Print answers in the order of the lines, not in the order of arrival.")
@click.option("--raw", is_flag=True, help="Print only the answers: strings as they are, all others as JSON.")
@text_option
@priority_option
@click.option(
    "-w",
    "--window",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Most lines between reading and printing; they and their answers are held in memory.",
)
@terms_options
@click.option("-q", "--quiet", is_flag=True, help="Print no progress bar, and no summary at the end.")
@master_options
def command(master: Place, **options: Any) -> None:
    """
    Have a job done for each line of standard input.

    TYPE is the job type; slaves that joined it can take the jobs. The body of
    a job is its line: JSON if it is valid JSON, else a string. Empty lines are
    skipped, but count in the line numbers. Each job prints one line of JSON
    when its answer arrives:

    \b
        {"line":1,"answer":42}
        {"line":3,"error":"job_failed","reason":"not a number","kind":"ValueError"}

    The error is job_failed, size_error (the line is larger than the broker
    accepts) or body_error (the line is not UTF-8, or Python cannot read the
    answer). A failed job does not stop the others, but makes the exit status
    1. With --raw a failure is printed on standard error.

    If the broker cannot be reached, map waits for it. If the connection is
    lost, map reconnects and submits the unanswered jobs again. If the broker
    is full, map tries again after growing pauses. Ctrl-C cancels the
    unanswered jobs at the broker.

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
