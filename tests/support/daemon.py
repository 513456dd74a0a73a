"""The broker as a user starts it: a `twistd gloom` process and its ports."""

from __future__ import annotations

import re
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from threading import Thread, Timer

TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"
STARTING_SECONDS = 20
STOPPING_SECONDS = 10

_LISTENS = re.compile(r"(masters|slaves) on .*?:(\d+)(?: |$)")


class Daemon:
    """
    One broker process at a time.

    Args:
        directory: Its working directory; not the checkout, so that the installed gloom runs.

    Attributes:
        process: The process.
        pid: Its id.
        master_port: The port for masters, read from its log.
        slave_port: The port for slaves, read from its log.
        lines: Its log lines so far; complete once the process has ended.
    """

    process: subprocess.Popen[str]
    master_port: int
    slave_port: int

    def __init__(self, directory: Path) -> None:
        self.lines: list[str] = []
        self._directory = directory
        self._options: tuple[str, ...] = ()
        self._reader: Thread | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self, *options: str) -> Daemon:
        """
        Start `twistd gloom` with *options*, on free ports by default, and wait until it listens.

        A port is one string, ``--master-port=9998``, so that `start_again` finds it.

        Raises:
            AssertionError: It ended, or did not come up; the text is its output.
        """
        self._options = options
        self.lines = []
        command = [str(TWISTD), "--nodaemon", "--pidfile=", "gloom", *_with_ports(options)]
        self.process = subprocess.Popen(
            command, cwd=self._directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._wait_until_up()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def start_again(self) -> Daemon:
        """Start the broker again, on the ports of the last process."""
        given = self._options
        ports = [f"--master-port={self.master_port}", f"--slave-port={self.slave_port}"]
        return self.start(
            *[option for option in given if not option.startswith(("--master-port", "--slave-port"))], *ports
        )

    def stop(self) -> int:
        """Send SIGTERM, as init does, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> int:
        """Send SIGKILL, as in a crash, and return the exit status."""
        self.process.kill()
        return self._ended()

    @property
    def running(self) -> bool:
        return hasattr(self, "process") and self.process.poll() is None

    def _ended(self) -> int:
        status = self.process.wait(STOPPING_SECONDS)
        if self._reader is not None:
            self._reader.join(STOPPING_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def _wait_until_up(self) -> None:
        assert self.process.stdout is not None
        too_late = Timer(STARTING_SECONDS, self.process.kill)
        too_late.start()
        try:
            for line in self.process.stdout:
                self._heard(line)
                if " is up" in line:
                    return
        finally:
            too_late.cancel()
            too_late.join()
        self.process.wait()
        self.process.stdout.close()
        raise AssertionError("the broker did not come up:\n" + "".join(self.lines))

    def _heard(self, line: str) -> None:
        self.lines.append(line)
        listens = _LISTENS.search(line)
        if listens is not None and listens[1] == "masters":
            self.master_port = int(listens[2])
        elif listens is not None:
            self.slave_port = int(listens[2])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def _with_ports(options: Sequence[str]) -> list[str]:
    given = list(options)
    for option in ("--master-port", "--slave-port"):
        if not any(one.startswith(option) for one in options):
            given.append(f"{option}=0")
    return given
