"""The limits on jobs, bytes, memory and joined types."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gloom.errors import Busy, NoSlaves
from gloom.settings import MIB
from tests.support.floor import AMaster, Floor, refused
from tests.support.recording import OK, assigned

TYPES = tuple(f"type {number}" for number in range(1000))


# Jobs and bytes


def full_master(floor: Floor, name: str, ids: range, match: str) -> AMaster:
    """Return a master that has submitted *ids*, and may submit no more."""
    master = floor.master(name).queue(*ids)
    refused(floor, Busy, match, master.submit, "one more")
    assert master.take() == []
    return master


def test_jobs_in_flight_are_limited(new_floor: Callable[..., Floor]) -> None:
    """Beyond max_jobs a job is refused; jobs in hand and delayed ones count; after an outcome there is room."""
    floor = new_floor(max_jobs=4, master_share=0.5)
    slave = floor.joined()
    full_master(floor, "a", range(2), r"this master has 2 jobs in flight, its limit \(--master-share\)")
    second = floor.master("b").queue(2).queue(3, delay_seconds=9.0)
    refused(floor, Busy, r"the broker has 4 jobs in flight, its limit \(--max-jobs\)", floor.master().submit, 4)
    slave.respond()
    refused(floor, Busy, "this master has 2 jobs", second.submit, 4)
    floor.master("c").queue(4)
    second.cancel(3)
    second.submit(5)


def test_bytes_in_flight_are_limited(new_floor: Callable[..., Floor]) -> None:
    """Beyond max_queued_bytes, or a master's share of them, a job is refused; a job that ends makes room."""
    floor = new_floor(max_queued_bytes=MIB, master_share=0.75)
    big = b"x" * (MIB // 2)
    one, two = floor.master("a"), floor.master("b")
    one.submit_payload("a", big)
    match = rf"with {MIB // 2} bytes more this master would go over its {MIB * 3 // 4} bytes .* \(--master-share\)"
    refused(floor, Busy, match, one.submit_payload, "b", big)
    two.submit_payload("b", big)
    match = rf"with {MIB // 2} bytes more the broker would go over its {MIB} bytes of jobs in flight"
    refused(floor, Busy, match, floor.master("c").submit_payload, "c", big)
    slave = floor.joined()
    slave.respond(id="a")
    one.submit_payload("c", big)
    two.lost()  # its job is in hand, and takes room until the slave lets go of it
    refused(floor, Busy, match, floor.master("d").submit_payload, "d", big)
    slave.respond(id="b")
    floor.master("d").submit_payload("d", big)


def test_shared_bytes_count_for_each_master(new_floor: Callable[..., Floor]) -> None:
    """A job of half a share, submitted or attached to, leaves room for one more of its size, to the byte."""
    floor = new_floor(max_queued_bytes=MIB, master_share=0.5)
    quarter = b"x" * (MIB // 4)
    one, two = floor.master("a"), floor.master("b")
    one.submit_payload("a", quarter)
    two.submit_payload("a", b"", attach=True)
    for master, id in ((one, "b"), (two, "c")):
        refused(floor, Busy, "master would go over its 524288 bytes", master.submit_payload, id, quarter + b"x")
        master.submit_payload(id, quarter)
        # The broker may hold exactly its limit: these are over the share.
        refused(floor, Busy, "master would go over its 524288 bytes", master.submit_payload, "d", quarter)
    floor.joined().respond(id="a")
    one.submit_payload("d", quarter)
    two.submit_payload("e", quarter)
    refused(floor, Busy, "broker would go over its 1048576 bytes", floor.master("c").submit_payload, "f", b"x")


def test_attaching_is_not_limited(new_floor: Callable[..., Floor]) -> None:
    """A master that comes back finds its jobs, however full the broker is; they count as its own."""
    floor = new_floor(max_jobs=4, master_share=0.5)
    floor.master("a").queue(1, 2)
    master = floor.master("b").queue(3)
    master.submit(1, attach=True)
    refused(floor, Busy, "this master has 2 jobs", master.submit, 4)
    master.submit(2, attach=True)
    assert master.take() == [OK] * 2


def test_a_refused_job_takes_no_room(floor: Floor) -> None:
    """A job that is refused for another reason counts for no limit."""
    master = floor.master()
    for _ in range(3):
        refused(floor, NoSlaves, "no slave", master.submit, "j", require_slave=True)
    assert floor.broker.unanswered == 0


def test_unanswered_and_used_bytes_follow_the_jobs(floor: Floor) -> None:
    """A job in flight counts once, with its payload, whether it waits, is delayed or in hand; an ended one does not."""
    assert (floor.broker.unanswered, floor.broker.used_bytes) == (0, 0)
    master = floor.master()
    master.submit_payload("a", b"x" * 10_000, delay_seconds=5.0)
    master.submit_payload("b", b"x" * 10_000)
    floor.master("other").submit("b", attach=True)
    assert floor.broker.unanswered == 2
    assert 20_000 <= floor.broker.used_bytes < 40_000
    master.cancel("a")
    slave = floor.joined()
    assert floor.broker.unanswered == 1
    slave.respond(id="b")
    slave.leave()
    assert (floor.broker.unanswered, floor.broker.used_bytes) == (0, 0)


# Memory of the process


def test_without_memory_jobs_are_refused_and_attaching_goes_on(floor: Floor) -> None:
    """A broker without memory for jobs refuses them as busy until some is granted; known ids attach."""
    master = floor.master().queue("j")
    floor.broker.refuse_for_memory()
    refused(floor, Busy, r"\(--max-memory-bytes\)", master.submit, "k")
    floor.master("other").submit("j", attach=True)
    floor.broker.allow_memory(MIB)
    master.submit("k")


@pytest.mark.parametrize("free_bytes", [MIB, 0])
def test_memory_is_measured_when_the_grant_is_used_up(floor: Floor, free_bytes: int) -> None:
    """A job that needs more than was granted has the memory measured: the result decides about this very job."""
    asked: list[int] = []

    def measure() -> None:
        asked.append(floor.broker.unanswered)
        if free_bytes:
            floor.broker.allow_memory(free_bytes)
        else:
            floor.broker.refuse_for_memory()

    floor.broker.measure_memory_with(measure)
    floor.broker.allow_memory(100_000)
    master = floor.master()
    master.submit_payload("fits", b"x" * 10_000)
    assert asked == []
    if free_bytes:
        master.submit_payload("more", b"x" * 100_000)
    else:
        with pytest.raises(Busy, match="--max-memory-bytes"):
            master.submit_payload("more", b"x" * 100_000)
    assert asked == [1]


# Joined types


def test_joined_types_are_limited(new_floor: Callable[..., Floor]) -> None:
    """A join beyond the limit is refused, and the slave keeps its types."""
    floor = new_floor(max_joined_types=20)
    slave = floor.joined("echo")
    other = floor.joined(*TYPES[:16], name="other")
    refused(floor, Busy, r"20 joined types \(--max-joined-types\)", floor.slave("third").join, "echo")
    refused(floor, Busy, "20 joined types", slave.join, *TYPES[:5])
    floor.master().queue("j")
    assert slave.take() == [assigned("j")]
    other.lost()
    floor.slave("fourth").join(*TYPES[:5])


def test_slaves_of_the_same_many_types_count_once(new_floor: Callable[..., Floor]) -> None:
    """A hundred slaves may join the same thousand types where two different thousands are too many."""
    floor = new_floor(max_joined_types=1300)
    for number in range(100):
        floor.joined(*TYPES, name=str(number))
    with pytest.raises(Busy):
        floor.joined(*(f"other {number}" for number in range(1000)))


def test_a_slave_may_join_other_types_again_and_again(new_floor: Callable[..., Floor]) -> None:
    """The former types of a slave make room, however often it joins without time passing."""
    floor = new_floor(max_joined_types=2500)
    slave = floor.slave()
    for number in range(20):
        slave.join(*(f"{number} {other}" for other in range(1000)))
