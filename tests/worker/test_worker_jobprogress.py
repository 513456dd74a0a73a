"""Progress of a job from a function in a worker's child: its moments and its size."""

from __future__ import annotations

import pytest

from gloom.errors import BodyError
from gloom.worker import progress
from gloom.worker.jobprogress import Outlet
from gloom.worker.pipe import ANSWER, PROGRESS, job_number


def test_progress_outside_a_worker_does_nothing() -> None:
    """Outside of a worker, progress has no effect, so that a function can be called anywhere."""
    progress({"done": 1})


def test_progress_goes_out_between_the_begin_and_the_end_of_a_job() -> None:
    """Progress is sent only during a job, and only up to the broker's limit."""
    written: list[bytes] = []
    outlet = Outlet(lambda head, content: written.append(head + content))
    outlet.number = number = job_number(1)
    outlet.say(memoryview(b"0"))
    outlet.begin(5)
    outlet.say(memoryview(b"1234"))
    with pytest.raises(BodyError, match="the progress has 5 bytes, the broker takes 4"):
        outlet.say(memoryview(b"12345"))
    outlet.end(ANSWER, b"2")
    outlet.say(memoryview(b"3"))
    assert written == [PROGRESS + number + b"1234", ANSWER + number + b"2"]
