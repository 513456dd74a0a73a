"""A master that goes and leaves many jobs behind: they are forgotten little by little, and nobody notices."""

from __future__ import annotations

from typing import Any

import pytest

from gloom.errors import Busy
from tests.support.floor import AMaster, Floor
from tests.support.recording import OK, assigned

MANY = 2500  # a step forgets 1,000


@pytest.fixture
def floor() -> Floor:
    return Floor(retries=3)


def gone(floor: Floor, count: int = MANY, **terms: Any) -> AMaster:
    """Return a master that has gone, and left jobs 0, 1, 2..., of which only some are forgotten yet."""
    master = floor.master("gone").queue(*range(count), **terms)
    master.lost()
    assert len(floor.broker._jobs) >= count - 1000
    return master


def test_no_step_forgets_more_than_a_thousand_jobs(floor: Floor) -> None:
    """A step is short however much was left; each asks for the next at once, until nothing is left."""
    gone(floor)
    left = [len(floor.broker._jobs)]
    while floor.broker.deadline_passed(floor.now) is not None:
        left.append(len(floor.broker._jobs))
    assert left == [1500, 500]
    assert floor.is_empty()


def test_all_is_forgotten_without_time_passing(floor: Floor) -> None:
    """The alarm rings for the rest at once."""
    gone(floor)
    floor.wait(0.0)
    assert floor.is_empty()


def test_a_slave_gets_none_of_the_jobs_that_are_left(floor: Floor) -> None:
    """Who joins meanwhile is given the first job of a master that is there."""
    floor.master("m").queue("theirs", priority=-1)
    gone(floor)
    slave = floor.joined(name="s")
    floor.wait(0.0)
    assert slave.take() == [assigned("theirs")]
    assert floor.broker._jobs["theirs"].slave is not None
    assert [job.id for job in floor.broker._jobs.values()] == ["theirs"]


def test_an_id_that_is_left_is_free(floor: Floor) -> None:
    """Another master may take it, and is answered."""
    gone(floor)
    master = floor.master("m").queue(0)
    floor.wait(0.0)
    slave = floor.slave("s")
    slave.join()
    assert slave.take() == [OK, assigned(0)]
    slave.respond()
    assert master.take() == [("answered", 0, b"1")]
    assert floor.broker._jobs == {}


def test_what_is_left_counts_for_no_limit() -> None:
    """A broker that is full of what nobody waits for makes room."""
    floor = Floor(max_jobs=MANY, master_share=1.0)
    gone(floor)
    master = floor.master("m").queue(*range(MANY, MANY + 1200))
    assert len(floor.broker._jobs) <= MANY
    with pytest.raises(Busy):
        for n in range(MANY):
            master.submit(10_000 + n)


def test_a_running_job_is_not_tried_again(floor: Floor) -> None:
    """The attempt of a master that has gone is the last, also when it is lost before the job is looked at."""
    slave, other = floor.joined(name="s"), floor.joined("other", name="o")
    master = floor.master("gone").queue(*range(MANY))
    master.lost()
    other.join()
    other.take()
    held = next(iter(slave.record.hand))
    slave.lost()
    assert held not in floor.broker._jobs
    assert other.take() == []


def test_a_deadline_of_what_is_left_gives_nothing_to_a_slave(floor: Floor) -> None:
    """A delay that ends meanwhile starts nothing."""
    slave = floor.joined()
    gone(floor, delay_seconds=5.0)
    floor.now = 5.0
    floor.broker.deadline_passed(floor.now)
    assert slave.take() == []
    assert floor.broker._jobs == {}


def test_a_job_with_another_master_stays(floor: Floor) -> None:
    """Who has attached is answered."""
    first, second = floor.master("first"), floor.master("second")
    first.queue(*range(MANY))
    second.queue(7, attach=True)
    first.lost()
    floor.wait(0.0)
    slave = floor.slave()
    slave.join()
    assert slave.take() == [OK, assigned(7)]
    slave.respond()
    assert second.take() == [("answered", 7, b"1")]
    floor.everybody_goes()


def test_draining_waits_for_none_of_them(floor: Floor) -> None:
    """A shutdown meanwhile has nothing to wait for."""
    gone(floor)
    floor.drain()
    floor.wait(0.0)
    assert floor.drained == 1
    assert floor.is_empty()


def test_two_may_go_at_once(floor: Floor) -> None:
    """The jobs of both are forgotten, those of a third stay in order."""
    a, b, c = (floor.master(name) for name in "abc")
    for n in range(MANY):
        a.submit(f"a{n}")
        b.submit(f"b{n}")
        c.submit(f"c{n}")
    a.lost()
    b.lost()
    floor.wait(0.0)
    assert list(floor.broker._jobs) == [f"c{n}" for n in range(MANY)]
    slave = floor.joined(slots=3)
    assert list(slave.record.hand) == ["c0", "c1", "c2"]
    c.lost()
    floor.wait(0.0)
    floor.everybody_goes()


def test_the_memory_of_many_jobs_comes_back(floor: Floor) -> None:
    """A table that was large is small again when it is empty: by deletion alone it would stay."""
    slave = floor.slave()
    master = floor.master().queue(*range(5000))
    large = floor.broker._jobs.__sizeof__()
    slave.join(slots=1000)
    while slave.record.hand:
        slave.respond(id=next(iter(slave.record.hand)))
    assert floor.broker._jobs.__sizeof__() * 100 < large
    assert master.record.jobs.__sizeof__() * 100 < large
