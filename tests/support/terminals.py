"""What a program prints on a terminal, read from the terminal's other end."""

from __future__ import annotations

import os
import select


def read_until(descriptor: int, text: bytes, seconds: float) -> bytes:
    """Read until *text* is there."""
    said = b""
    while text not in said:
        assert select.select([descriptor], [], [], seconds)[0], said
        said += os.read(descriptor, 4096)
    return said


def read_to_end(descriptor: int) -> bytes:
    """Read until the program's end is closed, and close this one."""
    said = b""
    try:
        while data := os.read(descriptor, 4096):
            said += data
    except OSError:
        pass  # EIO: that is how a terminal ends
    os.close(descriptor)
    return said
