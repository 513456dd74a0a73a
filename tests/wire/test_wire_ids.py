"""Ids that are integers: any of them, and none that anybody can have collide."""

from __future__ import annotations

import pytest

from gloom.testing import MemoryGloom
from gloom.wire.messages import key_of
from tests.support.wire import OK, cancel, extended, fail, join, slave_of, submit

# The modulus of Python's integer hash.
MODULUS = 2**61 - 1
LARGE = 10**4299 + 7


@pytest.fixture
def gloom() -> MemoryGloom:
    return MemoryGloom()


@pytest.mark.parametrize("id", [0, -1, 2**53 + 1, 2**64, 2**128 - 1, -(10**4298), LARGE], ids=list("abcdefg"))
def test_an_integer_comes_back_digit_for_digit(gloom: MemoryGloom, id: int) -> None:
    """Whatever its length and sign: to the slave, from it, in the outcome, in a failure and in a progress."""
    master = extended(gloom.master(), accept=["progress"])
    slave = extended(gloom.slave(), accept=["cancel"])
    slave.ask(join("up"))
    digits = str(id).encode()
    assert master.ask(submit(id, type="up")) == [OK]
    assert b'"id":' + digits + b"," in slave.frames[0]
    assert slave.take()[0]["id"] == id
    slave.send({"action": "progress", "id": id, "body": 1})
    assert master.take() == [{"id": id, "progress": 1}]
    assert slave.ask({"action": "respond", "id": id, "body": 2}) == [OK]
    assert master.frames == [b'{"id":' + digits + b',"body":2}']
    master.take()
    assert master.ask(submit(id, type="up")) == [OK]
    slave.take()
    assert slave.ask(fail(id=id)) == [OK]
    assert [(answer["id"], answer["error"]) for answer in master.take()] == [(id, "job_failed")]
    master.ask(submit(id, type="up"))
    slave.take()
    assert master.ask(cancel(id))[1]["id"] == id
    assert slave.take() == [{"action": "cancel", "id": id}]


def test_an_integer_is_not_the_string_of_its_digits(gloom: MemoryGloom) -> None:
    """`1` and `"1"` are two ids, for all verbs."""
    master = extended(gloom.master())
    for id in (1, "1", -1, "-1"):
        assert master.ask(submit(id)) == [OK]
    assert master.ask(submit(1)) == [{"error": "id_exists", "reason": "1"}]
    assert [one["id"] for one in master.ask(cancel("1")) if "id" in one] == ["1"]
    assert [one["id"] for one in master.ask(cancel(1)) if "id" in one] == [1]
    (refusal,) = master.ask(cancel(1))
    assert refusal["reason"] == "1 is no job of this master in flight"


def test_zero_has_one_form(gloom: MemoryGloom) -> None:
    """`-0` is `0`."""
    master = gloom.master()
    assert master.ask(submit(0)) == [OK]
    assert master.ask(b'{"action":"submit","id":-0,"body":1}') == [{"error": "id_exists", "reason": "0"}]


def test_no_integers_collide() -> None:
    """Integers with equal Python hashes become keys with unpredictable hashes."""
    ids = [number * MODULUS for number in range(1, 1000)]
    assert {hash(id) for id in ids} == {0}
    assert len({hash(key_of(id)) for id in ids}) == len(ids)


def test_the_broker_keeps_no_integer_as_a_key(gloom: MemoryGloom) -> None:
    """Neither the table of jobs nor the hand of a slave is one in which integers could be made to collide."""
    master, slave = gloom.master(), slave_of(gloom, "up")
    master.send(submit(MODULUS, type="up"))
    slave.take()
    master.send(submit(2 * MODULUS, type="up"))
    tables = [gloom.broker._jobs, *(job.slave.hand for job in gloom.broker._jobs.values() if job.slave)]  # type: ignore[attr-defined]
    assert len(tables) == 2
    assert not any(isinstance(key, int) for table in tables for key in table)
