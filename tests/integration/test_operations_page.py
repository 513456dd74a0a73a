"""docs/operations.md, "From nothing to a farm": the steps of the page, run as they stand there on one host."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import GLOOM, SECONDS, Ended, heard, run_gloom, running_gloom
from tests.support.deployment import CHECKOUT, needs
from tests.support.programs import programs_of

PAGE = (CHECKOUT / "docs" / "operations.md").read_text()
SECTION = PAGE.partition("## From nothing to a farm\n")[2].partition("\n## ")[0]
# All hosts of the page are this one.
HERE = SECTION.replace("broker.example.org", "localhost").replace("10.0.0.5", "127.0.0.1")
CERTIFICATES, TOKENS, ACCESS, BROKER, WORK, SUBMIT = (
    re.sub(r"^   ", "", block, flags=re.MULTILINE)
    for block in re.findall(r"^   ```(?:toml)?\n(.*?)^   ```$", HERE, re.MULTILINE | re.DOTALL)
)

pytestmark = needs("openssl", "openssl")


def shell(directory: Path, commands: str) -> str:
    """Run lines of the page as a user types them, and return their output."""
    path = f"{GLOOM.parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=directory,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def arguments(line: str, **ports: str) -> list[str]:
    """Return the arguments of a command of the page, with a broker's ports in place of the page's."""
    for old, new in ports.items():
        line = line.replace(old.replace("port_", ":"), new)
    return [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)][1:]


def submitted(directory: Path, master: str, *more: str) -> Ended:
    return run_gloom(*arguments(SUBMIT, port_9998=f":{master}"), *more, cwd=directory)


@pytest.fixture
def farm_files(tmp_path: Path) -> Path:
    """The folder of a reader who has done steps 1 to 3."""
    assert CERTIFICATES.count("\n") == 4
    shell(tmp_path, CERTIFICATES)
    hashes = re.findall(r'"([0-9a-f]{64})"', shell(tmp_path, TOKENS))
    access = ACCESS
    for name, hashed in zip(("workers", "shop"), hashes, strict=True):
        access = access.replace(f"<the hash of {name}.token>", hashed)
    (tmp_path / "access.toml").write_text(access)
    (tmp_path / "shapes.py").write_text(programs_of((CHECKOUT / "README.md").read_text())[0][0])
    return tmp_path


def test_the_steps_of_the_page_make_a_farm(farm_files: Path) -> None:
    """The steps give certificates, tokens, a broker, a worker and an answer; a worker's token cannot submit."""
    with ExitStack() as running:
        free = ("--master-port=0", "--slave-port=0")
        broker = running.enter_context(running_gloom(*arguments(BROKER), *free, cwd=farm_files))
        master, slave = (heard(broker, rf"{role} on \S+:(\d+) ") for role in ("masters", "slaves"))
        assert "is up" in heard(broker, "(.*)"), "no warning comes before that"
        worker = running.enter_context(running_gloom(*arguments(WORK, port_9999=f":{slave}"), cwd=farm_files))
        heard(worker, "joined (area)")
        done = submitted(farm_files, master)
        assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")
        refused = submitted(farm_files, master, "--token-file=workers.token")
        assert (refused.returncode, "forbidden" in refused.stderr) == (1, True)
        for process in (worker, broker):
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0


def test_the_certificates_pass_the_strictest_check(farm_files: Path) -> None:
    """Python 3.13 asks for the extensions of RFC 5280 too."""
    assert "broker.pem: OK" in shell(farm_files, "openssl verify -x509_strict -CAfile ca.pem broker.pem")
    assert farm_files.joinpath("shop.token").stat().st_mode & 0o077 == 0
