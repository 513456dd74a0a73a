"""The command `gloom`: its help, and the errors before anything starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import gloom as package
from gloom.cli.connect import Place
from gloom.cli.main import VERBS, command
from gloom.cli.options import valid_short_text


def gloom(*arguments: str, env: dict[str, str] | None = None, input: str = "") -> Result:
    return CliRunner().invoke(command, arguments, prog_name="gloom", env=env, input=input)


def test_the_version_is_the_packages() -> None:
    """--version names the program and its version."""
    assert gloom("--version").output == f"gloom {package.__version__}\n"


def test_help_names_every_verb_and_every_exit_status() -> None:
    """--help shows every verb, and the exit statuses on which a script may rely."""
    result = gloom("--help")
    assert result.exit_code == 0
    for verb, text in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(text)}$", result.output, re.MULTILINE)
    for status in (0, 1, 2, 124, 129, 130, 141, 143):
        assert re.search(rf"\b{status}\b", result.output.partition("Exit status")[2])


def test_every_verb_has_help() -> None:
    """Each verb that `gloom --help` names has its own help."""
    for verb in VERBS:
        result = gloom(verb, "--help")
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: gloom {verb} ")


def test_a_shell_completes_verbs() -> None:
    """Tab after `gloom` offers the verbs."""
    completion = ShellComplete(command, {}, "gloom", "_GLOOM_COMPLETE")
    assert [item.value for item in completion.get_completions([], "")] == list(VERBS)


def test_help_is_quick_because_it_loads_no_twisted() -> None:
    """Neither the help of gloom nor of its verbs that submit imports Twisted or rich."""
    program = (
        "import sys; from gloom.cli.main import command\n"
        "try: command(sys.argv[1:])\n"
        "finally: sys.stderr.write(' '.join({'twisted', 'rich', 'asyncio'} & set(sys.modules)))\n"
    )
    for arguments in (["--help"], ["submit", "--help"], ["map", "--help"], ["demo", "--help"]):
        ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert ended.stdout.startswith("Usage:")
        assert ended.stderr == ""


@pytest.mark.parametrize(
    ("typed", "meant"), [("sumbit", "submit"), ("worker", "work"), ("brokr", "broker"), ("demos", "demo")]
)
def test_a_mistyped_verb_gets_the_nearest_one(typed: str, meant: str) -> None:
    """A mistyped verb is answered with the nearest one."""
    result = gloom(typed, "--anything")
    assert result.exit_code == 2
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in result.output


@pytest.mark.parametrize("verb", ["submit", "map", "work", "bench"])
def test_the_connection_comes_last_in_the_help_of_a_verb(verb: str) -> None:
    """A verb's own options come first; addresses, tokens and TLS are the same for all verbs."""
    options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", gloom(verb, "--help").output, re.MULTILINE)
    place = "--slave" if verb == "work" else "--master"
    tls = ["--tls", "--tls-ca", "--tls-cert", "--tls-key", "--tls-server-name"]
    assert options[-8:] == [place, "--token-file", *tls, "--help"]


