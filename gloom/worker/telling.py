"""
How a function that runs in a worker's child tells of its progress. Imports no Twisted.

What it says leaves through the pipe that the answers take (`gloom.worker.pipe`),
so a lock keeps what a job's own threads say apart from the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from gloom.errors import BodyError
from gloom.messages import encode_body
from gloom.worker.pipe import PROGRESS

# An answer's frame says "respond" where this one says "progress": one byte more.
_LONGER_VERB_BYTES = 1


class Outlet:
    """
    What leaves a child, one payload at a time, and whether a job may say something now.

    Args:
        write: Writes one payload.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._lock = Lock()
        self._max_bytes: int | None = None

    def begin(self, max_answer_bytes: int) -> None:
        """A job begins, of which an answer may be so large."""
        self._max_bytes = max_answer_bytes - _LONGER_VERB_BYTES

    def end(self, payload: bytes) -> None:
        """Write the last word of a job: what its threads say after it, nobody hears."""
        with self._lock:
            self._max_bytes = None
            self._write(payload)

    def say(self, body: memoryview) -> None:
        """
        Write how the job that runs gets on; where none does, nothing.

        Raises:
            BodyError: It is larger than the broker takes.
        """
        with self._lock:
            if self._max_bytes is None:
                return
            if len(body) > self._max_bytes:
                raise BodyError(f"the progress has {len(body)} bytes, the broker takes {self._max_bytes}")
            self._write(PROGRESS + body)


_outlet: Outlet | None = None


def use(outlet: Outlet) -> None:
    """Have `progress` speak through *outlet*."""
    global _outlet
    _outlet = outlet


def progress(value: Any) -> None:
    """
    Tell the master of the job that runs how it gets on.

    Outside a job of ``gloom work`` it does nothing, so that a function that
    calls it can be called anywhere.

    Args:
        value: Any value that JSON has.

    Raises:
        BodyError: It is not JSON, or larger than the broker takes.
    """
    if _outlet is not None:
        _outlet.say(memoryview(encode_body(value)))
