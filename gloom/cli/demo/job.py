"""The job of ``gloom demo``: counts in the text of a Python source file."""

from __future__ import annotations

import os
import re

_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+\w", re.MULTILINE)


def count(source: str) -> dict[str, int]:
    """
    Count the lines, words and definitions in *source*.

    Returns:
        ``lines``, ``words``, ``definitions`` (lines that begin a function or
        a class), and ``worker``, the process id of the ``gloom work`` that
        ran the job.
    """
    return {
        "lines": len(source.splitlines()),
        "words": len(source.split()),
        "definitions": len(_DEFINITION.findall(source)),
        "worker": os.getppid(),
    }
