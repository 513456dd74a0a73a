"""The parts of `gloom demo`: its input, its job, and the processes of its farm."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as untyped
from twisted.internet.defer import CancelledError, Deferred

from gloom.cli.demo.counting import source_files, source_text
from gloom.cli.demo.farm import Child, Farm, FarmBroken
from gloom.cli.demo.job import count
from gloom.errors import GloomError

reactor: Any = untyped

SOURCE = """\
class Dog:
    async def bark(self):  # def
        return "def wolf"

    def sit(self): ...
"""


def test_the_job_counts_lines_words_and_definitions() -> None:
    """A definition is a line that begins one."""
    counts = count(SOURCE)
    assert counts == {"lines": 5, "words": 13, "definitions": 3, "worker": os.getppid()}


def test_source_files_are_found_in_order_and_others_left_out(tmp_path: Path) -> None:
    """Packages installed beside the standard library are left out."""
    for name in ("b.py", "a/z.py", "a/no.txt", "site-packages/c.py", "a/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in source_files(tmp_path, {"site-packages"})]
    assert found == ["a/__init__.py", "a/z.py", "b.py"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("ä\n".encode(), "ä\n"),
        ("# coding: latin-1\nä\n".encode("latin-1"), "# coding: latin-1\nä\n"),
        (b"\xff\n", "\ufffd\n"),
        (b"# coding: no-such-encoding\n\xff\n", "# coding: no-such-encoding\n\ufffd\n"),
    ],
)
def test_a_source_file_is_read_in_the_encoding_that_it_declares(tmp_path: Path, data: bytes, text: str) -> None:
    """Bytes that do not fit the declared encoding are replaced, since a body is UTF-8."""
    (tmp_path / "source.py").write_bytes(data)
    assert source_text(tmp_path / "source.py") == text


def test_a_source_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The message names the unreadable file."""
    with pytest.raises(GloomError, match=r"cannot read .*gone\.py: No such file or directory"):
        source_text(tmp_path / "gone.py")


async def started(program: str) -> tuple[Child, Deferred[Child]]:
    """Return a child that runs *program* and has printed a line, and a Deferred of its unexpected end."""
    up: Deferred[None] = Deferred()
    lost: Deferred[Child] = Deferred()
    child = Child("program", lambda _line: up.callback(None), lost.callback)
    child.start(reactor, ["-c", f"import signal, time; {program}; print('up', flush=True); time.sleep(60)"])
    await up
    return child, lost


def lives(child: Child) -> bool:
    try:
        os.kill(child.pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_process_ends_when_it_is_asked() -> None:
    """A stop sends SIGTERM, and the end is expected; a second stop has no effect."""
    child, lost = await started("pass")
    await child.stop(reactor)
    await child.stop(reactor)
    assert not lives(child)
    assert not lost.called


async def test_a_process_that_does_not_listen_is_ended_all_the_same() -> None:
    """A process that ignores SIGTERM is killed at the second Ctrl-C."""
    child, _ = await started("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    stopping = Deferred.fromCoroutine(child.stop(reactor))
    stopping.cancel()
    with pytest.raises(CancelledError):
        await stopping
    assert not lives(child)


async def test_a_process_that_dies_is_told_of_with_its_last_words() -> None:
    """The report of a dead process has its name and its last output."""
    child, lost = await started("pass")
    os.kill(child.pid, signal.SIGKILL)
    assert await lost is child
    assert child.last_words() == "the program ended by itself\nup"


async def test_work_that_fails_by_itself_is_not_the_farms_fault() -> None:
    """The work's own exception is raised, and its result returned."""

    async def cancelled() -> int:
        raise CancelledError

    async def done() -> int:
        return 5

    farm = Farm(reactor)
    with pytest.raises(CancelledError):
        await farm.during(cancelled())
    assert await farm.during(done()) == 5


async def test_a_broker_that_does_not_come_up_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds the demo reports a broker that does not come up, and ends it."""
    monkeypatch.setattr("gloom.cli.demo.farm._BROKER", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr("gloom.cli.demo.farm._STARTING_SECONDS", 0.05)
    farm = Farm(reactor)
    with pytest.raises(FarmBroken, match=r"the broker did not come up within 0\.05 s"):
        await farm.start_broker()
    await farm.stop()
