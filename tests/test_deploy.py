"""Checks of deploy/ without running it; tests/integration/test_deploy.py runs it."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.testing import MemoryReactorClock

from gloom.reactor import IReactor
from gloom.settings import MASTER_PORT, SLAVE_PORT
from gloom.tap import Options, read_parts
from tests.support.deployment import CHECKOUT, DEPLOY, INSTALLED, dockerfile, exec_start, needs, setting

UNIT = DEPLOY / "gloom.service"
SOCKETS = {"master": MASTER_PORT, "slave": SLAVE_PORT}


def analyze(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=directory, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of deploy/ with commands that exist here, as systemd-analyze verify requires."""
    directory = tmp_path / "units"
    shutil.copytree(DEPLOY, directory)
    for path in (directory / "gloom.service", directory / "gloom.service.d" / "sockets.conf"):
        path.write_text(path.read_text().replace(INSTALLED, sysconfig.get_path("scripts") + "/"))
    return directory


@needs("systemd-analyze", "systemd")
@pytest.mark.parametrize("activated", [False, True], ids=["listening itself", "with sockets.conf"])
def test_systemd_accepts_the_units(units: Path, activated: bool) -> None:
    """systemd-analyze verify reports nothing, with the drop-in for sockets and without it."""
    if not activated:
        shutil.rmtree(units / "gloom.service.d")
    names = sorted(path.name for path in units.iterdir() if path.suffix in (".service", ".socket"))
    done = analyze("verify", *names, directory=units)
    complaints = [line for line in done.stderr.splitlines() if "gloom" in line]
    assert (done.returncode, complaints) == (0, [])


@needs("systemd-analyze", "systemd")
def test_the_unit_is_confined() -> None:
    """systemd scores the service's exposure at most 2.0 of 10; a bare unit has 9.6."""
    done = analyze("security", "--offline=yes", "--threshold=20", str(UNIT), directory=DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_units_commands_are_accepted_by_gloom() -> None:
    """gloom accepts the options in ExecStart, with and without those of /etc/default/gloom."""
    for extra in ([], ["--interface", "10.0.0.5", "--max-frame-bytes", "67108864"]):
        words = exec_start(UNIT, Path("twistd"), *extra)
        options = Options()
        options.parseOptions(words[words.index("gloom") + 1 :])
        read_parts(options, cast(IReactor, MemoryReactorClock()))


@pytest.mark.parametrize("role", SOCKETS)
def test_a_socket_and_the_drop_in_agree(role: str) -> None:
    """Each socket belongs to gloom.service, has the name that sockets.conf asks for, and is on loopback."""
    unit = DEPLOY / f"gloom-{role}.socket"
    name = setting(unit, "FileDescriptorName")
    words = exec_start(UNIT.with_name("gloom.service.d") / "sockets.conf", Path("twistd"))
    assert words[words.index(f"--{role}-port") + 1] == f"systemd:domain=INET:name={name}"
    assert setting(unit, "Service") == UNIT.name
    assert setting(unit, "ListenStream") == f"127.0.0.1:{SOCKETS[role]}"


def test_the_image_s_command_is_accepted_by_gloom() -> None:
    """ENTRYPOINT and CMD together are twistd gloom on every address of the container."""
    words = dockerfile("ENTRYPOINT") + dockerfile("CMD")
    assert words[:4] == ["twistd", "--nodaemon", "--pidfile=", "gloom"]
    options = Options()
    options.parseOptions(words[4:])
    read_parts(options, cast(IReactor, MemoryReactorClock()))
    assert options["interface"] == "0.0.0.0"


def test_what_the_image_copies_is_there_and_is_sent() -> None:
    """Each COPY of the build names a path of the checkout that .dockerignore admits."""
    sent = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    lines = [line.split() for line in (DEPLOY / "Dockerfile").read_text().splitlines()]
    copied = [name for words in lines if words[:1] == ["COPY"] and "--from=build" not in words for name in words[1:-1]]
    assert "twisted" in copied
    assert sorted(copied) == sorted(sent)
    assert all((CHECKOUT / name).exists() for name in copied)


def test_the_checkout_s_twisted_is_only_a_folder_with_the_plugin() -> None:
    """An __init__.py in it would hide Twisted from python -m, or the plugin from twistd."""
    files = [path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "twisted").rglob("*.py")]
    assert files == ["twisted/plugins/gloom_plugin.py"]
