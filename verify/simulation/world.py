"""
The events and their order, all drawn from one seed.

A step is one act of one peer, one delivery of bytes, or one advance of time.
A run is a series of epochs. Each starts a broker with other limits and ends in
calm: open jobs must end, all peers leave, and no state may remain.
"""

from __future__ import annotations

import gc
import random as global_random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any, cast

from twisted.internet.interfaces import IReactorCore
from twisted.logger import globalLogPublisher

from gloom.server.service import BrokerService, memory_surroundings
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.transport.turns import SLICE_SECONDS

from . import memory, steps
from .bounds import Bound
from .census import CENSUS_STEPS, Census
from .clients import ClientMaster, ClientSlave, OrderedSet
from .clock import Clock, VirtualTime
from .dropping import Log
from .memory import Memory
from .mirror import Mirror
from .network import ConnectingEndpoint, ListeningEndpoint, Network
from .raw import MAX_FRAME_BYTES
from .rawmaster import RawMaster
from .rawslave import RawSlave
from .recount import check_empty, check_quickly, recount

#: Number of steps between two full recounts.
RECOUNT_STEPS = 16
_EPOCH_STEPS = 20_000
_CALM_TURNS = 40_000
# Bounds of loops that must end: many times their maximum in a million steps.
_MOST_TRIES = 1_000
_MOST_DRAIN_STEPS = 100_000
_MOST_MOMENTS = 100_000
_MOST_FORGETTING = 100_000


class SimulationFailed(AssertionError):
    """A guarantee was broken; the text names the seed and the step."""