def test_python_m_runs_the_same_command() -> None:
    """Without the script on the path, `python -m gloom` runs the same command."""
    ended = subprocess.run([sys.executable, "-m", "gloom", "--version"], capture_output=True, text=True)
    assert ended.stdout == gloom("--version").output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["submit"], "Missing argument 'TYPE'"),
        (["map"], "Missing argument 'TYPE'"),
        (["map", ""], "Invalid value for 'TYPE': must have 1 to 255 characters, got 0"),
        (["submit", "x" * 256], "must have 1 to 255 characters, got 256"),
        (["submit", "t", "b", "--id", ""], "Invalid value for '--id': must have 1 to 255 characters, got 0"),
        (["submit", "t", "b", "--priority", str(2**63)], f"must be an integer of signed 64 bits, got {2**63}"),
        (["map", "t", "--priority", "high"], "'high' is not a valid integer"),
        (["submit", "t", "b", "--timeout", "0"], "must be above 0 and at most 1000000000 seconds, got 0"),
        (["submit", "t", "b", "--timeout", "nan"], "must be above 0 and at most 1000000000 seconds, got nan"),
        (["submit", "t", "@no/such/file"], "Invalid value for BODY: cannot read no/such/file: No such file"),
        (["submit", "t", "b", "--master", "nowhere"], "Invalid value for '--master'"),
        (["submit", "t", "b", "--master", "host:99999"], "a port is 1 to 65535"),
        (["map", "t", "--master", "tcp:"], "expected HOST:PORT or a Twisted client endpoint description"),
        (["map", "t", "--window", "0"], "0 is not in the range"),
        (["submit", "t", "b", "--job-timeout", "0"], "must be above 0 and at most 1000000000 seconds, got 0"),
        (["submit", "t", "b", "--delay", "-1"], "must be 0 to 1000000000 seconds, got -1"),
        (["map", "t", "--expires", "nan"], "must be 0 to 1000000000 seconds, got nan"),
        (["map", "t", "--retries", "101"], "101 is not in the range"),
        (["submit", "t", "b", "--token-file", "/no/such"], "cannot read /no/such: No such file or directory"),
        (["submit", "t", "b", "--token-file", "/dev/null"], "/dev/null is empty"),
        (["submit", "t", "b", "--tls-ca", "/no/such"], "tls ca: cannot read /no/such: No such file or directory"),
        (["submit", "t", "b", "--tls-cert", "/no/such"], "tls certificate: cannot read /no/such"),
        (["map", "t", "--tls", "--master", "unix:/run/x"], "needs server_name: whose certificate it must be"),
        (["work", "math:sqrt", "--type", "a", "--type", ""], "1 to 255 characters, got 0"),
        (["submit", "\udcff"], "Invalid value for 'TYPE': must be UTF-8: invalid start byte"),
        (["submit", "t", "b", "--id", "a\udcff"], "must be UTF-8: invalid start byte"),
        (["work", "math:sqrt", "--type", "\udcff"], "must be UTF-8: invalid start byte"),
        (["work", "math:sqrt", "--name", "\udcff"], "Invalid value for '--name': must be UTF-8"),
        (["work", "math:sqrt", "--name", "a\n\x1b[1m"], "Invalid value for '--name': must have no control characters"),
        (["work", "math:sqrt", "--finish-seconds", "nan"], "must be 0 to 1000000000 seconds, got nan"),
        (["demo", "now"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_status_2(arguments: list[str], complaint: str) -> None:
    """Wrong usage is one line with the reason, and starts nothing."""
    result = gloom(*arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_a_type_is_read_as_it_was_typed_in_any_locale() -> None:
    """In the C locale Python reads the bytes of an ä as two surrogates; gloom restores the character."""
    context, parameter = click.Context(command), click.Option(["--id"])
    assert valid_short_text(context, parameter, "K\udcc3\udca4se") == "Käse"
    assert valid_short_text(context, parameter, "\udcc3\udca4" * 255) == "ä" * 255


def test_a_wrong_address_in_the_environment_is_said_to_be_there() -> None:
    """The error for a wrong address in GLOOM_MASTER names the variable."""
    result = gloom("submit", "t", "b", env={"GLOOM_MASTER": "nowhere"})
    assert result.exit_code == 2
    assert "GLOOM_MASTER" in result.output


def test_a_body_that_is_not_utf_8_is_refused() -> None:
    """JSON is UTF-8, so a body in another encoding is refused."""
    result = gloom("submit", "t", "\udcff")
    assert result.exit_code == 2
    assert "Invalid value for BODY: not UTF-8: invalid start byte at byte 0" in result.output


def test_a_token_file_of_no_text_is_refused(tmp_path: Path) -> None:
    """A token file that is no text, a key for example, is refused, and its content is not shown."""
    (tmp_path / "token").write_bytes(b"secret\xff")
    result = gloom("submit", "t", "b", "--token-file", str(tmp_path / "token"))
    assert "it is not text" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("token", "complaint"), [("secret\nmore", "must hold one line, the token"), ("secret\udcff", "is not UTF-8")]
)
def test_a_token_in_the_environment_that_is_none_is_refused(token: str, complaint: str) -> None:
    """A token of two lines, or in another encoding, is refused, and its content is not shown."""
    result = gloom("submit", "t", "b", env={"GLOOM_TOKEN": token})
    assert result.exit_code == 2
    assert f"GLOOM_TOKEN {complaint}" in result.output
    assert "secret" not in result.output


def test_a_token_file_holds_the_token_alone(tmp_path: Path) -> None:
    """A token file with two lines is refused: the broker would only report an unknown token."""
    (tmp_path / "token").write_text('secret\ntoken_sha256 = "..."\n')
    result = gloom("submit", "t", "b", "--token-file", str(tmp_path / "token"))
    assert result.exit_code == 2
    assert "must hold one line, the token" in " ".join(result.output.split())
    assert "secret" not in result.output


def test_a_token_is_in_no_representation() -> None:
    """The representation of a connection, as in a log, does not show the token."""
    assert "secret" not in repr(Place("127.0.0.1:1", "secret"))
