"""The end of a `gloom` verb: its exit status and its last line; each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commands import SECONDS, pipe_of

VERB = """
import os, signal, sys
import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from gloom.cli.output import StdoutClosed
from gloom.cli.runner import run
from gloom.errors import GloomError

async def verb(reactor):
{body}

run(verb)
"""


@contextmanager
def running(body: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a verb whose coroutine is *body*."""
    program = VERB.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    # Else there would be nothing left to write at the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, text=True, env=environment, **streams) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def ended(body: str) -> tuple[int, str]:
    """Return the exit status of a verb and its standard error."""
    with running(body) as process:
        _, said = process.communicate(timeout=SECONDS)
    return process.returncode, said


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("return 0", (0, "")),
        ("return 7", (7, "")),
        ("raise GloomError('no broker')", (1, "gloom: no broker\n")),
        ("raise StdoutClosed()", (141, "")),
        ("raise click.ClickException('wrong')", (1, "Error: wrong\n")),
        ("raise click.UsageError('wrong')", (2, "Error: wrong\n")),
        ("Logger().warn('lost'); return 0", (0, "gloom: lost\n")),
    ],
)
def test_each_way_to_end_has_its_status_and_at_most_a_line(body: str, outcome: tuple[int, str]) -> None:
    """Each kind of end has its own status, for scripts, and at most one line, for people."""
    assert ended(body) == outcome


@pytest.mark.parametrize("body", ["1 / 0", "raise CancelledError()"])
def test_a_bug_has_its_traceback(body: str) -> None:
    """A bug in gloom prints a traceback, so that it can be reported."""
    status, said = ended(body)
    assert status == 1
    assert "Traceback (most recent call last)" in said


def test_a_signal_lets_a_verb_clean_up() -> None:
    """Ctrl-C cancels the awaited operation, cleanup runs, and the status is that of Ctrl-C."""
    body = "os.kill(os.getpid(), signal.SIGINT)\ntry: await Deferred()\nfinally: sys.stderr.write('clean')"
    assert ended(body) == (130, "clean")


def test_a_second_signal_ends_the_cleaning_up_too() -> None:
    """A second Ctrl-C ends the cleanup too."""
    body = (
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "try: await Deferred()\n"
        "finally:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await Deferred()"
    )
    assert ended(body) == (130, "")


def test_what_a_signal_breaks_is_not_said() -> None:
    """Errors of the processes that the same Ctrl-C ended are not reported."""
    body = (
        "os.kill(os.getpid(), signal.SIGINT)\ntry: await Deferred()\nexcept CancelledError: raise GloomError('broken')"
    )
    assert ended(body) == (130, "")


def test_a_signal_that_comes_when_the_verb_has_ended_changes_nothing() -> None:
    """After a signal that comes too late, the status is that of the finished work."""
    assert ended("os.kill(os.getpid(), signal.SIGINT)\nreturn 0") == (0, "")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """An ignored SIGHUP stays ignored: `nohup gloom ...` outlives its terminal."""
    body = "sys.stdout.write('up'); sys.stdout.flush()\nawait Deferred()"
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(body) as process:
            assert pipe_of(process.stdout).read(2) == "up"
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 143
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize(("body", "status"), [("print('x'); return 0", 141), ("print('x'); return 3", 3)])
def test_output_that_nobody_reads_at_the_end_is_no_traceback(body: str, status: int) -> None:
    """Buffered output is written before the end; if standard output is closed, there is no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    with running(body, stdout=writing) as process:
        os.close(writing)
        assert pipe_of(process.stderr).read() == ""
        assert process.wait(SECONDS) == status


def test_output_that_finds_a_full_disk_at_the_end_is_a_failure() -> None:
    """If the last output is lost on a full disk, the status is a failure."""
    with Path("/dev/full").open("wb") as full, running("print('x'); return 0", stdout=full) as process:
        assert process.wait(SECONDS) == 1
