"""
Slave processes that are cheap to start: ``python -m verify.reliability.nursery HOST:PORT``.

Each line on standard input is the duration of a job, in seconds. For each line the
nursery forks one slave and prints its process id.
At the end of the input it kills all of them. The nursery ignores the death of a
slave: a slave may be killed at any time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from gloom.client.blocking import Slave
from gloom.errors import GloomError
from verify.reliability.jobs import TYPE

# Long enough that a slave almost always has a job in hand when it dies.
JOB_SECONDS = 0.002
RETRY_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    """Return this process's environment, with ``python -m verify.reliability...`` importable from every directory."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


class AskedProcess:
    """
    Parent-side handle of a ``python -m MODULE`` process that answers lines with lines.

    Use it as a context manager, which kills the process.

    Args:
        module: The module to run.
        arguments: Its arguments.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process:
            self._end()

    def _end(self) -> None:
        self._process.kill()

    def _ask(self, question: str) -> str:
        """
        Return the line that answers *question*.

        Raises:
            OSError: The process has ended; its traceback is on standard error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"{self._module} has ended")
        return line.strip()


class Nursery(AskedProcess):
    """
    Parent-side handle of the process that forks slaves; use it as a context manager.

    Args:
        slave_port: The broker's slave port on this host.

    Attributes:
        pids: The slaves that were started and not killed by `kill`, oldest first.
    """

    def __init__(self, slave_port: int) -> None:
        self.pids: list[int] = []
        super().__init__("verify.reliability.nursery", str(slave_port))

    def start(self, count: int = 1, job_seconds: float = JOB_SECONDS) -> None:
        """Start *count* more slaves; each job takes them so many seconds."""
        for _ in range(count):
            self.pids.append(int(self._ask(str(job_seconds))))

    def kill(self, number: int) -> None:
        """Kill the slave at an index of `pids`."""
        os.kill(self.pids.pop(number), signal.SIGKILL)

    def _end(self) -> None:
        # The process exits at the end of its input, and its slaves with it.
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def serve(slave_port: int, job_seconds: float) -> NoReturn:
    """Run a slave that reconnects forever, until the nursery dies."""

    def increment(body: int) -> int:
        if job_seconds:
            time.sleep(job_seconds)
        return body + 1

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        try:
            with Slave(("127.0.0.1", slave_port)) as slave:
                slave.join(TYPE)
                slave.serve(increment)
        except (OSError, GloomError):
            pass
        time.sleep(RETRY_SECONDS)


def main() -> None:
    # Ignored, so that dead slaves leave no zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    slave_port = int(sys.argv[1])
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            serve(slave_port, float(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
