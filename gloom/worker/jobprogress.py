"""
How a function that runs in a worker's child tells of its progress. Imports no Twisted.

What it says leaves through the pipe that the answers take (`gloom.worker.pipe`),
so a lock keeps what a job's own threads say apart from the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any

from gloom.errors import BodyError
from gloom.wire.bodies import encode_body
from gloom.worker.pipe import NO_JOB, PROGRESS

# An answer's frame says "respond" where this one says "progress": one byte more.
_LONGER_VERB_BYTES = 1


class Outlet:
    """
    What leaves a child, one payload at a time, and whether a job may say something now.

    Args:
        write: Writes one payload, given in two parts.

    Attributes:
        number: The number of the job in hand, which leads each payload about it.
    """

    def __init__(self, write: Callable[[bytes, bytes | memoryview], None]) -> None:
        self.number = NO_JOB
        self._write = write
        self._lock = Lock()
        self._max_bytes: int | None = None
        self._process_id = os.getpid()
        # Whether a payload may have left in part, because a signal's handler raised an exception meanwhile.
        self._torn = False

    def begin(self, max_answer_bytes: int) -> None:
        """A job begins, of which an answer may be so large."""
        self._max_bytes = max_answer_bytes - _LONGER_VERB_BYTES

    def end(self, kind: bytes, content: bytes | memoryview) -> None:
        """
        Write the last word of a job: what its threads say after it, nobody hears.

        Raises:
            OSError: Words of the job have left in part, and the parent cannot tell them from this one.
        """
        with self._lock:
            self._max_bytes = None
            if self._torn:
                raise BrokenPipeError("a progress was interrupted while it was written")
            self._write(kind + self.number, content)

    def say(self, body: memoryview) -> None:
        """
        Write how the job that runs gets on; where none does, or in a forked process, nothing.

        Raises:
            BodyError: It is larger than the broker takes.
        """
        if os.getpid() != self._process_id:
            return  # before the lock: another thread may have held it at the fork
        with self._lock:
            if self._max_bytes is None:
                return
            if len(body) > self._max_bytes:
                raise BodyError(f"the progress has {len(body)} bytes, the broker takes {self._max_bytes}")
            try:
                self._write(PROGRESS + self.number, body)
            except BaseException:
                self._torn = True
                raise


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
