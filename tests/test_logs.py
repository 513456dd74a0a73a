"""What journald is given: gloom.logs."""

from __future__ import annotations

import io

import pytest
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from gloom.logs import journal


def written(level: LogLevel, text: str, **fields: object) -> str:
    """Return what the observer makes of one event."""
    file = io.StringIO()
    Logger(namespace="gloom", observer=LogPublisher(journal(file))).emit(level, text, **fields)
    return file.getvalue()


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (LogLevel.debug, 7),
        (LogLevel.info, 6),
        (LogLevel.warn, 4),
        (LogLevel.error, 3),
        (LogLevel.critical, 2),
    ],
)
def test_each_level_has_its_syslog_priority(level: LogLevel, priority: int) -> None:
    """A line begins with <N>, so that journalctl -p finds it, and has no time of its own."""
    assert written(level, "masters on {place}", place="[::1]:9998") == f"<{priority}>masters on [::1]:9998\n"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    """A bug's traceback stays together: no line of it falls back to another priority."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        failure = Failure()
    lines = written(LogLevel.critical, "a bug in gloom", log_failure=failure).splitlines()
    assert lines[0] == "<2>a bug in gloom"
    assert "<2>builtins.ValueError: two" in lines
    assert all(line.startswith("<2>") for line in lines)


def test_an_event_without_text_writes_nothing() -> None:
    """Twisted's events that have no message make no empty line."""
    assert written(LogLevel.info, "") == ""


def test_an_event_without_a_level_is_information() -> None:
    """What Twisted's old logging emits is written at priority 6."""
    file = io.StringIO()
    journal(file)({"log_format": "old", "log_time": 0.0})
    assert file.getvalue() == "<6>old\n"


def test_the_default_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """twistd --logger=gloom.logs.journal calls it without a file: systemd reads standard output."""
    journal()({"log_format": "up", "log_level": LogLevel.info})
    assert capsys.readouterr().out == "<6>up\n"
