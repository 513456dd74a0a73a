"""
Progress reports of a function that runs in a worker's child. Imports no Twisted.

Reports and answers leave through the same pipe (`gloom.worker.pipe`), so a lock
keeps reports from a job's own threads apart from the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock
from typing import Any

from gloom.errors import BodyError
from gloom.wire.bodies import encode_body
from gloom.worker.pipe import NO_JOB, PROGRESS

# On the wire "progress" is one byte longer than "respond", the verb of an answer.
_LONGER_VERB_BYTES = 1


class Outlet:
    """
    The output of a child: one payload at a time, and progress only during a job.

    Args:
        write: Writes one payload, given in two parts.

    Attributes:
        number: The number of the job in hand, which begins each payload about it.
    """

    def __init__(self, write: Callable[[bytes, bytes | memoryview], None]) -> None:
        self.number = NO_JOB
        self._write = write
        self._lock = Lock()
        self._max_bytes: int | None = None
        self._process_id = os.getpid()
        # Whether a payload may be written in part, because a signal handler raised an exception meanwhile.
        self._torn = False

    def begin(self, max_answer_bytes: int) -> None:
        """Start a job, with the largest size of its answer."""
        self._max_bytes = max_answer_bytes - _LONGER_VERB_BYTES

    def end(self, kind: bytes, content: bytes | memoryview) -> None:
        """
        Write the outcome of a job; later progress of its threads is discarded.

        Raises:
            OSError: A progress report is written in part, so the parent could not separate the outcome from it.
        """
        with self._lock:
            self._max_bytes = None
            if self._torn:
                raise BrokenPipeError("a progress was interrupted while it was written")
            self._write(kind + self.number, content)

    def say(self, body: memoryview) -> None:
        """
        Write a progress report of the running job; without one, or in a forked process, do nothing.

        Raises:
            BodyError: It is larger than the broker accepts.
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
    """Have `progress` write to *outlet*."""
    global _outlet
    _outlet = outlet


def progress(value: Any) -> None:
    """
    Report the progress of the running job to its master.

    Outside a job of ``gloom work`` this does nothing, so that a function that
    calls it can be called anywhere.

    Args:
        value: Any value that JSON can express.

    Raises:
        BodyError: It is not JSON, or larger than the broker accepts.
    """
    if _outlet is not None:
        _outlet.say(memoryview(encode_body(value)))
