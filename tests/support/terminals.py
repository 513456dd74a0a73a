"""Reading a program's terminal from the other end."""

from __future__ import annotations

import os
import select


def read_until(descriptor: int, text: bytes, seconds: float) -> bytes:
    """Read until *text* appears."""
    said = b""
    while text not in said:
        assert select.select([descriptor], [], [], seconds)[0], said
        said += os.read(descriptor, 4096)
    return said


def read_to_end(descriptor: int) -> bytes:
    """Read until the program has closed its end, then close this one."""
    said = b""
    try:
        while data := os.read(descriptor, 4096):
            said += data
    except OSError:
        pass  # EIO: that is how a terminal ends
    os.close(descriptor)
    return said
