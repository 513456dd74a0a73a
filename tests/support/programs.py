"""The programs of a documentation page, unchanged except for the broker's ports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import TWISTD, Daemon

_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def programs_of(page: str) -> list[tuple[str, str]]:
    """Return each program of *page* with its documented output."""
    return _BLOCK.findall(page)


def started(directory: Path, number: int, program: str, broker: Daemon) -> subprocess.Popen[str]:
    """Start *program* as a process with standard output and error in one pipe."""
    here = re.sub(r"\b9998\b", str(broker.master_port), program)
    here = re.sub(r"\b9999\b", str(broker.slave_port), here)
    file = directory / f"program{number}.py"
    file.write_text(here)
    twistd = [str(TWISTD), "--nodaemon", "--pidfile=", "-y"]
    command = twistd if "Application(" in program else [sys.executable, "-W", "error"]
    return subprocess.Popen(
        [*command, str(file)], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
