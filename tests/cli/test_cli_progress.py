"""The display of progress: counts, speed, and a message while nothing happens."""

from __future__ import annotations

import io

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure

from gloom.cli.loglines import LogLines
from gloom.cli.output import on_terminal, say
from gloom.cli.progress import Bar, Patience, ProgressLines, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal. Called from the test itself, since pytest captures anew after fixtures."""
    one = Terminal()
    monkeypatch.setattr("sys.stderr", one)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return one


def counted(clock: Clock, jobs: int, failed: int = 0) -> Tally:
    tally = Tally(clock)
    for number in range(jobs):
        tally.count(failed=number < failed)
    return tally


def test_a_tally_says_jobs_failures_and_speed() -> None:
    """The last line has the jobs, the failures and the speed."""
    clock = Clock()
    tally = counted(clock, 1500, failed=3)
    clock.advance(0.5)
    assert str(tally) == "1,500 jobs in 0.5 s, 3 failed, 3,000 jobs/s"
    assert str(counted(clock, 1)).startswith("1 job in ")


def test_the_present_speed_is_that_of_the_last_seconds() -> None:
    """After a pause, the speed is that of the last seconds, and not the mean of an hour."""
    clock = Clock()
    tally = counted(clock, 1000)
    for _ in range(100):
        clock.advance(1)
        tally.count(failed=False)
        speed = tally.recent_jobs_per_second()
    assert speed == pytest.approx(1.0)
    assert tally.jobs_per_second == pytest.approx(11.0)


def test_a_bar_shows_how_far_and_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is redrawn as time passes, and is erased at the end."""
    terminal = terminal_for(monkeypatch)
    clock = Clock()
    tally = counted(clock, 30, failed=2)
    with Bar(clock, tally, lambda: 30, 60):
        clock.advance(0.2)
        assert "50%" in terminal.getvalue()
        assert "30 jobs" in terminal.getvalue()
        assert "2 failed" in terminal.getvalue()
        assert "150 jobs/s" in terminal.getvalue()
    assert not clock.getDelayedCalls()


def test_a_bar_without_a_known_end_has_no_percentage(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a pipe, whose length is unknown, the bar has no percentage."""
    terminal = terminal_for(monkeypatch)
    clock = Clock()
    with Bar(clock, counted(clock, 30), lambda: 30, None):
        clock.advance(0.2)
    assert "30 jobs" in terminal.getvalue()
    assert "%" not in terminal.getvalue()
    assert "left" not in terminal.getvalue()


def test_a_message_stays_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log message appears above the bar, and is not overwritten by it."""
    terminal = terminal_for(monkeypatch)
    clock = Clock()
    with Bar(clock, counted(clock, 1), lambda: 1, 2):
        say("a word")
    assert "gloom: a word\n" in terminal.getvalue()


def test_without_a_terminal_progress_is_a_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, progress is a plain line a second."""
    clock = Clock()
    with ProgressLines(clock, counted(clock, 1200), 5000):
        clock.advance(1)
    assert capsys.readouterr().err == "1,200 of 5,000 jobs, 1,200 jobs/s\n"
    assert not clock.getDelayedCalls()


def test_patience_ends_two_seconds_after_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds after the first job, the terminal shows once that it waits, and for which type."""
    terminal = terminal_for(monkeypatch)
    clock = Clock()
    patience = Patience(clock, "resize")
    clock.advance(10)
    assert terminal.getvalue() == ""
    patience.begin()
    patience.begin()
    clock.advance(10)
    patience.end()
    assert terminal.getvalue() == "gloom: waiting for an answer; does a slave serve 'resize'? (Ctrl-C gives up)\n"


def test_patience_is_not_needed_when_an_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a quick answer, no other text is printed."""
    terminal = terminal_for(monkeypatch)
    clock = Clock()
    patience = Patience(clock, "resize")
    patience.begin()
    patience.end()
    patience.begin()
    clock.advance(10)
    assert terminal.getvalue() == ""
    assert not clock.getDelayedCalls()


def test_a_program_is_not_told_to_be_patient(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, nothing is said about waiting."""
    clock = Clock()
    Patience(clock, "resize").begin()
    assert not clock.getDelayedCalls()
    assert capsys.readouterr().err == ""


def test_warnings_of_the_client_are_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings have no process name, and lesser messages are not shown."""
    log = Logger("gloom.test", observer=LogLines())
    log.info("{name}: connected", name="host:1")
    log.warn("{name}: the connection ended", name="host:1")
    assert capsys.readouterr().err == "gloom: the connection ended\n"


def test_a_bug_is_said_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """A logged failure is printed with its traceback, so that it can be reported."""
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        Logger("gloom.test", observer=LogLines()).failure("a bug", Failure())
    said = capsys.readouterr().err
    assert said.startswith("gloom: a bug\n")
    assert "ZeroDivisionError: by nothing" in said


def test_messages_need_nobody_who_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed standard error, or a terminal that is gone, does no harm."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("gone")

    monkeypatch.setattr("sys.stderr", Gone())
    say("nobody hears this")
    monkeypatch.setattr("sys.stderr", None)
    say("nor this")
    assert not on_terminal(None)
