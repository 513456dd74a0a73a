"""Log lines for journald: gloom.logs."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher, formatEvent
from twisted.python.failure import Failure

from gloom.logs import PeerLogger, journal
from gloom.settings import Settings
from gloom.testing import MemoryGloom
from tests.support.logged import logged


def written(level: LogLevel, text: str, **fields: object) -> str:
    """Return the observer's text for one event."""
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
    """A line begins with <N>, so that journalctl -p finds it, and has no timestamp."""
    assert written(level, "masters on {place}", place="[::1]:9998") == f"<{priority}>masters on [::1]:9998\n"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    """Every line of a traceback has the priority of the first."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        failure = Failure()
    lines = written(LogLevel.critical, "a bug in gloom", log_failure=failure).splitlines()
    assert lines[0] == "<2>a bug in gloom"
    assert "<2>\tbuiltins.ValueError: two" in lines
    assert all(line.startswith("<2>") for line in lines)


def test_an_event_without_text_writes_nothing() -> None:
    """A Twisted event without a message writes no empty line."""
    assert written(LogLevel.info, "") == ""


def test_an_event_without_a_level_is_information() -> None:
    """An event of Twisted's old logging is written at priority 6."""
    file = io.StringIO()
    journal(file)({"log_format": "old", "log_time": 0.0})
    assert file.getvalue() == "<6>old\n"


def test_the_default_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """twistd --logger=gloom.logs.journal calls it without a file: systemd reads standard output."""
    journal()({"log_format": "up", "log_level": LogLevel.info})
    assert capsys.readouterr().out == "<6>up\n"


FORGED = "quiet\n<3>gloom is down\x1b[2J\u202e\u2028\x85end"


def test_what_a_peer_says_is_logged_in_escapes() -> None:
    """A peer's text is one line in any log and cannot control a terminal: unprintable characters are escaped."""
    events: list[LogEvent] = []
    log = PeerLogger(namespace="gloom", observer=LogPublisher(cast(Any, events.append)))
    log.warn("{peer}: {reason}, {error} {count}", peer=FORGED, reason="é 😀", error=ValueError(FORGED), count=3)
    (event,) = events
    shown = r"quiet\n<3>gloom is down\x1b[2J\u202e\u2028\x85end"
    assert formatEvent(event) == f"{shown}: é 😀, {shown} 3"


def test_no_line_of_the_journal_can_be_forged() -> None:
    """If a text has newlines all the same, the lines after the first are indented and escaped."""
    lines = written(LogLevel.warn, "{said}", said=FORGED).splitlines()
    assert lines[0] == "<4>quiet"
    assert all(line.startswith("<4>\t") and line.isascii() and "\x1b" not in line for line in lines[1:])


def test_a_refusal_of_a_peer_is_one_line_of_the_log() -> None:
    """A newline in a verb or a type is quoted to the peer unchanged, and to the log as an escape."""
    gloom = MemoryGloom(Settings(verbose=True))
    with logged() as events:
        (reply,) = gloom.master().ask({"action": FORGED})
    assert FORGED in reply["reason"]
    assert [formatEvent(event).isprintable() for event in events] == [True]
