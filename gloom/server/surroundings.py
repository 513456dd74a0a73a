"""
The state that all connections of a broker share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.interfaces import IReactorTime

from gloom.broker.interfaces import IBroker
from gloom.server.access import Access
from gloom.server.timer import Alarm
from gloom.settings import Settings
from gloom.transport.clock import monotonic
from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.transport.stalls import StallWatch
from gloom.transport.turns import Turns
from gloom.transport.unread import UnreadWatch


@dataclass
class Surroundings:
    """
    What the connections of both ports share.

    Attributes:
        broker: The `IBroker`.
        settings: The broker's limits.
        clock: Time for deadlines and heartbeats; given a reactor, it is the monotonic clock of that.
        access: Who may do what; None lets everyone do everything.
        alarm: The broker's timer.
        flushes: Sends what one reactor turn has said.
        answers: As flushes, for masters.
        stalls: Drops frames that stand half way.
        unread: Counts the bytes that wait for peers, and drops those that do not take them.
        turns: Shares the broker's time out among the connections.
        connections: How many are open, without those that are refused.
        refused: How many that are refused still linger.
    """

    broker: IBroker
    settings: Settings
    clock: IReactorTime
    access: Access | None
    alarm: Alarm
    flushes: FlushTurn = field(init=False)
    answers: FlushTurn = field(init=False)
    stalls: StallWatch = field(init=False)
    unread: UnreadWatch = field(init=False)
    turns: Turns = field(init=False)
    poll: SocketPoll | None = field(init=False)
    connections: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        reactor: Any = self.clock
        self.clock = monotonic(reactor)
        self.flushes = FlushTurn(self.clock)
        self.answers = FlushTurn(self.clock)
        settings = self.settings
        self.turns = Turns(self.clock)
        self.alarm.after_reading = self.turns.after_reading
        self.poll = None
        if SocketPoll.is_possible(reactor):
            self.poll = SocketPoll(reactor, self.flushes, self.answers, self.turns)
        self.stalls = StallWatch(self.clock, settings.stall_seconds, self.turns.after_reading)
        self.unread = UnreadWatch(
            self.clock,
            settings.max_unread_bytes,
            settings.max_total_unread_bytes,
            settings.unread_seconds,
            settings.least_read_bytes,
            self.turns.after_reading,
        )

    def stop(self) -> None:
        """Leave no timer behind."""
        self.alarm.stop()
        self.stalls.stop()
        self.unread.stop()
        self.turns.stop()
        if self.poll is not None:
            self.poll.stop()
