"""
The environment of the systems other than gloom: created at first use, beside the checkout's own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ROOT = Path(__file__).parents[3]
DIRECTORY = ROOT / ".bench" / "user_level"


class EnvironmentFailed(Exception):
    """Creating it failed; the text gives the reason in one line."""


def interpreter(directory: Path = DIRECTORY) -> Path:
    """
    Return the environment's Python; first create the environment, unless it has the required packages.

    Raises:
        EnvironmentFailed: Creating it failed.
    """
    python, installed = directory / "bin" / "python", directory / "installed.txt"
    required = _REQUIREMENTS.read_text()
    if installed.exists() and installed.read_text() == required:
        return python
    print(f"setting up {directory} for the other systems (once, about a minute)", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    _run(sys.executable, "-m", "venv", str(directory))
    _run(str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "install", "-r", str(_REQUIREMENTS))
    installed.write_text(required)
    return python


def versions() -> dict[str, str]:
    """Return the pinned version of each package in requirements.txt."""
    lines = [line for line in _REQUIREMENTS.read_text().splitlines() if "==" in line]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EnvironmentFailed(str(error)) from None
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        raise EnvironmentFailed(said[-1] if said else f"{command[0]} ended with status {done.returncode}")
