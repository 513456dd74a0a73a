"""`gloom broker`: its options, which are those of `twistd gloom`, and its log."""

from __future__ import annotations

import io
import re
import resource
from typing import Any

import pytest
from click.testing import CliRunner, Result
from twisted.logger import Logger, LogLevel, LogPublisher

from gloom.cli.broker import command, fill_in
from gloom.cli.loglines import TimedLines
from gloom.cli.main import command as gloom_command
from gloom.host.filelimit import fitting_connections
from gloom.tap import Options


def gloom(*arguments: str) -> Result:
    return CliRunner().invoke(gloom_command, ["broker", *arguments], prog_name="gloom")


def filled(*arguments: str) -> Options:
    """Return the daemon's options for a command line."""
    return fill_in(command.make_context("broker", list(arguments), resilient_parsing=False))


def twistds() -> set[str]:
    """Return the names of all options of `twistd gloom`."""
    return {name.rstrip("=") for name in Options().longOpt} - {"help", "version"}


def test_the_options_are_those_of_twistd_gloom() -> None:
    """Each option of the daemon is there under its name, and no other."""
    assert {option.opts[0].removeprefix("--") for option in command.params} == twistds()


def test_help_has_the_words_of_twistd_gloom() -> None:
    """An option has the same text and default in both helps."""
    text = " ".join(gloom("--help").output.split())
    parameters: Any = Options.optParameters
    for option, _short, default, described in parameters:
        assert f"--{option} " in text
        assert " ".join(described.split()) in text
        if default is not None:
            assert f"[default: {default}]" in text
    assert "--master-port PORT PORT for masters; may be given more than once [default: 9998]" in text


def test_access_and_tls_come_last() -> None:
    """The options of a first start come first, those for access and TLS last."""
    names = [option.opts[0] for option in command.params]
    assert names[:3] == ["--master-port", "--slave-port", "--interface"]
    assert names[-4:] == ["--access", "--tls-cert", "--tls-key", "--tls-client-ca"]


def test_what_is_given_arrives() -> None:
    """Ports, numbers and flags reach the daemon as text, as from twistd."""
    options = filled(
        "--master-port", "1", "--master-port=unix:/x", "--retries", "7", "--require-type", "-i", "::", "-v"
    )
    assert options["master-port"] == ["1", "unix:/x"]
    assert options["slave-port"] == []
    assert (options["retries"], options["interface"]) == ("7", "::")
    assert (options["require-type"], options["verbose"]) == (1, 1)


def test_what_is_not_given_is_twistds_default() -> None:
    """Both ways to start a broker have the same defaults, except for the number of connections (see below)."""
    given, twistd = dict(filled()), dict(Options())
    given.pop("max-connections")
    twistd.pop("max-connections")
    assert given == twistd


@pytest.mark.parametrize(
    ("hard", "connections"),
    [(resource.RLIM_INFINITY, 20_000), (1 << 20, 20_000), (20_064, 20_000), (20_000, 19_936), (1024, 960), (65, 1)],
)
def test_a_default_start_fits_the_systems_limit(hard: int, connections: int) -> None:
    """With a low descriptor limit, a broker accepts fewer connections, instead of a warning at each start."""
    assert fitting_connections(20_000, lambda: (10, hard)) == connections


def test_a_limit_without_room_is_left_to_the_warning() -> None:
    """With hardly any descriptors no default fits, and the daemon warns."""
    assert fitting_connections(20_000, lambda: (10, 64)) == 20_000


def test_a_number_of_connections_that_was_asked_for_stays() -> None:
    """An explicit --max-connections is kept, and the daemon warns if the system does not allow it."""
    assert filled("--max-connections", "1000000")["max-connections"] == "1000000"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--retries", "many"], "--retries must be a whole number, got 'many'"),
        (["--retries=101"], "--retries must be 0 to 100, got 101"),
        (["--master-port", "http"], "--master-port must be a port number or a Twisted endpoint description"),
        (["--interface", "here"], "--interface must be an IP address such as 0.0.0.0 or ::, got 'here'"),
        (["--tls-key", "/no/such"], "--tls-key and --tls-client-ca go with --tls-cert"),
        (["--access", "/no/such"], "--access"),
        (["now"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_status_2_as_of_every_verb(arguments: list[str], complaint: str) -> None:
    """Wrong usage has the error text of twistd gloom, and status 2."""
    result = gloom(*arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_the_command_line_offers_an_option_that_was_mistyped() -> None:
    """A mistyped option is answered with the nearest one."""
    assert "--slave-port" in gloom("--slaves-port", "1").output


# The log


def logged(level: Any, monkeypatch: pytest.MonkeyPatch, namespace: str = "gloom.server") -> str:
    """Return the printed text of a debug, an info and a warning line."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    log = Logger(namespace, observer=LogPublisher(TimedLines("gloom broker", level)))
    log.debug("a detail")
    log.info("masters on {place}", place="127.0.0.1:1")
    log.warn("open to other hosts")
    return stderr.getvalue()


def test_a_line_is_a_time_and_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log line is a time and a text, without a class name or a level."""
    lines = logged(LogLevel.info, monkeypatch).splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "gloom broker: masters on 127.0.0.1:1",
        "gloom broker: open to other hosts",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


def test_of_twisted_only_warnings_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twisted's lines such as "MasterProtocol starting on 9998" are not shown, except for warnings."""
    assert logged(LogLevel.debug, monkeypatch, "twisted.internet").count("\n") == 1
