"""The broker's limits: jobs, bytes, connections, half frames, and peers that do not read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import formatEvent

from gloom.settings import MIB, Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.framereader import to_frame
from tests.support.logged import logged
from tests.support.wire import (
    OK,
    PING,
    answer,
    busy_slave_of,
    cancel,
    extended,
    fail,
    job,
    respond,
    served,
    slave_of,
    submit,
)

JOBS_REASON = "the broker has 4 jobs in flight, its limit (--max-jobs)"
SHARE_REASON = "this master has 2 jobs in flight, its limit (--master-share)"


def busy(reason: str) -> list[dict[str, Any]]:
    return [{"error": "busy", "reason": reason}]


# Jobs


@pytest.fixture
def full() -> tuple[MemoryGloom, list[RawPeer]]:
    """A broker for 4 jobs, 2 a master, with two masters that have theirs; the first accepts cancel."""
    gloom = MemoryGloom(Settings(max_jobs=4))
    masters = [extended(gloom.master()), gloom.master()]
    for n in range(4):
        assert masters[n // 2].ask(submit(n)) == [OK]
    return gloom, masters


def test_a_job_too_many_is_refused(full: tuple[MemoryGloom, list[RawPeer]]) -> None:
    """Beyond --max-jobs every master is told busy, and all that was there is served as ever."""
    gloom, masters = full
    other = gloom.master()
    assert other.ask(submit("more")) == busy(JOBS_REASON)
    assert served(slave_of(gloom)) == [0, 1, 2, 3]
    assert [master.take() for master in masters] == [[answer(0), answer(1)], [answer(2), answer(3)]]
    assert other.take() == []
    assert other.ask(submit("more")) == [OK]


def test_a_master_has_its_share() -> None:
    """One master may hold its part of the broker and no more; another has room beside it."""
    gloom = MemoryGloom(Settings(max_jobs=4))
    greedy, modest = gloom.master(), gloom.master()
    for n in range(2):
        greedy.ask(submit(n))
    assert greedy.ask(submit("more")) == busy(SHARE_REASON)
    assert modest.ask(submit("mine")) == [OK]


ROOM: dict[str, Any] = {
    "answer": lambda gloom, masters, slave: slave.send(respond()),
    "fail": lambda gloom, masters, slave: slave.send(fail()),
    "cancel of a running job": lambda gloom, masters, slave: masters[0].send(cancel(0)),
    "cancel of a queued job": lambda gloom, masters, slave: masters[0].send(cancel(1)),
    "a master that goes": lambda gloom, masters, slave: masters[1].drop(),
}


@pytest.mark.parametrize("how", ROOM)
def test_room_comes_back_with_every_outcome(full: tuple[MemoryGloom, list[RawPeer]], how: str) -> None:
    """However a job ends, there is room for one more at once."""
    gloom, masters = full
    slave, other = busy_slave_of(gloom, 0, name="s"), gloom.master()
    assert other.ask(submit("more")) == busy(JOBS_REASON)
    ROOM[how](gloom, masters, slave)
    assert other.ask(submit("more")) == [OK]


@pytest.mark.parametrize("terms", [{"expires": 5}, {"timeout": 5, "retries": 0}], ids=str)
def test_room_comes_back_with_time(terms: dict[str, Any]) -> None:
    """A job that expires or takes too long makes room; a delayed one takes room while it waits."""
    gloom = MemoryGloom(Settings(max_jobs=2, master_share=1))
    master = extended(gloom.master())
    slave = slave_of(gloom, "u")
    master.ask(submit(1, "u" if "timeout" in terms else "t", **terms))
    master.ask(submit(2, delay=60))
    reason = "the broker has 2 jobs in flight, its limit (--max-jobs)"
    assert master.ask(submit(3)) == busy(reason)
    gloom.advance(5)
    assert master.ask(submit(3))[1:] == [OK]
    assert len(slave.take()) == ("timeout" in terms)


def test_an_orphan_takes_room_until_its_slave_lets_go() -> None:
    """A job in hand is in flight though its master has gone; the master that comes back has its share again."""
    gloom = MemoryGloom(Settings(max_jobs=2, master_share=0.5))
    for id in (1, 2):
        master = gloom.master()
        master.ask(submit(id))
        slave = busy_slave_of(gloom, id)
        master.drop()
    back = gloom.master()
    assert back.ask(submit(3)) == busy("the broker has 2 jobs in flight, its limit (--max-jobs)")
    slave.send(respond())
    assert back.ask(submit(3)) == [OK]


def test_attaching_is_never_refused(full: tuple[MemoryGloom, list[RawPeer]]) -> None:
    """A full broker takes a master that comes back for its jobs."""
    gloom, masters = full
    masters[1].drop()
    masters[0].send(submit(0))
    slave = slave_of(gloom)
    assert masters[0].ask(submit(0, attach=True))[-1] == OK
    back = extended(gloom.master())
    back.ask(submit(2))
    back.ask(submit(3))
    assert back.ask(submit(0, attach=True)) == [OK]
    assert served(slave) == [0, 1, 2, 3]


def test_busy_is_told_of_each_job_of_many() -> None:
    """Of a list those that fit are taken, and the others are told busy."""
    gloom = MemoryGloom(Settings(max_jobs=4))
    master = extended(gloom.master())
    (reply,) = master.ask({"action": "submit_many", "jobs": [submit(n) for n in range(4)]})
    assert reply["jobs"] == [OK, OK, *busy(SHARE_REASON) * 2]


def test_an_id_in_flight_is_told_before_a_limit(full: tuple[MemoryGloom, list[RawPeer]]) -> None:
    """An error of the submit itself is reported before a limit, however full the broker is."""
    _, masters = full
    assert masters[0].ask(submit(3)) == [{"error": "id_exists", "reason": "3"}]


# Bytes


def test_bytes_too_many_are_refused() -> None:
    """Beyond --max-queued-bytes, or a master's share of them, a job is refused; smaller ones still fit."""
    gloom = MemoryGloom(Settings(max_queued_bytes=MIB, master_share=0.5))
    half = "x" * (MIB // 2 - 100)
    one, two = gloom.master(), gloom.master()
    assert one.ask(submit(1, body=half)) == [OK]
    (refused,) = one.ask(submit(2, body=half))
    assert refused["error"] == "busy"
    assert refused["reason"].endswith("this master would go over its 524288 bytes of jobs in flight (--master-share)")
    assert one.ask(submit(2, body=1)) == [OK]
    assert two.ask(submit(3, body=half)) == [OK]
    (refused,) = gloom.master().ask(submit(4, body="x" * 200))
    assert refused["error"] == "busy"
    assert refused["reason"].endswith("go over its 1048576 bytes of jobs in flight (--max-queued-bytes)")
    slave = slave_of(gloom)
    slave.frames.clear()
    slave.send(respond())
    assert one.ask(submit(4, body=half))[-1] == OK


def test_bytes_are_given_back_to_the_last() -> None:
    """After many jobs of all ends the broker has room for exactly as much as at first."""
    gloom = MemoryGloom(Settings(max_queued_bytes=MIB, master_share=1))
    most = "x" * (MIB - len('{"action":"job","id":1,"type":"t","body":""}'))
    for round in range(3):
        master = extended(gloom.master())
        assert master.ask(submit(1, body=most)) == [OK]
        assert master.ask(submit(2, body=""))[0]["error"] == "busy"
        if round == 0:
            master.drop()
        elif round == 1:
            master.ask(cancel(1))
        else:
            served(slave_of(gloom))
    assert gloom.master().ask(submit(1, body=most)) == [OK]


# Connections


def test_a_connection_too_many_is_told_and_closed() -> None:
    """Beyond --max-connections, both ports together, a new peer reads busy and the end; the others go on."""
    gloom = MemoryGloom(Settings(max_connections=2))
    master, slave = gloom.master(), slave_of(gloom)
    for more in (gloom.master(), gloom.slave()):
        gloom.advance()
        assert more.lost
        assert more.take() == busy("the broker has its 2 connections (--max-connections)")
    master.ask(submit(1))
    assert served(slave) == [1]
    slave.drop()
    assert gloom.master().ask(submit(1)) == [OK]


def test_a_connection_that_is_refused_asks_nothing() -> None:
    """A refused connection's requests are not carried out, and it is no slave."""
    gloom = MemoryGloom(Settings(max_connections=1))
    master, refused = gloom.master(), gloom.slave()
    refused.transport.write(to_frame(b'{"action":"join","type":"t"}'))
    gloom.advance()
    master.ask(submit(1))
    assert [message.get("error") for message in refused.take()] == ["busy"]


# Frames that stand still


FRAME = to_frame(json.dumps(submit("slow")).encode())


def test_the_first_frame_must_come_whole() -> None:
    """A connection whose first frame is incomplete after 30 s is dropped, with a log line and without a job."""
    gloom = MemoryGloom()
    slow, good = gloom.master(), gloom.master()
    with logged() as events:
        for n in range(8):
            slow.send_bytes(FRAME[n : n + 1])
            gloom.advance(5)
            assert good.ask(PING)[0]["error"] == "invalid_state"
    assert slow.lost and slow.take() == []
    (event,) = events
    assert formatEvent(event) == "127.0.0.1:50000: dropped: a frame stood half way for 30 s"
    assert served(slave_of(gloom)) == []


def test_a_first_frame_has_its_time() -> None:
    """It may take up to 30 s from its first byte, however long the connection was silent before."""
    gloom = MemoryGloom()
    slow = gloom.master()
    gloom.advance(10_000)
    slow.send_bytes(FRAME[:10])
    gloom.advance(29.9)
    slow.send_bytes(FRAME[10:])
    assert slow.take() == [OK]
    gloom.advance(10_000)
    assert not slow.lost


def test_later_frames_may_be_slow_but_not_still() -> None:
    """While some of it comes every 30 s, a frame may take any time; then it is dropped, and its jobs go with it."""
    gloom = MemoryGloom()
    slow = gloom.master()
    slow.ask(submit("waiting"))
    for n in range(len(FRAME) - 1):
        slow.send_bytes(FRAME[n : n + 1])
        gloom.advance(29)
    assert not slow.lost
    gloom.advance(10)
    assert slow.lost
    assert served(slave_of(gloom)) == []


def test_half_a_header_is_half_a_frame() -> None:
    """One byte of a length is enough to be waited for, and not for longer."""
    gloom = MemoryGloom()
    slave = busy_slave_of_one_job(gloom)
    slave.send_bytes(b"\x00")
    gloom.advance(37.5)
    assert slave.lost
    assert served(slave_of(gloom)) == [1]


def busy_slave_of_one_job(gloom: MemoryGloom) -> RawPeer:
    gloom.master().ask(submit(1))
    return busy_slave_of(gloom, 1)


def test_whole_frames_may_be_as_far_apart_as_they_like() -> None:
    """Silence between frames is no stall, also behind a frame that had come in pieces."""
    gloom = MemoryGloom()
    master = gloom.master()
    master.send_bytes(FRAME[:7])
    master.send_bytes(FRAME[7:])
    gloom.advance(100_000)
    assert master.take() == [OK]
    master.send_bytes(FRAME + FRAME[:7])
    gloom.advance(20)
    master.send_bytes(FRAME[7:] + FRAME[:3])
    gloom.advance(20)
    master.send_bytes(FRAME[3:])
    gloom.advance(100_000)
    assert [message["error"] for message in master.take()] == ["id_exists"] * 3
    assert not master.lost


def test_what_a_closed_connection_left_half_is_not_watched() -> None:
    """A peer that goes in the middle of a frame leaves nothing behind that would be dropped later."""
    gloom = MemoryGloom()
    with logged() as events:
        for _ in range(3):
            peer = gloom.master()
            peer.send_bytes(FRAME[:5])
            peer.drop()
        gloom.advance(1000)
    assert events == []
    assert gloom.clock.getDelayedCalls() == []


# Peers that do not read


def waiting_bytes(peer: RawPeer) -> int:
    """Return how many bytes the broker's end holds for *peer*."""
    waiting: int = peer.transport._other.protocol.waiting_bytes
    return waiting


def is_read_from(peer: RawPeer) -> bool:
    return bool(peer.transport._other._reading)


def stalled_master(gloom: MemoryGloom, jobs: int) -> RawPeer:
    """Return a master with *jobs* in flight that reads no more."""
    master = gloom.master()
    for n in range(jobs):
        master.sendString(json.dumps(submit(n)).encode())
    gloom.advance()
    master.take()
    master.transport.stalled = True
    return master


BIG = "x" * (100 * 1024)


def test_a_master_that_does_not_read_is_not_read_from() -> None:
    """When more than 1 MiB waits for it, its requests wait in its own socket; when it has read, they are heard."""
    gloom = MemoryGloom()
    master, slave = stalled_master(gloom, 20), slave_of(gloom)
    for n in range(20):
        assert is_read_from(master) == (n < 11)
        slave.send(respond(BIG))
    assert slave.take()[-1] == OK
    master.send_bytes(to_frame(json.dumps(submit("late")).encode()))
    assert slave.take() == []
    master.transport.stalled = False
    gloom.advance()
    assert [len(message.get("body", "")) for message in master.take()] == [len(BIG)] * 20 + [0]
    assert is_read_from(master)
    assert served(slave) == ["late"]


def test_other_peers_go_on_beside_one_that_does_not_read() -> None:
    """A stalled master holds up nobody: others submit and are answered, and so are its own jobs."""
    gloom = MemoryGloom()
    stalled, slave, good = stalled_master(gloom, 15), slave_of(gloom), gloom.master()
    for n in range(30):
        good.ask(submit(f"good {n}"))
    for _ in range(45):
        slave.send(respond(BIG))
    assert [message["id"] for message in good.take()] == [f"good {n}" for n in range(30)]
    assert not stalled.lost and not is_read_from(stalled)


def test_a_peer_that_does_not_read_is_dropped_beyond_the_bound() -> None:
    """With more than --max-unread-bytes waiting and nothing taken for 10 s the connection ends; its jobs go."""
    gloom = MemoryGloom(Settings(max_unread_bytes=2 * MIB))
    stalled, slave = stalled_master(gloom, 40), slave_of(gloom)
    with logged() as events:
        for _ in range(25):
            slave.send(respond(BIG))
        assert waiting_bytes(stalled) == gloom.masters.around.unread.bytes > 25 * len(BIG)
        gloom.advance(10)
        assert not stalled.lost
        gloom.advance(5)
        assert stalled.lost
    assert formatEvent(events[0]).startswith("127.0.0.1:50000: dropped: it does not read: ")
    assert formatEvent(events[0]).endswith(" bytes wait for it (--max-unread-bytes)")
    assert gloom.masters.around.unread.bytes == 0
    slave.take()
    slave.send(respond())
    assert slave.take() == [OK]
    assert gloom.master().ask(submit(0)) == [OK]


def test_a_peer_that_reads_is_served_however_much_waits() -> None:
    """A master whose answers come faster than it reads receives all: its progress counts, not its backlog."""
    gloom = MemoryGloom(Settings(max_unread_bytes=MIB))
    master, slave = stalled_master(gloom, 40), slave_of(gloom)
    for _ in range(40):
        slave.send(respond(BIG))
    answers: list[Any] = []
    while len(answers) < 40:
        gloom.advance(5)
        master.transport._other.carry()  # once nothing
        master.transport.stalled = False
        master.transport._other.carry()
        master.transport.stalled = True
        answers += master.take()
    assert [message["id"] for message in answers] == list(range(40))


def test_memory_for_all_that_waits_is_bounded() -> None:
    """Beyond --max-total-unread-bytes a peer that reads nothing goes at once, and one that reads stays."""
    gloom = MemoryGloom(Settings(max_total_unread_bytes=2 * MIB))
    stalled, slave, good = stalled_master(gloom, 40), slave_of(gloom), gloom.master()
    with logged() as events:
        most = 0
        for _ in range(30):
            slave.send(respond(BIG))
            most = max(most, gloom.masters.around.unread.bytes)
    assert stalled.lost and MIB < most <= 2 * MIB
    assert "dropped: it reads slowest: " in formatEvent(events[0])
    assert formatEvent(events[0]).endswith(" bytes that wait for all peers are its (--max-total-unread-bytes)")
    assert good.ask(submit("good")) == [OK]


def test_a_large_frame_is_sent_whatever_the_bounds() -> None:
    """One answer larger than all that may wait reaches a master that takes its time."""
    gloom = MemoryGloom(Settings(max_unread_bytes=MIB, max_total_unread_bytes=MIB))
    master, slave = stalled_master(gloom, 1), slave_of(gloom)
    slave.send(respond("x" * 3 * MIB))
    gloom.advance(40)
    assert not master.lost
    master.transport.stalled = False
    gloom.advance()
    assert [len(message["body"]) for message in master.take()] == [3 * MIB]


# Slaves that do not read


def test_a_slave_that_has_not_taken_its_job_is_given_no_other() -> None:
    """However many slots it has: others are given the next jobs, and it comes last when it has read."""
    gloom = MemoryGloom()
    blocked, other, master = slave_of(gloom, slots=100), slave_of(gloom, slots=2), gloom.master()
    blocked.transport.stalled = True
    for n in range(3):
        master.send(submit(n, body=BIG))
    assert other.take() == [job(1, body=BIG), job(2, body=BIG)]
    master.send(submit(3))
    assert other.ask(respond(id=1)) == [OK, job(3)]
    other.send(respond(id=2))
    blocked.transport.stalled = False
    gloom.advance()
    assert blocked.take() == [job(0, body=BIG)]
    for n in range(4, 7):
        master.send(submit(n))
    assert other.take() == [OK, job(4)]
    assert blocked.take() == [job(5), job(6)]


def test_large_jobs_go_to_a_slave_one_after_the_other() -> None:
    """One that joins with many slots is sent the next large job when it has read the one before."""
    gloom = MemoryGloom()
    master, slave = gloom.master(), extended(gloom.slave())
    for n in range(3):
        master.send(submit(n, body="x" * MIB))
    slave.transport.stalled = True
    slave.send({"action": "join", "type": "t", "slots": 10})
    assert waiting_bytes(slave) < 2 * MIB
    slave.transport.stalled = False
    gloom.advance()
    assert [message.get("id") for message in slave.take()] == [None, 0, 1, 2]


def test_jobs_wait_for_a_slave_that_has_to_read_first() -> None:
    """Where no other could take it, a job stays in its queue, may expire there, and is served when there is room."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom, slots=5), extended(gloom.master())
    slave.transport.stalled = True
    master.send(submit(0, body=BIG))
    master.send(submit(1, expires=5))
    master.send(submit(2))
    gloom.advance(6)
    assert [message.get("error") for message in master.take()] == [None, None, None, "expired"]
    slave.transport.stalled = False
    gloom.advance()
    assert slave.take() == [job(0, body=BIG), job(2)]


def test_a_blocked_slave_that_goes_or_joins_again_leaves_nothing_behind() -> None:
    """Requests of a blocked slave count once it reads; if it disconnects, its jobs go to another."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom, slots=5), gloom.master()
    slave.transport.stalled = True
    master.send(submit(0, body=BIG))
    slave.send({"action": "join", "type": "u", "slots": 2})
    master.send(submit(1, type="u"))
    master.send(submit(2))
    slave.transport.stalled = False
    gloom.advance()
    assert slave.take() == [job(0, body=BIG), OK, job(1, type="u")]
    slave.transport.stalled = True
    slave.send(respond(id=0))
    master.send(submit(3, type="u", body=BIG))
    slave.drop()
    assert slave_of(gloom, "u").take() == [job(1, type="u")]
    assert slave_of(gloom).take() == [job(2)]


# Heartbeats of peers that do not read


def unread_of(gloom: MemoryGloom, heartbeat: float) -> RawPeer:
    """Return a master with that heartbeat for which so much waits that it is not read from."""
    master = extended(gloom.master(), heartbeat=heartbeat)
    for n in range(15):
        master.sendString(json.dumps(submit(n)).encode())
    gloom.advance()
    master.transport.stalled = True
    slave = slave_of(gloom)
    for _ in range(15):
        slave.send(respond(BIG))
    assert not is_read_from(master)
    return master


def test_a_peer_that_takes_nothing_and_says_nothing_is_silent() -> None:
    """A heartbeat is missed also by a peer for which much waits, such as a slave that was stopped."""
    gloom = MemoryGloom()
    master = unread_of(gloom, heartbeat=10)
    gloom.advance(9)
    assert not master.lost
    with logged() as events:
        gloom.advance(3.5)
    assert master.lost
    assert formatEvent(events[0]).endswith("dropped: it was silent for 10 s, its heartbeat")


def test_a_peer_that_is_not_read_from_lives_while_it_takes_something() -> None:
    """One that reads slowly cannot be heard, and is not taken for dead."""
    gloom = MemoryGloom()
    master = unread_of(gloom, heartbeat=10)
    for _ in range(5):
        gloom.advance(8)
        master.transport.stalled = False
        master.transport._other.carry()
        master.transport.stalled = True
        assert not is_read_from(master)
    assert not master.lost
    master.transport.stalled = False
    gloom.advance()
    assert is_read_from(master)
    gloom.advance(20)
    assert master.lost


def test_frames_that_wait_while_a_peer_is_not_read_from_are_no_stall() -> None:
    """Half a frame that came before reading was paused is not the peer's fault; its rest is read later."""
    gloom = MemoryGloom()
    master, slave = stalled_master(gloom, 15), slave_of(gloom)
    late = to_frame(json.dumps(submit("late")).encode())
    master.send_bytes(late[:10])
    for _ in range(15):
        slave.send(respond(BIG))
    assert not is_read_from(master)
    master.send_bytes(late[10:])
    gloom.advance(300)
    assert not master.lost
    master.transport.stalled = False
    gloom.advance()
    assert master.take()[-1] == OK


def test_half_a_frame_is_watched_again_when_it_is_read_again() -> None:
    """A peer that was not read from for a while has its time for the rest of a frame, and not for ever."""
    gloom = MemoryGloom()
    master, slave = stalled_master(gloom, 15), slave_of(gloom)
    master.send_bytes(FRAME[:10])
    for _ in range(15):
        slave.send(respond(BIG))
    gloom.advance(300)
    master.transport.stalled = False
    gloom.advance()
    assert is_read_from(master) and not master.lost
    gloom.advance(29)
    assert not master.lost
    gloom.advance(9)
    assert master.lost
