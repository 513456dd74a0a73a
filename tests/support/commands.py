"""The command `gloom` as a user runs it, and slaves that serve its jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tests.support.daemon import Daemon

GLOOM = Path(sysconfig.get_path("scripts")) / "gloom"
SECONDS = 30.0

Ended = subprocess.CompletedProcess[str]


class Farm:
    """
    A broker and slaves (`tests.support.serving`), as processes.

    Attributes:
        broker: The broker.
        address: Where masters connect.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.broker = Daemon(directory).start(*options)
        self.address = f"127.0.0.1:{self.broker.master_port}"
        self._slaves = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("serving.py"), f"127.0.0.1:{self.broker.slave_port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._slaves.stdout is not None
        assert self._slaves.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        self._slaves.terminate()
        self._slaves.wait(SECONDS)
        assert self._slaves.stdout is not None
        self._slaves.stdout.close()
        if self.broker.running:
            self.broker.kill()

    def gloom(self, verb: str, *arguments: str, input: str | bytes = b"", **options: Any) -> Ended:
        """Run `gloom` against this broker, and wait until it ends."""
        return run_gloom(verb, "--master", self.address, *arguments, input=input, **options)

    @contextmanager
    def running(self, verb: str, *arguments: str, **streams: Any) -> Iterator[Command]:
        """Start `gloom` against this broker and go on; its streams are pipes unless given."""
        with running_gloom(verb, "--master", self.address, *arguments, **streams) as process:
            yield process


def run_gloom(*arguments: str, input: str | bytes = b"", **options: Any) -> Ended:
    """Run `gloom`, and wait until it ends."""
    data = input.encode() if isinstance(input, str) else input
    if "stdin" not in options:
        options["input"] = data
    if "stdout" not in options:
        options["stdout"] = subprocess.PIPE
    ended = subprocess.run([GLOOM, *arguments], stderr=subprocess.PIPE, timeout=SECONDS, **options)
    return Ended(ended.args, ended.returncode, (ended.stdout or b"").decode(), ended.stderr.decode())


class Command(subprocess.Popen[str]):
    """A running `gloom` in its own process group. Every process that it starts inherits a mark."""

    def __init__(self, *arguments: str, **streams: Any) -> None:
        self._mark = f"GLOOM_TEST={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        given: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | streams
        environment = os.environ | given.pop("env", {}) | {name: value}
        super().__init__([GLOOM, *arguments], text=True, start_new_session=True, env=environment, **given)

    def left_running(self) -> list[int]:
        """Return the ids of its processes that are still alive, in any group or session."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_marked(path)]

    def _is_marked(self, environment: Path) -> bool:
        try:
            return self._mark.encode() in environment.read_bytes().split(b"\0")
        except OSError:
            return False  # The process has just ended, or belongs to another user.


@contextmanager
def running_gloom(*arguments: str, **streams: Any) -> Iterator[Command]:
    """Start `gloom` and go on; end every process of it with the block."""
    with Command(*arguments, **streams) as process:
        try:
            yield process
        finally:
            for pid in process.left_running():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def pipe_of(stream: IO[str] | None) -> IO[str]:
    """Return a stream that was opened as a pipe."""
    assert stream is not None
    return stream


def heard(process: Command, words: str) -> str:
    """Return the group of the pattern *words* in the first matching line of standard error."""
    for line in pipe_of(process.stderr):
        if (found := re.search(words, line)) is not None:
            return str(found[1])
    raise AssertionError(f"ended without saying {words!r}")
