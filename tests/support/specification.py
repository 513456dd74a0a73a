"""docs/protocol.md as data: its tables, transcripts and programs, and the replay of a transcript."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import gloom
from gloom.server.protocols import MasterProtocol, SlaveProtocol

PATH = Path(__file__).parents[2] / "docs" / "protocol.md"

#: The record of a connection that the broker has closed.
CLOSED = "closes"

Row = dict[str, str]


@dataclass(frozen=True)
class Act:
    """
    The effect of one line of a transcript.

    Attributes:
        peer: The acting peer, such as ``M1``; empty for the broker and for time.
        kind: A peer ``sends`` a frame, sends ``bytes`` or ``closes``; time ``passes``; the broker ``stops``.
        data: The payload or the bytes.
        seconds: How long it takes.
    """

    peer: str
    kind: str
    data: bytes = b""
    seconds: float = 0.0


@dataclass
class Turn:
    """
    One act, and every message received before the next act.

    Attributes:
        act: The act.
        heard: By peer, the payloads as text, or `CLOSED`.
    """

    act: Act
    heard: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Transcript:
    """
    A conversation to reproduce message for message.

    Attributes:
        section: The number of its section, such as ``3.2``; empty before section 1.
        line: Its line number in the document.
        options: The broker's options.
        turns: The turns, in order.
    """

    section: str
    line: int
    options: list[str]
    turns: list[Turn] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The test id of this transcript."""
        return f"section {self.section or 'brief'}, line {self.line}"

    def has(self, kind: str) -> bool:
        """Return whether the transcript has an act of that kind."""
        return any(turn.act.kind == kind for turn in self.turns)

    @property
    def heard(self) -> list[str]:
        """Every message that any peer receives."""
        return [message for turn in self.turns for messages in turn.heard.values() for message in messages]


class Wire(Protocol):
    """A broker to replay transcripts against; peers connect when they are first named."""

    def act(self, act: Act) -> None:
        """Perform the act."""

    def hear(self, peer: str, expected: int) -> list[str]:
        """Return the messages to *peer* since the last call; wait for *expected* of them where waiting is needed."""

    def address(self, peer: str) -> str:
        """Return the address of *peer* in the broker's notation."""


def replay(transcript: Transcript, wire: Wire) -> None:
    """
    Play *transcript* message for message.

    Raises:
        AssertionError: A peer received other messages than the transcript's.
    """
    peers: dict[str, None] = {}
    for turn in transcript.turns:
        peers.update(dict.fromkeys([turn.act.peer] if turn.act.peer else []))
        wire.act(turn.act)
        for peer in peers:
            features = (MasterProtocol if peer.startswith("M") else SlaveProtocol).features
            texts = [text.replace("{features}", _json(features)) for text in turn.heard.get(peer, [])]
            expected = [_filled_in(text, peers, wire) for text in texts]
            heard = wire.hear(peer, len(expected))
            assert heard == expected, f"{transcript.name}: {peer} after {turn.act}"


def _filled_in(text: str, peers: Sequence[str] | dict[str, None], wire: Wire) -> str:
    text = text.replace("{version}", gloom.__version__)
    for peer in peers:
        if f"{{{peer}}}" in text:
            text = text.replace(f"{{{peer}}}", wire.address(peer))
    return text


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


_SENDS = re.compile(r"([MS]\d*)> (.*)")
_HEARS = re.compile(r"<([MS]\d*) (.*)")
_PASSES = re.compile(r"(\d+) s pass")


def _read_transcript(transcript: Transcript, lines: Sequence[str]) -> Transcript:
    for line in lines:
        if hears := _HEARS.fullmatch(line):
            transcript.turns[-1].heard.setdefault(hears[1], []).append(hears[2])
        else:
            transcript.turns.append(Turn(_read_act(line)))
    return transcript


def _read_act(line: str) -> Act:
    if passes := _PASSES.fullmatch(line):
        return Act("", "passes", seconds=float(passes[1]))
    if line == "the broker is stopped":
        return Act("", "stops")
    sends = _SENDS.fullmatch(line)
    assert sends is not None, f"not a line of a transcript: {line!r}"
    peer, text = sends[1], sends[2]
    if text == "closes":
        return Act(peer, "closes")
    if text.startswith("bytes "):
        return Act(peer, "bytes", bytes.fromhex(text.removeprefix("bytes ")))
    return Act(peer, "sends", text.encode())


class Specification:
    """
    The document.

    Attributes:
        tables: Rows by caption; a row is its cells by column.
        transcripts: In the document's order.
        programs: By language, the text of its one program.
    """

    def __init__(self, text: str) -> None:
        self.tables: dict[str, list[Row]] = {}
        self.transcripts: list[Transcript] = []
        self.programs: dict[str, str] = {}
        self._section = ""
        self._lines = text.splitlines()
        at = 0
        while at < len(self._lines):
            at = self._read(at)

    def _read(self, at: int) -> int:
        """Parse the element that begins at a line, and return the line of the next one."""
        line = self._lines[at]
        if heading := re.match(r"##+ (\d[\d.]*)", line):
            self._section = heading[1].rstrip(".")
        if caption := re.fullmatch(r"\*\*Table: (.*)\*\*", line):
            return self._read_table(caption[1], at + 2)
        if line.startswith("```"):
            return self._read_block(line[3:], at + 1)
        return at + 1

    def _read_table(self, caption: str, at: int) -> int:
        end = at
        while end < len(self._lines) and self._lines[end].startswith("|"):
            end += 1
        head, _, *rows = (_cells(line) for line in self._lines[at:end])
        self.tables[caption] = [dict(zip(head, row, strict=True)) for row in rows]
        return end

    def _read_block(self, info: str, at: int) -> int:
        end = self._lines.index("```", at)
        language, *options = info.split() or [""]
        if language == "transcript":
            transcript = Transcript(self._section, at + 1, options)
            self.transcripts.append(_read_transcript(transcript, self._lines[at:end]))
        elif language:
            self.programs[language] = "\n".join(self._lines[at:end]) + "\n"
        return end + 1


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def names_in(cell: str) -> list[str]:
    """Return the backquoted names of a cell."""
    return re.findall(r"`([^`]*)`", cell)


def specification() -> Specification:
    """Return the document of this checkout."""
    return Specification(PATH.read_text())
