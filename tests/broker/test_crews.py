"""The crews of the in-memory broker: which slaves have one, and when it is forgotten."""

from __future__ import annotations

import pytest

from gloom.broker.records import Crew, Line
from tests.support.floor import ASlave, MemoryFloor

MANY = tuple(f"type {number}" for number in range(1000))


@pytest.fixture
def floor() -> MemoryFloor:
    return MemoryFloor()


def line_of(floor: MemoryFloor, type: str) -> Line:
    line = floor.broker._lines.get(type)
    assert line is not None
    return line


def crew_of(slave: ASlave) -> Crew:
    (crew,) = (line for line in slave.record.lines if isinstance(line, Crew))
    return crew


def test_a_slave_of_many_types_waits_in_two_places(floor: MemoryFloor) -> None:
    """A slave stands in its crew and in the line of untyped jobs: so a job costs no more with more types."""
    slave = floor.joined(*MANY)
    line, crew = slave.record.lines
    assert line is floor.broker._lines.get(None)
    assert crew is crew_of(slave)


def test_small_sets_have_few_crews_in_a_line(floor: MemoryFloor) -> None:
    """A line with the sets of few types has few crews: beyond that, slaves stand in the line themselves."""
    for number in range(5):
        floor.joined("shared", *(f"{number} {other}" for other in range(17)))
    line = line_of(floor, "shared")
    assert (len(line.crews), len(line.idle)) == (2, 3)


def test_slaves_of_few_types_have_no_crew(floor: MemoryFloor) -> None:
    """A slave of up to eight types, untyped jobs included, has no crew; a type that it names twice counts once."""
    floor.joined(*MANY[:7], *MANY[:7])
    assert not floor.broker._pairing.crews.by_types
    floor.joined(*MANY[:8])
    assert len(floor.broker._pairing.crews.by_types) == 1


def test_joining_many_types_again_finds_the_crew_there(floor: MemoryFloor) -> None:
    """A slave that joins the same types again, in any order, with other slots, keeps its crew."""
    slave = floor.joined(*MANY)
    crew = crew_of(slave)
    slave.join(*reversed(MANY), slots=3)
    assert crew_of(slave) is crew
    floor.master().queue(1, 2, 3, 4, type=MANY[0])
    assert slave.hand == [1, 2, 3]


def test_sets_of_types_are_forgotten_when_unused(floor: MemoryFloor) -> None:
    """A broker that has seen a thousand sets of types keeps none of them, and none of their lines."""
    slave = floor.slave()
    for number in range(1000):
        slave.join(*(f"type {number + other}" for other in range(20)))
    floor.wait(0.0)
    assert len(floor.broker._pairing.crews.by_types) == 1
    assert len(floor.broker._lines) == 21
    slave.lost()
    floor.wait(0.0)
    assert floor.is_empty()


def test_crews_share_the_names_of_types(floor: MemoryFloor) -> None:
    """A type's name is kept once, however many slaves send it."""
    names = [[f"{number:0200}" for number in range(100)] for _ in range(2)]
    crews = [crew_of(floor.joined(*names[0])), crew_of(floor.joined(*names[1], "one more"))]
    assert {id(type) for type in crews[0].types} <= {id(type) for type in crews[1].types}
