"""
The work of a connection in slices of time, so that other connections are served in between.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

from gloom.transport.sending import FlushTurn, FrameSender
from gloom.transport.turns import SLICE_SECONDS, Turns
from gloom.transport.unread import UnreadWatch
from gloom.wire.largebytes import Payload


class SlicedSender(FrameSender):
    """
    A connection that works while its slice of time lasts, and then waits for its next turn.

    Args:
        flushes: Schedules the flushes of this connection.
        pause_unread_bytes: With more bytes than this waiting for the peer, nothing is read from it.
        unread: Counts the bytes that wait, and drops peers that do not take them; None for nobody.
        turns: Gives each connection its turn; None where there is one connection.

    Attributes:
        paused: Whether nothing is read, because the peer does not read.
    """

    __slots__ = (
        "_closed",
        "_halted",
        "_held_bytes",
        "_held_frames",
        "_parsing",
        "_polled",
        "_steps",
        "_turns",
        "_waits",
        "paused",
    )

    def __init__(
        self, flushes: FlushTurn, pause_unread_bytes: float, unread: UnreadWatch | None, turns: Turns | None
    ) -> None:
        super().__init__(flushes, pause_unread_bytes, unread)
        self._turns = turns
        # The socket, while the poll reads it.
        self._polled: Any = None
        self.paused = False
        self._parsing = False
        self._closed = False
        # Whether input that was read waits for this connection's next turn; and the work that comes before it then.
        self._waits = False
        self._steps: Generator[None, None, None] | None = None
        # Whether no frame is delivered: the connection is paused, closed, or waits.
        self._halted = False
        # While output is held: how much of it was counted.
        self._held_frames = self._held_bytes = 0

    def _deliver_partial(self) -> None:
        """Deliver the frames that were read and not delivered yet."""
        raise NotImplementedError

    def _slice_from(self, ends: float) -> float:
        """Return when this slice ends, which began just now if *ends* is 0; if it is over, wait for the next turn."""
        if self._turns is None:
            return ends
        now = self._turns.seconds()
        if not ends:
            return now + SLICE_SECONDS
        if now >= ends:
            self._wait_for_turn(self._turns)
        return ends

    def _wait_for_turn(self, turns: Turns) -> None:
        self._waits = self._halted = True
        turns.add(self, self._go_on)
        if self._polled is None:
            cast(Any, self.transport).pauseProducing()
            turns.wake()

    def _go_on(self) -> None:
        """Go on where the last turn has ended; this one has come."""
        self._waits = False
        self._halt()
        if self._steps is not None:
            self.work_off(self._steps)
        if not self._halted and not self._parsing:
            self._deliver_partial()
        if self._polled is None and not (self._waits or self.paused or self.lost):
            cast(Any, self.transport).resumeProducing()

    def work_off(self, steps: Generator[None, None, None]) -> None:
        """
        Take *steps*, each of them short, in as many turns as they take; closed when the connection ends before.

        Meanwhile no frame is delivered and none is sent: their reply comes first, see `release`.
        """
        self._steps = None
        slice_ends = 0.0
        for _ in steps:
            if not self._has_held_much():
                slice_ends = self._slice_from(slice_ends)
            if self._closed:
                steps.close()
                return
            if self._waits:
                self._steps = steps
                self._hold_output()
                return

    def _hold_output(self) -> None:
        if "flush" not in self.__dict__:
            self.flush()
            self.flush = _send_nothing  # type: ignore[method-assign]
            self._held_frames = self._held_bytes = 0

    def _has_held_much(self) -> bool:
        if "flush" not in self.__dict__:
            return False
        # Only the frames that are new since the last step: a batch has thousands of steps.
        self._held_bytes += sum(map(len, self._output[self._held_frames :]))
        self._held_frames = len(self._output)
        return self._held_bytes > self._pause_unread_bytes

    def release(self) -> list[Payload]:
        """Return the frames that were said since the first turn of `work_off`, and send from now on."""
        if self.__dict__.pop("flush", None) is None:
            return []
        held, self._output = self._output, []
        return held

    def _halt(self) -> None:
        """Note whether frames may be delivered."""
        self._halted = self.paused or self._closed or self._waits


def _send_nothing() -> None:
    """Stand for the flush of a connection that holds its output."""
