"""The files of deploy/, parsed so that tests can run their commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
INSTALLED = "/opt/gloom/bin/"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Skip the test where *program* is not installed, and name its Debian package."""
    reason = f"{program} is not installed: apt install {package}"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def setting(path: Path, name: str) -> str:
    """Return the last value of ``name=`` in a unit file."""
    text = path.read_text().replace("\\\n", " ")
    values: list[str] = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return values[-1]


def exec_start(path: Path, twistd: Path, *options: str) -> list[str]:
    """Return the unit's command with another twistd, and with *options* for ``$GLOOM_OPTIONS``."""
    words = shlex.split(setting(path, "ExecStart"))
    assert words[0] == f"{INSTALLED}twistd"
    assert words[-1] == "$GLOOM_OPTIONS"
    return [str(twistd), *words[1:-1], *options]


def dockerfile(instruction: str) -> Any:
    """Return the JSON array at the end of the image's *instruction*."""
    (line,) = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith(instruction)]
    return json.loads(line[line.index("[") :])
