"""Peers with unread output, judged by their progress: none that reads is dropped, and memory is bounded."""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.task import Clock

from gloom.transport.sockets import unacknowledged_bytes, unread_input_bytes
from gloom.transport.unread import UnreadWatch

BOUND = 1000
TOTAL = 10_000
SECONDS = 10.0
LEAST = 100


class Waiting:
    """
    A peer with unsent bytes.

    Attributes:
        dropped: The reason of its drop, or None.
    """

    has_one_piece = False

    def __init__(self, watch: UnreadWatch, waiting_bytes: int = 0) -> None:
        self.watch = watch
        self.waiting_bytes = waiting_bytes
        self.dropped: str | None = None
        self._taken = 0
        watch.begin(self)

    def taken_bytes(self) -> int:
        return self._taken

    def drop_because(self, reason: str) -> None:
        self.dropped = reason
        self.watch.end(self)

    def gets(self, count: int) -> None:
        self.waiting_bytes += count
        self.watch.add(count)

    def takes(self, count: int) -> None:
        self.waiting_bytes -= count
        self._taken += count
        self.watch.took(count)


def at_once(judge: Callable[[], None], late_seconds: float) -> None:
    judge()


def watch_on(clock: Clock, after_reading: Callable[[Callable[[], None], float], None] = at_once) -> UnreadWatch:
    return UnreadWatch(clock, BOUND, TOTAL, SECONDS, LEAST, after_reading)


def pass_time(clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds * 4)):
        clock.advance(0.25)


def test_a_peer_that_takes_nothing_is_dropped_after_some_seconds() -> None:
    """A peer over the bound that reads nothing is dropped, at most a quarter after its time."""
    clock = Clock()
    peer = Waiting(watch_on(clock), BOUND + 1)
    pass_time(clock, SECONDS)
    assert peer.dropped is None
    pass_time(clock, SECONDS / 4)
    assert peer.dropped == f"it does not read: {BOUND + 1} bytes wait for it (--max-unread-bytes)"
    assert peer.watch.bytes == 0
    assert clock.getDelayedCalls() == []


def test_a_slow_reader_is_served_however_much_waits() -> None:
    """A peer that reads its part in each window is never dropped, even if its backlog grows."""
    clock = Clock()
    peer = Waiting(watch_on(clock), 2 * BOUND)
    for _ in range(30):
        pass_time(clock, SECONDS / 2)
        peer.takes(LEAST)
        peer.gets(LEAST + 5)
    assert peer.dropped is None
    assert peer.watch.bytes == peer.waiting_bytes > 2 * BOUND


def test_a_peer_that_drips_is_no_reader() -> None:
    """A few bytes now and then do not count as progress."""
    clock = Clock()
    peer = Waiting(watch_on(clock), 2 * BOUND)
    for _ in range(13):
        pass_time(clock, 1)
        peer.takes(1)
    assert peer.dropped is not None


def test_up_to_the_bound_a_peer_may_read_when_it_likes() -> None:
    """A peer below the bound may wait for ever; above it, its time starts."""
    clock = Clock()
    peer = Waiting(watch_on(clock), BOUND)
    pass_time(clock, 1000)
    peer.gets(1)
    pass_time(clock, SECONDS - 1)
    assert peer.dropped is None
    pass_time(clock, 1 + SECONDS / 2)
    assert peer.dropped is not None


def test_one_frame_always_fits() -> None:
    """A single frame may be larger than both bounds."""
    clock = Clock()
    peer = Waiting(watch_on(clock))
    peer.has_one_piece = True
    peer.gets(2 * TOTAL)
    pass_time(clock, 1000)
    assert peer.dropped is None
    peer.has_one_piece = False
    peer.gets(1)
    assert peer.dropped is not None


