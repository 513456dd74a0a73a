"""The programs of README.md, run as they stand there against a real broker."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.support.daemon import STOPPING_SECONDS, Daemon
from tests.support.programs import programs_of, started

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_slave_serves_both_masters(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """What a newcomer copies from README works: a slave, a master on Twisted, and a plain script."""
    slave_program, *masters = programs_of(README)
    assert len(masters) == 2
    broker = daemon()
    with ExitStack() as processes:
        slave = processes.enter_context(started(tmp_path, 0, slave_program[0], broker))
        processes.callback(slave.kill)
        for number, (program, expected) in enumerate(masters, 1):
            master = processes.enter_context(started(tmp_path, number, program, broker))
            processes.callback(master.kill)
            printed, _ = master.communicate(timeout=30)
            assert (printed, master.returncode) == (expected, 0), program
        slave.send_signal(signal.SIGINT)
        printed, _ = slave.communicate(timeout=STOPPING_SECONDS)
        assert "Traceback" not in printed
