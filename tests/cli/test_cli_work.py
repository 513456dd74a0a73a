"""The command line of `gloom work`: the errors before anything starts."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from click.testing import CliRunner, Result
from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from gloom.cli.loglines import TimedLines
from gloom.cli.main import command


def gloom(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["work", *arguments], prog_name="gloom")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing answers the jobs: give MODULE:FUNCTION, or --type TYPE -- PROGRAM"),
        (["double"], "expected MODULE:FUNCTION, got 'double'; a program comes after --"),
        (["shop.jobs:"], "expected MODULE:FUNCTION, got 'shop.jobs:'; a program comes after --"),
        (["../shop.py:f"], "expected MODULE:FUNCTION, got '../shop.py:f'; a program comes after --"),
        (["math:sqrt", "--json"], "--json goes with a program, not with a function"),
        (["math:sqrt", "--type", "root", "--", "cat"], "give either MODULE:FUNCTION or a program after --, not both"),
        (["--", "cat"], "a program needs --type TYPE"),
        (["--type", "same", "--"], "a program must follow --"),
        (["--type", "same", "--", "no_such_program"], "there is no program 'no_such_program' that can be run"),
        (["--type", "same", "--", "/etc/passwd"], "there is no program '/etc/passwd' that can be run"),
        (["math:sqrt", "--type", ""], "Invalid value for '-t' / '--type': must have 1 to 255 characters, got 0"),
        (["math:sqrt", "--name", "x" * 256], "Invalid value for '--name': must have 1 to 255 characters, got 256"),
        (["math:sqrt", "--name", "a\nb"], "Invalid value for '--name': must have no control characters"),
        (["math:sqrt", "--name", "a\udcff"], "Invalid value for '--name': must be UTF-8"),
        (["math:sqrt", "-t", "a\udcff"], "Invalid value for '-t' / '--type': must be UTF-8"),
        (["math:sqrt", "--finish-seconds", "nan"], "Invalid value for '--finish-seconds': must be 0 to"),
        (["math:sqrt", "-c", "0"], "0 is not in the range 1<=x<=1000"),
        (["math:sqrt", "--finish-seconds", "-1"], "-1.0 is not in the range"),
        (["math:sqrt", "--slave", "nowhere"], "Invalid value for '--slave'"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_status_2(arguments: Sequence[str], complaint: str) -> None:
    """Wrong usage is one line with the reason, without a traceback, and starts nothing."""
    result = gloom(*arguments)
    assert result.exit_code == 2
    assert complaint in result.output.replace("\n", " ").replace("  ", " ")
    assert "Traceback" not in result.output


def test_the_help_says_how_it_is_used() -> None:
    """--help shows both forms, and the defaults."""
    result = gloom("--help")
    assert result.exit_code == 0
    assert "Usage: gloom work [OPTIONS] {MODULE:FUNCTION | --type TYPE -- PROGRAM" in result.output.replace("\n", "")
    assert "\n      gloom work math:sqrt\n" in result.output
    for default in ("the function's name", "(the number of CPUs)", "127.0.0.1:9999", "host:pid", "30"):
        assert f"default: {default}" in " ".join(result.output.split())


def test_an_option_of_the_program_is_the_programs() -> None:
    """Options after -- belong to the program, even --help."""
    assert "no program 'no_such_program'" in gloom("--type", "x", "--", "no_such_program", "--help").output


# The log


def logged(monkeypatch: pytest.MonkeyPatch, verbose: bool) -> tuple[Logger, io.StringIO, LogPublisher]:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    publisher = LogPublisher(TimedLines("gloom work", LogLevel.debug if verbose else LogLevel.info))
    return Logger(namespace="gloom.test", observer=publisher), stream, publisher


def test_log_lines_have_the_time_and_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log line has the time, the verb and the text; debug lines need --verbose."""
    log, stream, _ = logged(monkeypatch, verbose=False)
    log.debug("not shown")
    log.info("joined {type}", type="double")
    assert stream.getvalue()[8:] == " gloom work: joined double\n"
    assert stream.getvalue()[2:6:3] == "::"


def test_verbose_shows_gloom_in_detail_and_others_when_they_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """--verbose shows gloom's debug lines, and only warnings of other packages."""
    log, stream, publisher = logged(monkeypatch, verbose=True)
    other = Logger(namespace="twisted.test", observer=publisher)
    log.debug("shown")
    other.info("not shown")
    other.warn("shown too")
    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == ["shown", "shown too"]


def test_a_bug_is_logged_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected failure is logged with its traceback."""
    log, stream, _ = logged(monkeypatch, verbose=False)
    try:
        raise LookupError("no such shelf")
    except LookupError:
        log.failure("a bug", Failure())
    assert " gloom work: a bug\nTraceback " in stream.getvalue()
    assert stream.getvalue().endswith("LookupError: no such shelf\n")


class Gone(io.StringIO):
    """A stream without a reader."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_nobody_reads_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed standard error does not end a worker."""
    log, stream, _ = logged(monkeypatch, verbose=False)
    monkeypatch.setattr("sys.stderr", Gone())
    log.info("unheard")
    assert stream.getvalue() == ""
