"""
A client written in 2009, which compares whole messages, works unchanged.

The two classes below are such a client. It raises at any key, any message and
any order that the wire of 2009 did not have. Around it the wire is as new as it
gets: extended slaves, extended masters, heartbeats, failures with tracebacks.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer
from tests.support.wire import HELLO, LEAVE, OK, PING, extended, fail, join, respond, slave_of, stop, submit


class Unexpected(Exception):
    """The broker sent a message that the wire of 2009 lacks."""


class Client2009:
    """Frames by hand, and nothing but whole messages."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer

    def write(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode()
        self._peer.send_bytes(struct.pack(">I", len(payload)) + payload)

    def read(self) -> Any:
        if not self._peer.frames:
            raise Unexpected("silence")
        return json.loads(self._peer.frames.pop(0))

    def expect_ok(self) -> None:
        message = self.read()
        if message == {"ok": True}:
            return
        if set(message) == {"error", "reason"}:
            raise LookupError(message["error"], message["reason"])
        raise Unexpected(message)

    def expect_silence(self) -> None:
        if self._peer.frames or self._peer.lost:
            raise Unexpected(self._peer.frames)

    def close(self) -> None:
        self._peer.drop()


class Master2009(Client2009):
    """Submits, and receives."""

    def submit(self, id: str, type: str, body: Any, priority: int = 0) -> None:
        self.write({"action": "submit", "id": id, "type": type, "priority": priority, "body": body})
        self.expect_ok()

    def receive(self, id: str) -> Any:
        """Return the body of the next outcome, which must be that of *id*."""
        message = self.read()
        if isinstance(message, dict) and message == {"id": id, "body": message.get("body", self)}:
            return message["body"]
        raise Unexpected(message)

    def receive_failure(self, id: str) -> str:
        """Return the reason; the id in it is the one difference since 2009."""
        message = self.read()
        if message == {"id": id, "error": "job_failed", "reason": message.get("reason", self)}:
            return str(message["reason"])
        raise Unexpected(message)


class Slave2009(Client2009):
    """Joins, takes, and responds."""

    def join(self, type: str) -> None:
        self.write({"action": "join", "type": type})
        self.expect_ok()

    def take(self, id: str, type: str, body: Any) -> None:
        message = self.read()
        if message != {"action": "job", "id": id, "type": type, "body": body}:
            raise Unexpected(message)

    def respond(self, body: Any) -> None:
        self.write({"action": "respond", "body": body})
        self.expect_ok()


@pytest.fixture
def gloom() -> MemoryGloom:
    return MemoryGloom(Settings(retries=1))


@pytest.fixture
def master(gloom: MemoryGloom) -> Master2009:
    return Master2009(gloom.master())


@pytest.fixture
def slave(gloom: MemoryGloom) -> Slave2009:
    return Slave2009(gloom.slave())


def test_a_master_and_a_slave_of_2009(master: Master2009, slave: Slave2009) -> None:
    """Jobs of several types and priorities go there and back, in the order of 2009."""
    master.submit("low", "sum", [1, 2], priority=-1)
    master.submit("high", "sum", [3, 4], priority=1)
    slave.join("sum")
    slave.take("high", "sum", [3, 4])
    slave.respond(7)
    slave.take("low", "sum", [1, 2])
    slave.respond({"sum": 3.0})
    assert master.receive("high") == 7
    assert master.receive("low") == {"sum": 3.0}
    master.expect_silence()
    slave.expect_silence()


def test_a_slave_of_2009_serves_an_extended_master(gloom: MemoryGloom, slave: Slave2009) -> None:
    """Whatever a new master submits, attaches and pings, its old slave sees jobs of four keys."""
    first, second = (extended(gloom.master(), name="new", heartbeat=60) for _ in range(2))
    first.ask(submit("a", "sum", [1], attach=True, timeout=3, retries=5))
    second.ask(submit("a", "sum", [1], attach=True))
    slave.join("sum")
    slave.take("a", "sum", [1])
    second.ask(PING)
    slave.respond(1)
    slave.expect_silence()
    assert first.take() == second.take() == [{"id": "a", "body": 1}]


def test_a_master_of_2009_is_served_by_an_extended_slave(gloom: MemoryGloom, master: Master2009) -> None:
    """A slave's name, leave and named answers do not show in the answer."""
    slave = slave_of(gloom, "sum", name="new", heartbeat=60)
    master.submit("a", "sum", [1])
    slave.ask(LEAVE)
    slave.ask(respond(1, id="a", receipt={"ran": 1}))
    assert master.receive("a") == 1
    master.expect_silence()


def test_a_failure_is_told_in_three_keys(gloom: MemoryGloom, master: Master2009) -> None:
    """Kind, traceback and attempts of a failure go only to masters that asked for them."""
    slave, witness = slave_of(gloom, "sum", name="new"), extended(gloom.master())
    master.submit("a", "sum", [1])
    witness.ask(submit("a", "sum", attach=True))
    slave.send(fail("no number", kind="ValueError", traceback="line 1"))
    assert master.receive_failure("a") == "no number"
    master.expect_silence()
    assert set(witness.take()[-1]) == {"id", "error", "reason", "kind", "traceback", "attempts"}


def test_a_job_of_lost_slaves_fails_in_three_keys(gloom: MemoryGloom, master: Master2009) -> None:
    """A job whose attempts are spent fails with three keys, like any other."""
    master.submit("a", "sum", [1])
    for _ in range(2):
        slave = Slave2009(gloom.slave())
        slave.join("sum")
        slave.take("a", "sum", [1])
        slave.close()
    assert "disappeared" in master.receive_failure("a")
    master.expect_silence()


def test_refusals_have_two_keys(gloom: MemoryGloom, master: Master2009, slave: Slave2009) -> None:
    """A refusal has error and reason, as in 2009; for a duplicate id the reason names it."""
    master.submit("a", "sum", [1])
    with pytest.raises(LookupError, match=r"\('id_exists', 'a'\)"):
        master.submit("a", "sum", [1])
    with pytest.raises(LookupError, match="invalid_state"):
        slave.respond(1)
    with pytest.raises(LookupError, match="invalid_type"):
        slave.join("")
    with pytest.raises(LookupError, match="invalid_type"):
        master.submit("b", "sum", [1], priority="high")  # type: ignore[arg-type]


def test_nothing_comes_unasked(gloom: MemoryGloom, master: Master2009, slave: Slave2009) -> None:
    """A quiet client of 2009 is neither pinged nor dropped, whatever goes on around it, for as long as it likes."""
    slave.join("sum")
    for _ in range(5):
        gloom.advance(1_000_000)
        other, worker = extended(gloom.master()), slave_of(gloom, "other", name="new")
        other.ask(submit(1, "other"))
        worker.ask(fail())
        other.drop()
        worker.drop()
    master.expect_silence()
    slave.expect_silence()
    master.submit("a", "sum", [1])
    slave.take("a", "sum", [1])


def test_the_slave_of_a_gone_master_goes_on(gloom: MemoryGloom, master: Master2009, slave: Slave2009) -> None:
    """A slave of 2009 whose master has disconnected responds as usual, and takes the next job."""
    slave.join("sum")
    master.submit("a", "sum", [1])
    slave.take("a", "sum", [1])
    master.close()
    slave.respond(1)
    again = Master2009(gloom.master())
    again.submit("a", "sum", [2])
    slave.take("a", "sum", [2])
    slave.respond(2)
    assert again.receive("a") == 2


def test_a_hello_on_one_connection_is_no_hello_on_another(gloom: MemoryGloom, master: Master2009) -> None:
    """Extended neighbours do not raise a connection of 2009."""
    gloom.master().ask(HELLO)
    gloom.slave().ask(HELLO)
    with pytest.raises(LookupError, match="invalid_state"):
        master.write(PING)
        master.expect_ok()
    assert gloom.slave().ask(join()) == [OK]


def test_a_slave_of_2009_hears_nothing_of_what_was_ended(gloom: MemoryGloom, slave: Slave2009) -> None:
    """Timeouts, cancels and a shutdown do not show: each job comes, is answered, and the next one comes."""
    master = extended(gloom.master(), accept=["progress", "receipt", "quiet"])
    slave.join("sum")
    master.ask(submit("a", "sum", [1], timeout=5, retries=0))
    slave.take("a", "sum", [1])
    gloom.advance(5)
    master.ask(submit("b", "sum", [2]))
    slave.expect_silence()
    slave.respond("late")
    slave.take("b", "sum", [2])
    master.ask({"action": "cancel", "id": "b"})
    master.ask(submit("c", "sum", [3]))
    slave.expect_silence()
    slave.respond("cancelled")
    slave.take("c", "sum", [3])
    stop(gloom)
    slave.expect_silence()
    slave.respond("in time")
    assert [message.get("error") for message in master.take() if "id" in message] == [None]


def test_a_master_of_2009_hears_only_outcomes(gloom: MemoryGloom, master: Master2009) -> None:
    """Progress and receipts of its jobs are for others; a shutdown ends them in three keys."""
    slave = slave_of(gloom, "sum", slots=2, accept=["cancel", "quiet"])
    for id in ("a", "b", "c"):
        master.submit(id, "sum", [1])
    slave.send({"action": "progress", "id": "a", "body": 0.5})
    slave.send(respond(1, id="a"))
    assert master.receive("a") == 1
    master.submit("d", "sum", [4])
    stop(gloom)
    assert master.read() == {"id": "d", "error": "draining", "reason": "the broker is shutting down"}
    with pytest.raises(LookupError, match="draining"):
        master.submit("e", "sum", [5])
    slave.send(respond(2, id="b"))
    assert master.receive("b") == 2
    master.expect_silence()
