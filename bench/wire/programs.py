"""The two programs in C: compiled into build/bench when their sources are newer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "bench"
HEADERS = ("buffer.h", "load.h")
SOURCES = {
    "relay": ("relay.c",),
    "load": ("load.c", "wire_gloom.c", "wire_gearman.c", "wire_beanstalkd.c", "wire_nats.c"),
}


class CannotCompile(Exception):
    """There is no C compiler, or it refuses the sources; the text says which."""


def compiled(name: str) -> Path:
    """Return the program *name*, "relay" or "load", compiled from its present sources."""
    program = BUILD / name
    sources = [HERE / source for source in SOURCES[name]]
    if not _is_older(program, [*sources, *(HERE / header for header in HEADERS)]):
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotCompile("there is no C compiler: apt install gcc libc6-dev")
    BUILD.mkdir(parents=True, exist_ok=True)
    result = subprocess.run([compiler, "-O2", "-o", program, *sources], capture_output=True, text=True)
    if result.returncode:
        raise CannotCompile(f"cc refuses {', '.join(SOURCES[name])}: {result.stderr}")
    return program


def _is_older(program: Path, sources: list[Path]) -> bool:
    return not program.exists() or program.stat().st_mtime < max(source.stat().st_mtime for source in sources)
