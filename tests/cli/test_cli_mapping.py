"""The jobs that `gloom map` has in flight: their number is bounded, in any order of answers."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet import reactor as untyped
from twisted.internet.defer import CancelledError, Deferred

from gloom.cli.mapping import MapOptions, Mapping
from gloom.errors import GloomError, RequestRefused

reactor: Any = untyped

WINDOW = 3
LINES = 9


class Submitting:
    """A master whose jobs wait until the test answers them."""

    def __init__(self) -> None:
        self.connection = SimpleNamespace(max_frame_bytes=1000)
        self.jobs: list[Deferred[Any]] = []
        self.given_up: list[Deferred[Any]] = []
        self._count = 0
        self._reached: Deferred[None] = Deferred()

    def submit_patiently(self, type: str, body: Any, **terms: Any) -> Deferred[Any]:
        self.jobs.append(Deferred(self.given_up.append))
        if len(self.jobs) == self._count:
            self._reached.callback(None)
        return self.jobs[-1]

    async def have(self, count: int) -> None:
        """Wait until *count* jobs are submitted."""
        if len(self.jobs) < count:
            self._count, self._reached = count, Deferred()
            await self._reached


class Mapped:
    """A mapping of *LINES* lines, between two pipes."""

    def __init__(self, *, ordered: bool) -> None:
        self.stdin, stdin = os.pipe()
        self.answers, self.stdout = os.pipe()
        with os.fdopen(stdin, "wb") as file:
            file.write(b"".join(b"%d\n" % n for n in range(LINES)))
        self.master = cast(Any, Submitting())
        options = MapOptions("t", 0, WINDOW, ordered=ordered, raw=False, text=False, quiet=True)
        mapping = Mapping(reactor, self.master, options, self.stdin, self.stdout)
        self.done = Deferred.fromCoroutine(mapping.until_done())

    def answer(self, *numbers: int) -> None:
        for number in numbers:
            self.master.jobs[number].callback(number)

    def printed(self) -> list[int]:
        return [json.loads(line)["answer"] for line in os.read(self.answers, 65536).splitlines()]

    def close(self) -> None:
        for descriptor in (self.stdin, self.answers, self.stdout):
            os.close(descriptor)


@pytest.fixture(params=[True, False], ids=["ordered", "as they come"])
def mapped(request: pytest.FixtureRequest) -> Iterator[Mapped]:
    one = Mapped(ordered=request.param)
    yield one
    one.close()


@pytest.fixture
def ordered() -> Iterator[Mapped]:
    one = Mapped(ordered=True)
    yield one
    one.close()


async def test_no_more_lines_are_in_work_than_the_window_allows(mapped: Mapped) -> None:
    """A line is read once an answer has made room for it."""
    for answered in range(LINES):
        await mapped.master.have(min(answered + WINDOW, LINES))
        assert len(mapped.master.jobs) == min(answered + WINDOW, LINES)
        mapped.answer(answered)
    assert await mapped.done == 0
    assert mapped.printed() == list(range(LINES))


async def test_answers_that_wait_for_their_turn_are_in_work_too(ordered: Mapped) -> None:
    """With --ordered, answers behind a slow first line count against the window."""
    await ordered.master.have(WINDOW)
    ordered.answer(2, 1)
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    await turn
    assert len(ordered.master.jobs) == WINDOW
    ordered.answer(0)
    await ordered.master.have(2 * WINDOW)
    ordered.answer(5, 3, 4)
    await ordered.master.have(LINES)
    ordered.answer(8, 7, 6)
    assert await ordered.done == 0
    assert ordered.printed() == list(range(LINES))


class Terminal(io.StringIO):
    """A terminal that records each text."""

    def __init__(self) -> None:
        super().__init__()
        self._awaited: tuple[str, Deferred[None]] | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._awaited is not None and self._awaited[0] in self.getvalue():
            (_, shown), self._awaited = self._awaited, None
            shown.callback(None)
        return written

    def shows(self, text: str) -> Deferred[None]:
        shown: Deferred[None] = Deferred()
        self._awaited = text, shown
        return shown


@pytest.mark.parametrize("first", ["", "the first line, which another program has read\n"])
async def test_the_bar_of_a_file_tells_of_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: str
) -> None:
    """The bar shows answers, not lines that were read: 8 answers of 40 are 20 %."""
    (tmp_path / "lines").write_text(first + "".join(f"{n}\n" for n in range(10, 50)))
    reading, writing = os.pipe()
    with monkeypatch.context() as patch, (tmp_path / "lines").open("rb", buffering=0) as stdin:
        terminal = Terminal()
        patch.setattr("sys.stderr", terminal)
        patch.setenv("TERM", "xterm")
        stdin.read(len(first))
        master = cast(Any, Submitting())
        options = MapOptions("t", 0, 100, ordered=False, raw=False, text=False, quiet=False)
        done = Deferred.fromCoroutine(Mapping(reactor, master, options, stdin.fileno(), writing).until_done())
        await master.have(40)
        shown = terminal.shows("20%")
        for job in master.jobs[:8]:
            job.callback(None)
        await shown
        assert "100%" not in terminal.getvalue()
        for job in master.jobs[8:]:
            job.callback(None)
        assert await done == 0
    os.close(reading)
    os.close(writing)


async def test_what_is_in_work_is_given_up_when_the_mapping_is(mapped: Mapped) -> None:
    """Ctrl-C cancels the jobs in flight."""
    await mapped.master.have(WINDOW)
    mapped.done.cancel()
    with pytest.raises(CancelledError):
        await mapped.done
    assert mapped.master.given_up == mapped.master.jobs


async def test_a_refusal_that_is_not_about_one_line_ends_the_mapping(mapped: Mapped) -> None:
    """A refusal that holds for every line ends the mapping."""
    await mapped.master.have(WINDOW)
    mapped.master.jobs[0].errback(RequestRefused("forbidden", "not this type"))
    with pytest.raises(GloomError, match="the broker refuses the jobs: forbidden -> not this type"):
        await mapped.done
