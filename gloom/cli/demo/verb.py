"""
``gloom demo``: a broker and two workers at work on real input.
"""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the totals as one line of JSON.")
def command(as_json: bool) -> None:
    """
    Show a broker and two workers at work on real input.

    Starts a broker on free ports and two workers, each as a process on this
    host. Each Python source file of the standard library becomes one job: a
    worker counts its lines, words and definitions. At the end the totals are
    printed, and all processes end.
    """
    # Here, not above: a help text needs no Twisted.
    from gloom.cli.demo.counting import demonstrate
    from gloom.cli.runner import run

    run(lambda reactor: demonstrate(reactor, as_json=as_json))