@dataclass
class Figures:
    """Counts of events."""

    steps: int = 0
    jobs: int = 0
    client_answers: int = 0
    drops: int = 0
    stalls: int = 0
    gaps: int = 0
    restarts: int = 0
    drains: int = 0
    alarms: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class World:
    """
    A broker, its peers and the network between them.

    Args:
        seed: Determines the whole run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.time = VirtualTime()
        self.network = Network(self.time, self.random)
        self.figures = Figures()
        self.bodies = 0
        self.drops = 0
        self.client_answers = 0
        #: Bodies of jobs that received an answer unreadable to every client.
        self.unreadable: set[int] = set()
        #: Errors for which clients have given connections up.
        self.broke: list[Any] = []
        self.memory = Memory()
        self.clients_clock = Clock(self.time)
        self.master_endpoint = ConnectingEndpoint(self.network, self.clients_clock, MASTER_PORT)
        self.slave_endpoint = ConnectingEndpoint(self.network, self.clients_clock, SLAVE_PORT)
        #: The latest messages of raw peers: step, peer, direction, message.
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=40)
        self._worked_seconds = 0.0
        self._log = Log(self.network)
        self._census = Census()
        self._stopping: Any = None

    def run(self, steps_wanted: int, begin_epoch: Callable[[], None] = lambda: None) -> Figures:
        """
        Run so many steps, and then more until the world is calm.

        Args:
            steps_wanted: Number of steps.
            begin_epoch: Called at the start of each epoch.

        Raises:
            SimulationFailed: A guarantee was broken.
        """
        begun = process_time()
        state = global_random.getstate()
        global_random.seed(self.seed)  # the clients' pauses
        globalLogPublisher.addObserver(self._log)
        try:
            with self._census.taken(), steps.kept():
                self._live(steps_wanted, begin_epoch)
        except Exception as error:
            text = f"seed {self.seed}, step {self.figures.steps}: {type(error).__name__}: {error}"
            before = (" ".join(map(str, event))[:500] for event in self.trace)
            lines = [text, *self._log.texts(), *self._state(), "before that:", *before]
            raise SimulationFailed("\n".join(lines)) from error
        finally:
            globalLogPublisher.removeObserver(self._log)
            global_random.setstate(state)
        figures = self.figures
        figures.client_answers, figures.drops = self.client_answers, figures.drops + self.drops
        figures.dropped, figures.alarms = self._log.dropped, self.memory.alarms
        figures.virtual_seconds = self.time.now
        figures.cpu_seconds = process_time() - begun
        return figures

    def _state(self) -> list[str]:
        """Return the open work, in some lines of text."""
        ends, calls = self.network.alive(), self.broker_clock.getDelayedCalls()
        return [
            f"at {self.time.now!r} s of virtual time, next call at {self.time.next()!r}; "
            f"{len(self.mirror.jobs)} jobs in flight, {len(self.mirror.forsaken)} forsaken, "
            f"{len(self.mirror.masters)} masters and {len(self.mirror.slaves)} slaves, {len(ends)} ends of connections",
            f"draining: {self._stopping is not None}; calls of the broker: "
            + ", ".join(f"{call.func} at {call.time!r}" for call in calls[:10]),
        ]

    def _live(self, steps_wanted: int, begin_epoch: Callable[[], None]) -> None:
        begin_epoch()
        self._populate()
        while self.figures.steps < steps_wanted:
            begin_epoch()
            self._epoch(min(_EPOCH_STEPS, steps_wanted - self.figures.steps))
        self._end()

    def _populate(self) -> None:
        self.start_broker()
        self.raw_masters = [RawMaster(self, MASTER_PORT, number > 1, number) for number in range(5)]
        self.raw_slaves = [RawSlave(self, SLAVE_PORT, number % 3 != 2, number) for number in range(6)]
        self.client_masters = [ClientMaster(self, number) for number in range(2)]
        self.client_slaves = [ClientSlave(self, number) for number in range(3)]
        self._actors: list[Any] = [*self.raw_masters, *self.raw_slaves, *self.client_masters, *self.client_slaves]
        # In the calm, where few connections are allowed, they make room for a slave that takes all types.
        self._retiring = self.raw_slaves[1:]

    # The broker's life

    def start_broker(self) -> None:
        """Start a broker without state, with limits of its own."""
        settings = self._settings()
        steps.draw(self.random)
        self.broker_clock = Clock(self.time)
        self.around = memory_surroundings(settings, self.broker_clock)
        turns = self.around.turns
        turns.seconds = self._seconds_of_work
        # The processor clock, too: otherwise no seed would replay exactly.
        turns._cpu_seconds = self._seconds_of_work
        # As with the real poller: the broker reads its sockets before it judges any peer.
        turns._is_real = True
        turns.look = lambda turns: self.network.broker_reads()
        turns.is_unread = self.network.broker_has_unread
        self.mirror = Mirror(self.around.broker, settings, self.memory)
        self._memory_alarm = self.memory.alarm_for(self.around.broker, self.broker_clock)
        self.around.broker = self.mirror
        self.around.alarm.ring = self.mirror.deadline_passed
        endpoints = [ListeningEndpoint(self.network, port) for port in (MASTER_PORT, SLAVE_PORT)]
        self.service = BrokerService(cast(IReactorCore, self.broker_clock), self.around, endpoints[:1], endpoints[1:])
        self.factories: tuple[Any, ...] = (self.service.masters, self.service.slaves)
        factory: Any
        for factory in self.factories:
            factory.peers, factory.turned_away = OrderedSet(), OrderedSet()
            factory.buildProtocol = self._counting(factory.buildProtocol)
        self.service.startService()
        self._memory_alarm.startService()

    def _seconds_of_work(self) -> float:
        """Return the broker's time within a turn: sometimes its work takes longer than a slice."""
        self.time.count("a look at the time")
        if self.random.random() < 0.3:
            self._worked_seconds += 1.5 * SLICE_SECONDS
        return self.time.now + self._worked_seconds

    def _counting(self, build: Any) -> Any:
        return lambda address: self._census.born(build(address))

    def _settings(self) -> Settings:
        choose = self.random.choice
        settings = Settings(
            max_frame_bytes=MAX_FRAME_BYTES,
            retries=choose((0, 1, 3)),
            max_jobs=choose((8, 40, 100)),
            master_share=choose((0.3, 1.0)),
            max_connections=choose((12, 1000)),
            pause_unread_bytes=choose((500, 2000)),
            unread_seconds=choose((2.0, 10.0)),
            least_read_bytes=choose((1, 1000)),
            max_joined_types=choose((40, 100_000)),
            stall_seconds=choose((2.0, 30.0)),
            linger_seconds=choose((0.3, 1.0)),
            drain_seconds=choose((0.0, 1.0, 30.0)),
        )
        # Low enough for the small jobs here; the broker's own options have a higher minimum.
        object.__setattr__(settings, "max_queued_bytes", choose((4000, 100_000)))
        object.__setattr__(settings, "max_unread_bytes", choose((1000, 16_000)))
        object.__setattr__(settings, "max_total_unread_bytes", choose((2500, 1_000_000)))
        return settings

    def crash(self) -> None:
        """End the broker as SIGKILL does, as its peers see it, and start another."""
        self.figures.restarts += 1
        for port in (MASTER_PORT, SLAVE_PORT):
            self.network.listeners.pop(port, None)
        for factory in self.factories:
            factory.abort()
        self._turn()
        self.around.stop()
        self._broker_is_gone()

    def _broker_is_gone(self) -> None:
        self._turn()
        # Its alarm, stopped by now, may have waited for the sockets; finish the stepwise removal here.
        forgetting = Bound("forgetting in steps", _MOST_FORGETTING)
        while (following := self.mirror.deadline_passed(self.time.now)) is not None and following <= self.time.now:
            forgetting.count()
        self._memory_alarm.stopService()
        self.around.alarm.stop()
        self._count()
        check_empty(self.mirror, self.around, self.factories)
        self._census.check(self.mirror, self.factories)
        left = self.broker_clock.getDelayedCalls()
        assert not left, f"the broker left calls: {left}"
        self._stopping = None
        self.start_broker()

    def drain(self) -> None:
        """End the broker as SIGTERM does; `_step` starts another when it has stopped."""
        if self._stopping is None:
            self.figures.drains += 1
            self._stopping = self.service.stopService()
            self._stopping.addErrback(self._stop_failed)

    def _stop_failed(self, failure: Any) -> None:
        raise AssertionError(failure.getTraceback())

    def _count(self) -> None:
        self.figures.jobs += self.mirror.accepted
        self.figures.outcomes += self.mirror.outcomes

    # Steps

    def _epoch(self, steps: int) -> None:
        for _ in range(steps):
            self._step()
            self._check()
        self._calm_down()
        if self.random.random() < 0.5:
            self.crash()
        else:
            self.drain()
            draining = Bound("a drain", _MOST_DRAIN_STEPS)
            while self._stopping is not None:
                draining.count()
                self._step()
                self._check()

    def _check(self) -> None:
        self._log.check()
        assert not self.broke, f"a client gave its connection up: {self.broke}"
        if self.figures.steps % RECOUNT_STEPS:
            check_quickly(self.mirror)
        else:
            self._recount()
        if self.figures.steps % CENSUS_STEPS == 0:
            self._census.check(self.mirror, self.factories)

    def _recount(self) -> None:
        now, due = self.time.now, self.time.next()
        recount(self.mirror, self.around, now, due is not None and due <= now, self.factories)

    def _step(self) -> None:
        self.figures.steps += 1
        trying = Bound("the search for something that can happen", _MOST_TRIES)
        while not self._try_something():
            trying.count()
        # A reactor serves several connections before it makes its calls.
        chance = self.random.random()
        if chance < 0.5:
            self._turn()
        elif chance < 0.7:
            self.network.turn()

    def _try_something(self) -> bool:
        """Return whether something happened: a peer may have nothing to do, the network nothing to deliver."""
        chance = self.random.random()
        if chance < 0.5:
            return self.network.deliver()
        if chance < 0.93:
            actors = self._actors
            return bool(actors[int(self.random.random() * len(actors))].act())
        if chance < 0.99:
            self._advance()
        else:
            self._have_a_fault()
        return True

    def _advance(self) -> None:
        """Advance time: mostly a little, sometimes beyond every deadline."""
        chance = self.random.random()
        longest = 0.1 if chance < 0.95 else 2.0 if chance < 0.995 else 60.0
        self._advance_to(self.time.now + longest * self.random.random())

    def _advance_to(self, until: float) -> None:
        moments = Bound("the way to one moment", _MOST_MOMENTS)
        while (when := self.time.next()) is not None and when <= until:
            moments.count()
            self.time.now = max(self.time.now, when)
            self._turn()
        self.time.now = until

    def _have_a_fault(self) -> None:
        chance = self.random.random()
        ends = self.network.alive()
        if chance > 0.9:
            self._stand_still()
        elif chance > 0.85:
            self.memory.free_bytes = self.random.choice(memory.LEVELS)
        elif chance < 0.003:
            self.crash()
        elif chance < 0.006:
            self.drain()
        elif chance < 0.008 and self._stopping is not None:
            self.service.hurry()
        elif ends and chance < 0.4:
            self.figures.drops += 1
            self.random.choice(ends).abortConnection()
        elif ends:
            self.figures.stalls += 1
            self.random.choice(ends).stalled_until = self.time.now + self.random.choice((0.1, 1, 10, 100))

    def _stand_still(self) -> None:
        """Stop the broker, as SIGSTOP does. Its peers go on and its sockets fill; afterwards its timers run first."""
        self.figures.gaps += 1
        begun = self.time.now
        self.time.hold(self.broker_clock)
        self.network.stands_still = True
        acts = 1 + int(self.random.random() * 20)
        pause = self.random.uniform(0.05, 5.0) / acts
        for _ in range(acts):
            self.random.choice(self._actors).act()
            self.network.deliver()
            self._advance_to(self.time.now + pause)
        self.network.stands_still = False
        self.network.stood_still(begun)
        self.time.release()
        self._turn()

    def _turn(self) -> None:
        while self.time.turn() | self.network.turn():
            self.time.count("a turn")
        if self._stopping is not None and self._stopping.called:
            self._stopping = None
            self._broker_is_gone()

    # The end

    def _calm_down(self) -> None:
        """Stop faults and new jobs: all open work must end."""
        self.memory.free_bytes = memory.MOST_BYTES
        for actor in self._actors:
            actor.is_calm = True
        for peer in [*self.raw_masters, *self.raw_slaves]:
            # TCP_USER_TIMEOUT ends the connection of a peer that has closed and no longer reads.
            if peer.wire is not None and (peer in self._retiring or peer.wire.is_dying):
                peer.wire.end.abortConnection()
        self._live_calmly()
        self._check_that_all_has_ended()
        for actor in self._actors:
            actor.is_calm = False

    def _live_calmly(self) -> None:
        active = [actor for actor in self._actors if actor not in self._retiring]
        for turn in range(_CALM_TURNS):
            if turn % 1000 == 0:
                for end in self.network.ends:
                    end.stalled_until = 0.0
            if self.network.deliver() or active[turn % len(active)].act():
                self.figures.steps += 1
            elif turn % 50 == 0:
                self.figures.steps += 1
                self._advance_to(self.time.now + 0.5)
            self._turn()
            self._check()
            if turn % 100 == 0 and turn > 2000 and self._is_calm():
                return

    def _check_that_all_has_ended(self) -> None:
        assert not self.mirror.jobs, f"jobs that never end: {list(self.mirror.jobs)}"
        for master in self.raw_masters:
            assert not master.wire or not master.open, f"no outcome for {list(master.open)}"
            assert not master.wire or master.wire.is_dying or not master.wire.expected, "a request without a reply"
        for client in self.client_masters:
            assert not client.waiting, f"Deferreds that never fire: {list(client.waiting)}"

    def _is_calm(self) -> bool:
        return (
            not self.mirror.jobs
            and not any(client.waiting for client in self.client_masters)
            and not any(master.wire and (master.open or master.wire.expected) for master in self.raw_masters)
        )

    def _end(self) -> None:
        clients: list[Any] = [*self.client_masters, *self.client_slaves]
        for client in clients:
            client.stop()
        self.network.listeners.clear()
        for end in self.network.alive():
            end.abortConnection()
        for _ in range(100):
            self._advance_to(self.time.now + 0.5)
            delivering = Bound("the last deliveries", _MOST_MOMENTS)
            while self.network.deliver():
                delivering.count()
                self._turn()
        for factory in self.factories:
            factory.abort()
        self._turn()
        self.around.stop()
        self._memory_alarm.stopService()
        self._count()
        check_empty(self.mirror, self.around, self.factories)
        self._census.check(self.mirror, self.factories)
        left = [*self.broker_clock.getDelayedCalls(), *self.clients_clock.getDelayedCalls()]
        assert not left, f"calls that are left: {left}"
        assert not self.network.alive()
        gc.collect()
        self._log.check()
