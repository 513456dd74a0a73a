"""
A fair share of the broker's time for each connection.

While no request takes long, no connection waits and no time is measured. Under
load each connection has short slices of time, in the order of start-time fair
queueing (docs/decisions/0018-fair-turns.md): the connection that has used less
of the broker's time comes first, and the one that has used more waits. The
reactor's timers run between two turns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gloom.transport.clock import SteadyClock
from gloom.transport.collector import COLLECTOR

#: After so long the reactor looks at everything else again.
TURN_SECONDS = 0.010
#: What one connection may take at once, while more than one frame is there of it.
SLICE_SECONDS = 0.001
#: After so long what has been said is sent, and new input is looked for.
STEP_SECONDS = 0.002
# So long after the last slice that was used up each slice is measured.
_STRAINED_SECONDS = 1.0
# A slice that took so long may have been interrupted by another process.
_LONG_SECONDS = SLICE_SECONDS / 2
# While others are at work, who has had more than they waits for them this long though nobody else is there: they
# are about to come, with what a reply has them say (decision 18).
_PATIENCE_FOR_OTHERS_SECONDS = 0.005
# Or for this part of what the last long slice took: it has made them late.
_PATIENCE_PART = 0.5
# What those that have gone may leave to the newcomers, who are others for the most part.
_MOST_LEFT_SECONDS = 0.1
# So long after their last slice others are at work.
_AT_WORK_SECONDS = 0.1
# And a second of waiting pays for so much of what it has had.
_PAID_BY_WAITING = 0.5
# How long at most a judgement waits for reading, in an ordinary turn and after a gap.
_PATIENCE_SECONDS = 0.05
_LONGEST_PATIENCE_SECONDS = 1.0

Work = Callable[[], None]


class _Share:
    """
    What one connection has had.

    Attributes:
        ends: When its last slice ended, in virtual time; the next one does not start before.
        starts: When the slice starts for which it waits, or which it has.
        cost: What its last slice took.
        work: What it waits to do; None while it waits for nothing.
        then: Is called when it was served and waits for nothing more.
        is_new: Whether it waits among the newcomers.
    """

    __slots__ = ("cost", "ends", "is_new", "starts", "then", "work")

    def __init__(self) -> None:
        self.ends = self.starts = 0.0
        # Of one of which nothing is known a whole slice is expected: those that are known to be light come first.
        self.cost = SLICE_SECONDS
        self.work: Work | None = None
        self.then: Work | None = None
        self.is_new = False


class _Judgement:
    """What waits until the sockets have been read: until those have had their turn that came before *serial*."""

    def __init__(self, judge: Work, until: float) -> None:
        self.judge = judge
        self.until = until
        self.serial: int | None = None


class Turns:
    """
    Shares time out among connections.

    Args:
        clock: The time that a slice takes, and what continues a backlog. A
            virtual clock stands still meanwhile: there nothing is ever cut.
        cpu_seconds: The time that this thread has run.

    Attributes:
        look: Has what is ready to be read wait for its turn; set by `gloom.transport.polling`.
        is_unread: Returns whether anything is ready to be read; likewise.
        reactor_reads: How many connections the reactor reads, and not the poll.
        seconds: Time.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, cpu_seconds: Callable[[], float] = time.thread_time) -> None:
        self.look: Callable[[Turns], None] = lambda turns: None
        self.is_unread: Callable[[], bool] = lambda: False
        self.run_turn: Work = lambda: self.share(self.seconds() + TURN_SECONDS)
        self.reactor_reads = 0
        self.seconds = clock.seconds
        self._clock = clock
        self._is_real = isinstance(clock, ReactorBase | SteadyClock)
        self._cpu_seconds = cpu_seconds
        self._shares: dict[Any, _Share] = {}
        self._waiting: list[tuple[float, int, Any, _Share]] = []
        self._serial = 0
        # Virtual time: the start of the latest slice.
        self._now = 0.0
        # Of the newcomers one waits with the others; and when, in virtual time, the last one's slice ended.
        self._newcomers: deque[tuple[Any, _Share]] = deque()
        self._newcomer: _Share | None = None
        self._newcomers_end = 0.0
        self._strained_until = 0.0
        # When the last short slice ended, and the last long one; from when on waiting pays, and when it is over.
        self._short_ended = self._long_ended = self._pays_from = -_AT_WORK_SECONDS
        self._resumes: float | None = None
        self._patience = _PATIENCE_FOR_OTHERS_SECONDS
        # Whether others were at work when the last long slice began, or have been since.
        self._has_company = False
        # Up to when CPU time has been charged: what the clock of the CPU said, and what was charged since.
        self._cpu = self._charged = 0.0
        self._served: Any = None
        self._judgements: list[_Judgement] = []
        self._call: IDelayedCall | None = None

    # Who waits

    @property
    def is_strained(self) -> bool:
        """Whether slices are to be measured: somebody waits for a turn, or has used one up lately."""
        if self._waiting or self._judgements:
            return True
        return self._strained_until > 0 and self.seconds() < self._strained_until

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._waiting)

    def add(self, peer: Any, work: Work, *, is_new: bool = False) -> bool:
        """
        Have *peer* wait for its turn.

        Args:
            peer: Whose share it is.
            work: Is called when its turn has come, and returns within `SLICE_SECONDS` or a frame.
            is_new: Whether nothing is known of it: all newcomers together have one share.

        Returns:
            False if it waits already.
        """
        share = self._shares.get(peer)
        if share is None:
            share = self._shares[peer] = _Share()
        elif share.work is not None:
            return False
        share.work = work
        share.is_new = is_new
        if peer is not self._served:  # else what it takes is not known yet
            self._push(peer, share)
        return True

    def forget(self, peer: Any) -> None:
        """*peer* has gone, and leaves what it owes to the newcomers: it may be one of them next."""
        share = self._shares.pop(peer, None)
        if share is not None:
            share.work = None
            if peer is not self._served:  # else what it takes is not known yet
                self._leave_debt(share)

    def _leave_debt(self, share: _Share) -> None:
        owed = share.ends - self._now
        if owed > 0:
            begins = max(self._newcomers_end, self._now)
            self._newcomers_end = max(begins, min(begins + owed, self._now + _MOST_LEFT_SECONDS))

    def settle(self, peer: Any) -> None:
        """Forget *peer* unless it waits, or has had more than others."""
        share = self._shares.get(peer)
        if share is not None and share.work is None and share.ends <= self._now and peer is not self._served:
            self.forget(peer)

    def when_served(self, peer: Any, then: Work) -> None:
        """Call *then* when *peer*, which waits, has had its turn and waits for no other."""
        share = self._shares.get(peer)
        if share is not None:
            share.then = then

    def _push(self, peer: Any, share: _Share) -> None:
        start = max(self._now, share.ends)
        if share.is_new:
            if self._newcomer is not None:
                self._newcomers.append((peer, share))
                return
            self._newcomer = share
            start = max(start, self._newcomers_end)
        share.starts = start
        # In the order in which slices are expected to end: a short one goes before a long one.
        heappush(self._waiting, (start + share.cost, self._serial, peer, share))
        self._serial += 1

    # Serving

    def share(self, ends: float) -> None:
        """Serve those who wait, and who begins to wait meanwhile, until *ends*."""
        self.begin()
        while self.prepare():
            self.serve(ends)
            if self.is_resting or self.seconds() >= ends:
                return

    def begin(self) -> None:
        """Begin to measure."""
        self._cpu, self._charged = self._cpu_seconds(), 0.0

    def prepare(self) -> bool:
        """Have all that is ready wait for its turn; return whether anybody waits."""
        self.look(self)
        for judgement in self._judgements:
            if judgement.serial is None:
                judgement.serial = self._serial
        return bool(self._waiting)

    def serve(self, ends: float) -> None:
        """Serve those who wait until *ends*, or until new input is to be looked for."""
        first = begun = self.seconds()
        ends = min(ends, begun + STEP_SECONDS)
        self._resumes = None
        while self._waiting and begun < ends:
            _, _, peer, share = self._waiting[0]
            if share.work is not None:
                # What was said to others comes before what takes long.
                if (share.cost >= _LONG_SECONDS and begun > first) or self._has_to_rest(share, begun):
                    return
                self._now = max(self._now, share.starts)
            heappop(self._waiting)
            if share.work is not None:
                begun = self._serve(peer, share, begun)
            if share is self._newcomer:
                self._next_newcomer(share.ends)

    @property
    def is_resting(self) -> bool:
        """Whether those who wait have had more than others, who are about to come."""
        return self._resumes is not None

    def _has_to_rest(self, share: _Share, now: float) -> bool:
        """Return whether *share*, the first of those that wait, has had more than those at work who are not there."""
        if share.starts - self._now < _LONG_SECONDS or not self._has_company:
            return False
        self._now += (now - self._pays_from) * _PAID_BY_WAITING
        self._pays_from = now
        owed = share.starts - self._now
        resumes = max(self._short_ended, self._long_ended) + self._patience
        if owed < _LONG_SECONDS or now >= resumes:
            return False
        self._resumes = min(resumes, now + owed / _PAID_BY_WAITING)
        return True

    def _next_newcomer(self, ends: float) -> None:
        self._newcomer = None
        self._newcomers_end = max(self._newcomers_end, ends)
        while self._newcomers and self._newcomer is None:
            peer, share = self._newcomers.popleft()
            if share.work is not None:
                self._push(peer, share)

    def _serve(self, peer: Any, share: _Share, begun: float) -> float:
        """Give *peer* its slice; return when that ended."""
        work, share.work = share.work, None
        self._served = peer
        collected = COLLECTOR.seconds
        try:
            if work is not None:
                work()
        except Exception:
            self.log.failure("a bug in gloom")
        finally:
            self._served = None
        ended = self.seconds()
        self._charge(share, ended - begun - (COLLECTOR.seconds - collected), ended)
        if self._shares.get(peer) is not share:
            self._leave_debt(share)
        elif share.work is not None:
            share.is_new = False
            self._push(peer, share)
        elif share.then is not None:
            then, share.then = share.then, None
            then()
        return ended

    def _charge(self, share: _Share, seconds: float, now: float) -> None:
        if seconds >= _LONG_SECONDS:
            seconds = self._of_this_thread(seconds)
            if seconds >= _LONG_SECONDS:
                self._strained_until = now + _STRAINED_SECONDS
                self._has_company = now - seconds - self._short_ended < _AT_WORK_SECONDS
                self._long_ended = self._pays_from = now
                self._patience = max(_PATIENCE_FOR_OTHERS_SECONDS, seconds * _PATIENCE_PART)
        else:
            self._charged += seconds
            self._short_ended = now
            self._has_company = True
        share.cost = seconds
        share.ends = share.starts + seconds

    def _of_this_thread(self, seconds: float) -> float:
        """Return what of *seconds*, the last slice, this thread has run."""
        cpu = self._cpu_seconds()
        ran = cpu - self._cpu - self._charged
        self._cpu, self._charged = cpu, 0.0
        return max(0.0, min(seconds, ran))

    # Judging after reading

    def after_reading(self, judge: Work, late_seconds: float = 0.0) -> None:
        """
        Call *judge* once what is in the sockets now has been read: at once if there is nothing.

        Args:
            judge: Holds a deadline against a peer.
            late_seconds: How late it is already. After a gap (the process was
                stopped, the machine suspended) it waits longer than in a turn like any other.
        """
        if not self._is_real or not (self.reactor_reads or self._waiting or self.is_unread()):
            judge()
            return
        late = late_seconds if late_seconds > _PATIENCE_SECONDS else 0.0
        patience = min(max(_PATIENCE_SECONDS, late), _LONGEST_PATIENCE_SECONDS)
        self._judgements.append(_Judgement(judge, self.seconds() + patience))
        self.wake()

    def _judge(self) -> None:
        judgements, self._judgements = self._judgements, []
        first = min((serial for _, serial, _, share in self._waiting if share.work is not None), default=self._serial)
        now = self.seconds()
        for judgement in judgements:
            if judgement.serial is not None and (judgement.serial <= first or now >= judgement.until):
                judgement.judge()
            else:
                self._judgements.append(judgement)

    # In the reactor

    def wake(self) -> None:
        """Go on after the reactor has looked at everything else, or when resting is over."""
        wait = 0.0 if self._resumes is None or self._judgements else max(0.0, self._resumes - self.seconds())
        if self._call is not None:
            self._call.cancel()
        self._call = self._clock.callLater(wait, self._go_on)

    def _go_on(self) -> None:
        self._call = None
        self.run_turn()
        if self._judgements:
            self._judge()
        if self._waiting or self._judgements:
            self.wake()

    def stop(self) -> None:
        """Leave no timer behind."""
        self._shares.clear()
        self._waiting.clear()
        self._newcomers.clear()
        self._newcomer = None
        self._judgements.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None
