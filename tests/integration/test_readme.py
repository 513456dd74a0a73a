"""The programs and commands of README.md, run as they stand there against a real broker."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.support.commands import SECONDS, heard, running_gloom
from tests.support.daemon import STOPPING_SECONDS, Daemon
from tests.support.programs import programs_of, started

README = (Path(__file__).parents[2] / "README.md").read_text()
FUNCTION, SCRIPT, SLAVE, MASTER = programs_of(README)


def commands_of(page: str) -> list[list[str]]:
    """Return the arguments of the three commands that a newcomer types."""
    (block,) = re.findall(r"^```\n((?:gloom (?:broker|work|submit)\b[^\n]*\n){3})^```$", page, re.MULTILINE)
    return [re.findall(r"'[^']*'|\S+", line)[1:] for line in block.splitlines()]


def test_three_commands_answer_with_the_function_of_the_page(tmp_path: Path) -> None:
    """A newcomer's three commands, broker, worker and submit, work as README has them, except for the ports."""
    (tmp_path / "shapes.py").write_text(FUNCTION[0])
    broker, work, submit = commands_of(README)
    with ExitStack() as running:
        first = running.enter_context(running_gloom(*broker, "--master-port=0", "--slave-port=0"))
        master = heard(first, r"masters on (\S+)")
        slave = heard(first, r"slaves on (\S+)")
        places = {"GLOOM_MASTER": master, "GLOOM_SLAVE": slave}
        worker = running.enter_context(running_gloom(*work, env=places, cwd=tmp_path))
        heard(worker, "joined (area)")
        third = running.enter_context(running_gloom(*(one.strip("'") for one in submit), env=places))
        assert third.communicate(timeout=SECONDS) == ("12\n", "")
        for process in (worker, first):
            process.send_signal(signal.SIGINT)
            assert process.wait(STOPPING_SECONDS) == 0


def test_the_plain_script_prints_the_answer_too(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The script of README, with `gloom work` on its function."""
    (tmp_path / "shapes.py").write_text(FUNCTION[0])
    broker = daemon()
    place = {"GLOOM_SLAVE": f"127.0.0.1:{broker.slave_port}"}
    with running_gloom(*commands_of(README)[1], env=place, cwd=tmp_path) as worker:
        heard(worker, "joined (area)")
        assert_prints(tmp_path, SCRIPT, broker)


def test_the_slave_on_twisted_serves_the_master(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The slave and the master for Twisted work as README has them."""
    broker = daemon()
    with started(tmp_path, 0, SLAVE[0], broker) as slave:
        try:
            assert_prints(tmp_path, MASTER, broker)
            slave.send_signal(signal.SIGINT)
            printed, _ = slave.communicate(timeout=STOPPING_SECONDS)
            assert "Traceback" not in printed
        finally:
            slave.kill()


def assert_prints(directory: Path, program: tuple[str, str], broker: Daemon) -> None:
    with started(directory, 1, program[0], broker) as master:
        try:
            printed, _ = master.communicate(timeout=SECONDS)
        finally:
            master.kill()
        assert (printed, master.returncode) == (program[1], 0)


def test_the_links_of_the_page_lead_somewhere() -> None:
    """Each file that README links to exists, and has the linked heading."""
    root = Path(__file__).parents[2]
    for name, heading in re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", README):
        assert (root / name).exists(), name
        if heading:
            headings = re.findall(r"^#+ (.*)$", (root / name).read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], heading
