"""The start of the command `gloom`, and an unwritable standard output: real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from gloom.server.access import hash_token
from tests.support.commands import GLOOM, SECONDS, Command, pipe_of, run_gloom

# Stands in for a module that `gloom` imports: reports the begin of the import, and never ends it.
_ENDLESS = "import os, time\nos.write(1, b'importing')\ntime.sleep(1000)\n"


@pytest.mark.parametrize("module", ["click", "twisted"])
@pytest.mark.parametrize("verb", ["broker", "submit", "map", "work", "bench", "demo"])
def test_ctrl_c_while_gloom_starts_is_130(module: str, verb: str, tmp_path: Path) -> None:
    """Ctrl-C in the first half second, during the imports, is status 130 without a traceback."""
    (tmp_path / f"{module}.py").write_text(_ENDLESS)
    arguments = {"submit": ["echo", "hello"], "map": ["echo"], "work": ["math:sqrt"]}.get(verb, [])
    environment = {"PYTHONPATH": str(tmp_path)}
    with Command(verb, *arguments, env=environment) as process:
        assert pipe_of(process.stdout).read(9) == "importing"
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert pipe_of(process.stderr).read() == ""


def test_ctrl_c_while_the_body_is_read_is_130() -> None:
    """Ctrl-C while `gloom submit` reads standard input ends it at once, without output."""
    reading, writing = os.pipe()
    with Command("submit", "echo", stdin=reading) as process:
        os.close(reading)
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            wait_until_read(process.pid, pipe.fileno())
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130
        assert pipe_of(process.stderr).read() == ""


def wait_until_read(pid: int, descriptor: int) -> None:
    """Wait until the process has read a byte from the pipe."""
    os.write(descriptor, b"x")
    while unread_bytes(descriptor):
        assert Path(f"/proc/{pid}").exists()
        os.sched_yield()


def unread_bytes(descriptor: int) -> int:
    """Return the number of unread bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


# Standard output


@pytest.mark.parametrize("arguments", [["token"], ["--help"], ["--version"], ["submit", "--help"]])
def test_a_closed_standard_output_is_141(arguments: list[str]) -> None:
    """`gloom token | head -0` prints no traceback, and has the same status as every other verb."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run_gloom(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("arguments", [["token"], ["--help"], ["--version"], ["map", "--help"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    """If a token or a help text cannot be written, the status is 1, with one line."""
    with Path("/dev/full").open("wb") as full:
        ended = run_gloom(*arguments, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "gloom: cannot write to standard output: No space left on device\n"


def test_no_standard_output_is_one_line() -> None:
    """Started without standard output (`>&-`), `gloom token` makes no token."""
    ended = subprocess.run(
        ["sh", "-c", f"exec {GLOOM} token >&-"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, "gloom: standard output is closed\n")


# Tokens


def test_the_command_makes_tokens() -> None:
    """`gloom token` prints a new token on standard output, and its access-file line on standard error."""
    tokens = [run_gloom("token") for _ in range(2)]
    for ended in tokens:
        token = ended.stdout.removesuffix("\n")
        assert ended.stderr == (
            "gloom: the token is on standard output; this is for the broker's access file:\n"
            f'token_sha256 = "{hash_token(token)}"\n'
        )
        assert len(token) > 40
    assert tokens[0].stdout != tokens[1].stdout


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_token_in_a_file_is_a_token_file(tmp_path: Path, mode: int) -> None:
    """The output of `gloom token > FILE` suits --token-file. A file that others can read causes a warning."""
    path = tmp_path / "token"
    path.touch()
    path.chmod(mode)
    with path.open("wb") as file:
        ended = run_gloom("token", stdout=file)
    token = path.read_text().strip()
    assert f'token_sha256 = "{hash_token(token)}"\n' in ended.stderr
    assert ("chmod 600" in ended.stderr) == bool(mode & stat.S_IROTH)
    used = run_gloom("submit", "echo", "hello", f"--token-file={path}", "--master=127.0.0.1:1")
    assert "cannot reach the broker" in used.stderr
