"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from pathlib import Path


def machine() -> dict[str, str | int]:
    """Return the processor, its cores, the kernel and the Python of this machine."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return {
        "processor": found[1] if found else platform.machine(),
        "cores": os.cpu_count() or 1,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "build": build(),
    }


def build() -> str:
    """
    Return the optimisations of this Python that `sysconfig` names: ``with PGO and LTO``, ``without PGO or LTO``, ...

    Debian's Python has both, and its `sysconfig` describes another build of the same package.
    """
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    named = [name for name, option in (("PGO", "--enable-optimizations"), ("LTO", "--with-lto")) if option in options]
    return f"with {' and '.join(named)}" if named else "without PGO or LTO by its sysconfig"


def _cpuinfo() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text() if cpuinfo.exists() else ""
