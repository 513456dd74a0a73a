"""The wait for a peer that still reads after its connection was closed: it ends at any clock value."""

from __future__ import annotations

import math

from twisted.internet.task import Clock

from gloom.transport.lingering import Linger

MOST_LOOKS = 20


class Closing:
    """
    A closed connection to a peer that reads nothing.

    Attributes:
        aborted_at: When it was reset; None before.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.aborted_at: float | None = None
        self._looks = 0

    def taken_bytes(self) -> int:
        self._looks += 1
        assert self._looks < MOST_LOOKS, "the timer is due again and again"
        return 0

    def abort(self) -> None:
        self.aborted_at = self.clock.seconds()


def test_it_ends_where_sums_of_seconds_are_rounded() -> None:
    """
    Near a power of two seconds of uptime, begin + wait is rounded down: one moment later than that is late enough.

    The simulation hung there for an hour of real time, at one moment of its own.
    """
    for begins in (math.nextafter(1023.75, 0), math.nextafter(1023.75, 2000), 1023.8474337369372, 1023.4494910647887):
        clock = Clock()
        clock.rightNow = begins
        connection = Closing(clock)
        Linger(connection, clock, 1.0, 30.0)
        for _ in range(5):
            clock.advance(0.25)
        assert connection.aborted_at is not None
        assert abs(connection.aborted_at - begins - 1.0) < 0.01
        assert clock.getDelayedCalls() == []
