"""The programs of docs/clients.md, run as they stand there against a real broker."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import gloom.errors
from tests.support.daemon import STOPPING_SECONDS, Daemon
from tests.support.programs import programs_of, started

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()

PROGRAMS = programs_of(PAGE)

#: A mark of the programs that run until they are stopped.
ENDLESS = ("reactor.run()", "Application(", "slave.join(", "serve_forever()")


def test_every_program_runs_and_prints_what_the_page_says(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """On docs/clients.md, slaves run beside the masters that follow them, and stop without an error."""
    broker, slaves = daemon(), dict[str, subprocess.Popen[str]]()
    assert len(PROGRAMS) == 16
    with ExitStack() as processes:
        for number, (program, expected) in enumerate(PROGRAMS):
            process = processes.enter_context(started(tmp_path, number, program, broker))
            processes.callback(process.kill)
            if any(sign in program for sign in ENDLESS):
                slaves[program] = process
                continue
            printed, _ = process.communicate(timeout=30)
            assert (printed, process.returncode) == (expected, 0), f"program {number}:\n{program}"
        assert len(slaves) == 6
        for program, slave in slaves.items():
            # A program with its own loop must be killed.
            end = signal.SIGTERM if "for job in slave" in program else signal.SIGINT
            slave.send_signal(end)
            printed, _ = slave.communicate(timeout=STOPPING_SECONDS)
            assert slave.returncode in (0, -end), printed
            assert "Traceback" not in printed, printed


#: The errors in the table that gloom defines.
ROWS = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", ROWS)
def test_the_table_names_errors_that_there_are(name: str) -> None:
    """Each error in the table can be imported from the module that the page names."""
    assert issubclass(getattr(gloom.errors, name), gloom.errors.GloomError)


def test_the_table_is_whole() -> None:
    """Each kind of error that a client raises to its user has a row."""
    names = ("JobFailed", "RequestRefused", "BodyError", "ProtocolError", "TransportError")
    raised = {getattr(gloom.errors, name) for name in names}
    assert set(ROWS) == {error.__name__ for error in raised}