def test_beyond_what_may_wait_for_all_the_slowest_goes() -> None:
    """Above the total bound, the peer that needs longest for its backlog is dropped, not the largest or the newest."""
    clock = Clock()
    watch = watch_on(clock)
    fast, dripping, idle = (Waiting(watch, count) for count in (6000, 900, 100))
    for _ in range(40):
        pass_time(clock, 1)
        for peer, count in ((fast, 500), (dripping, 1)):
            peer.takes(count)
            peer.gets(count)
    new = Waiting(watch, 2999)
    assert watch.bytes == TOTAL - 1
    new.gets(2)
    assert dripping.dropped == (
        f"it reads slowest: 900 of {TOTAL + 1} bytes that wait for all peers are its (--max-total-unread-bytes)"
    )
    assert (fast.dropped, new.dropped) == (None, None)
    assert watch.bytes == fast.waiting_bytes + new.waiting_bytes + (100 if idle.dropped is None else 0)


def test_when_room_is_made_it_is_made_for_some_more() -> None:
    """Room is made for several frames at once, so that the broker does not examine all peers for each frame."""
    clock = Clock()
    watch = watch_on(clock)
    stuck = [Waiting(watch, 100) for _ in range(TOTAL // 100)]
    pass_time(clock, 600)
    reader = Waiting(watch)
    reader.gets(50)
    assert sum(peer.dropped is not None for peer in stuck) == 13
    assert reader.dropped is None
    assert watch.bytes <= TOTAL * 7 // 8


def test_while_the_broker_stands_still_no_peer_is_judged() -> None:
    """A pause of the process does not count as time in which a peer read nothing."""
    clock = Clock()
    peer = Waiting(watch_on(clock), 2 * BOUND)
    pass_time(clock, SECONDS / 2)
    clock.advance(30)
    assert peer.dropped is None
    pass_time(clock, SECONDS / 2 - 1)
    assert peer.dropped is None
    peer.takes(LEAST)
    pass_time(clock, SECONDS - 1)
    assert peer.dropped is None
    pass_time(clock, SECONDS / 2)
    assert peer.dropped is not None


def test_nobody_is_judged_before_the_sockets_are_read() -> None:
    """Bytes read by the time of the judgement count, and a peer that has disconnected is not judged."""
    clock = Clock()
    judgements: list[tuple[Callable[[], None], float]] = []
    watch = watch_on(clock, lambda judge, late_seconds: judgements.append((judge, late_seconds)))
    peer, gone = Waiting(watch, 2 * BOUND), Waiting(watch, 2 * BOUND)
    for _ in range(5):
        pass_time(clock, SECONDS / 4)
        if len(judgements) < 5:
            judgements[-1][0]()
    assert [late for _, late in judgements] == [0.0] * 5
    assert (peer.dropped, gone.dropped) == (None, None)
    peer.takes(LEAST)
    watch.end(gone)
    judgements[-1][0]()
    assert (peer.dropped, gone.dropped) == (None, None)
    watch.stop()
    assert clock.getDelayedCalls() == []


def test_nothing_is_left_of_who_has_read_or_gone() -> None:
    """Read bytes, and the bytes of a disconnected peer, are no longer counted, and no timer remains."""
    clock = Clock()
    watch = watch_on(clock)
    one, other = Waiting(watch, 500), Waiting(watch, 700)
    one.takes(500)
    watch.end(one)
    watch.end(one)
    assert watch.bytes == 700
    watch.end(other)
    assert watch.bytes == 0
    pass_time(clock, SECONDS)
    assert clock.getDelayedCalls() == []
    Waiting(watch, 1)
    watch.stop()
    watch.stop()
    assert clock.getDelayedCalls() == []


def test_the_system_is_asked_for_what_is_on_its_way() -> None:
    """The system reports unacknowledged output and unread input without a read."""
    near, far = socket.socketpair()
    with near, far:
        near.send(bytes(100))
        assert unacknowledged_bytes(near) >= 100
        assert unread_input_bytes(far) == 100
        far.recv(100)
        assert (unacknowledged_bytes(near), unread_input_bytes(far)) == (0, 0)
    assert (unacknowledged_bytes(near), unread_input_bytes(None)) == (0, 0)
