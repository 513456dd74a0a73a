"""The pipe of a child: the parent accepts messages of its own code, and is harmed by no other bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from twisted.internet.task import Clock

from gloom.wire.bodies import encode_body
from gloom.wire.messages import Fail
from gloom.worker.childprocess import Child, ChildError
from gloom.worker.pipe import (
    ANSWER,
    FAILURE,
    NO_JOB,
    OUTCOMES_FD,
    PROGRESS,
    READY,
    UNUSABLE,
    Job,
    encode_failure,
    frame_of,
    job_number,
)

KINDS = st.sampled_from([READY, UNUSABLE, ANSWER, FAILURE, PROGRESS, b"", b"?"])
NUMBERS = st.sampled_from([NO_JOB, *map(job_number, range(4)), b"", b"short"])
CONTENTS = st.sampled_from([b"", b"1", b"{}", b"\xff", b"[" * 300, bytes(encode_failure(Fail("why", "Kind")))])
PAYLOADS = st.builds(lambda kind, number, content: frame_of(kind + number, content), KINDS, NUMBERS, CONTENTS)
SAID = st.lists(PAYLOADS | st.binary(max_size=30) | st.just(frame_of(READY + NO_JOB, b"")), max_size=12)


class PlayedProcess:
    """The parent's actions on a child's process."""

    pid = 0

    def __init__(self) -> None:
        self.was_killed = False
        self.pipes: dict[int, Any] = {}

    def writeToChild(self, number: int, data: bytes) -> None:
        pass

    def signalProcess(self, name: str) -> None:
        self.was_killed = True


class PlayedChild(Child):
    """A child with a simulated process; signals to a process group are not sent."""

    pid = 0

    def __init__(self) -> None:
        super().__init__(Clock())
        self.process = PlayedProcess()
        self.transport = self.process  # type: ignore[assignment]
        self.ready.addErrback(lambda _: None)

    def _kill_group(self) -> None:
        pass


@settings(deadline=None)
@given(said=SAID, jobs=st.integers(0, 3), pieces=st.integers(1, 40))
def test_whatever_comes_ends_at_most_one_process(said: list[bytes], jobs: int, pieces: int) -> None:
    """No bytes raise an exception, and each job ends at most once, by a message with its number."""
    child = PlayedChild()
    ends: list[Raw | ChildError] = []
    data = b"".join(said)
    for _ in range(jobs):
        if not child.busy:
            child.run(Job("one", None, 1000, encode_body(None)), ends.append, lambda _: None)
        count = len(ends)
        for start in range(0, len(data), pieces):
            child.childDataReceived(OUTCOMES_FD, data[start : start + pieces])
        assert len(ends) <= count + 1
        number = child.number
        assert len(ends) == count or any(frame_of(kind + number, b"")[4:] in data for kind in (ANSWER, FAILURE))


@settings(deadline=None)
@given(pieces=st.integers(1, 100))
def test_the_childs_own_words_are_taken(pieces: int) -> None:
    """The child's messages are accepted in any pieces; those of an earlier job are not."""
    child = PlayedChild()
    child.childDataReceived(OUTCOMES_FD, frame_of(READY + NO_JOB, b""))
    heard: list[Any] = []
    for count in range(1, 4):
        child.run(Job("one", None, 1000, encode_body(None)), heard.append, heard.append)
        said = [(ANSWER, count - 1, b"0"), (PROGRESS, count, b"1"), (ANSWER, count, b"2"), (ANSWER, count, b"3")]
        data = b"".join(frame_of(kind + job_number(number), content) for kind, number, content in said)
        for start in range(0, len(data), pieces):
            child.childDataReceived(OUTCOMES_FD, data[start : start + pieces])
    assert [bytes(one) for one in heard] == [b"1", b"2"] * 3
    assert not child.process.was_killed
