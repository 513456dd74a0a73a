"""
What happens, and in which order: all of it drawn from one seed.

A step is one act of one peer, one delivery of bytes, or one advance of time.
Epochs follow each other; each begins a broker with other limits and ends in
calm: what is open must end, all must go, and nothing may be left.
"""

from __future__ import annotations

import gc
import random as global_random
from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any, cast

from twisted.internet.interfaces import IReactorCore
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from gloom.server import protocols
from gloom.server.peers import PeerProtocol
from gloom.server.service import BrokerService, memory_surroundings
from gloom.settings import MASTER_PORT, SLAVE_PORT, Settings
from gloom.transport import framing
from gloom.transport.turns import SLICE_SECONDS

from .census import CENSUS_STEPS, Census
from .clients import ClientMaster, ClientSlave
from .clock import Clock, VirtualTime
from .mirror import Mirror
from .network import ConnectingEndpoint, ListeningEndpoint, Network
from .raw import RawMaster, RawSlave
from .recount import check_empty, check_quickly, recount

#: After so many steps everything is counted anew.
RECOUNT_STEPS = 16
_EPOCH_STEPS = 20_000
_CALM_TURNS = 40_000
# As in gloom.transport.sending: the bytes that a transport sends count when it has sent them all.
_PROBE_BYTES = 4096
_ROUNDING_SECONDS = 1e-6


class SimulationFailed(AssertionError):
    """A promise was broken; the text says with which seed and at which step."""


@dataclass
class Figures:
    """What has happened."""

    steps: int = 0
    jobs: int = 0
    client_answers: int = 0
    drops: int = 0
    stalls: int = 0
    gaps: int = 0
    restarts: int = 0
    drains: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    virtual_seconds: float = 0.0
    cpu_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


class OrderedSet(dict[Any, None]):
    """Stands for the sets of connections: in the order of a set of objects no run is like the other."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


@implementer(ILogObserver)
class _Log:
    """
    Hears of what gloom and Twisted would only log.

    Attributes:
        dropped: How many peers the broker has dropped, by reason.
        wrong: Those that it should not have dropped: an exception would not come out of here.
    """

    def __init__(self, time: VirtualTime) -> None:
        self.events: list[LogEvent] = []
        self.dropped: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._time = time

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            self.events.append(event)
        elif isinstance(event["log_source"], PeerProtocol) and "reason" in event:
            self._judge(event["log_source"], event["reason"])
        # Twisted keeps events until a log begins, and with them the connections that logged.
        event.pop("log_source", None)
        event.pop("log_logger", None)

    def check(self) -> None:
        if self.events:
            raise AssertionError("an error was logged")
        assert not self.wrong, f"dropped by the broker: {self.wrong}"

    def _judge(self, peer: Any, reason: str) -> None:
        """Hold what the network knows against why the broker has dropped *peer*."""
        end, settings, now = peer.transport, peer._settings, self._time.now
        if reason.startswith("it does not read"):
            kind = "did not read"
            is_right = end.taken_since(now - settings.unread_seconds) < settings.least_read_bytes + _PROBE_BYTES
        elif reason.startswith("it reads slowest"):
            kind = "read slowest"
            is_right = peer.factory.around.unread.bytes > settings.max_total_unread_bytes * 7 // 8
        elif "heartbeat" in reason:
            kind = "silent"
            since = now - peer._heartbeat_seconds + _ROUNDING_SECONDS
            # One that is not read from cannot be heard, and must take something instead.
            # What it has sent before is in the socket, though the broker stood still: that counts as heard.
            is_right = (
                end.heard < since
                and not (end.is_readable() and end.inbox)
                and not (peer.paused and end.taken_since(since) > _PROBE_BYTES)
            )
        else:
            kind = "stood half way"
            is_right = "half way" in reason
        if not is_right:
            self.wrong.append(f"{peer.name}: {reason}")
        self.dropped[kind] += 1


def _text_of(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return str(failure.getTraceback() if failure else formatEvent(event))


class World:
    """
    A broker, its peers and the net between them.

    Args:
        seed: Everything follows from it.
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
        self.clients_clock = Clock(self.time)
        self.master_endpoint = ConnectingEndpoint(self.network, self.clients_clock, MASTER_PORT)
        self.slave_endpoint = ConnectingEndpoint(self.network, self.clients_clock, SLAVE_PORT)
        #: What raw peers said and heard last: step, who, direction, message.
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=40)
        self._worked_seconds = 0.0
        self._log = _Log(self.time)
        self._census = Census()
        self._stopping: Any = None

    def run(self, steps: int) -> Figures:
        """
        Let *steps* steps happen, and some more until there is calm.

        Raises:
            SimulationFailed: A promise was broken.
        """
        begun = process_time()
        state = global_random.getstate()
        global_random.seed(self.seed)  # the clients' pauses
        steps_of_work = framing.STEP_BYTES, protocols.JOBS_A_STEP
        framing.STEP_BYTES, protocols.JOBS_A_STEP = 20, 1  # what is sent here is small
        globalLogPublisher.addObserver(self._log)
        try:
            with self._census.taken():
                self._live(steps)
        except Exception as error:
            text = f"seed {self.seed}, step {self.figures.steps}: {type(error).__name__}: {error}"
            logged = map(_text_of, self._log.events)
            before = (" ".join(map(str, event)) for event in self.trace)
            raise SimulationFailed("\n".join([text, *logged, "before that:", *before])) from error
        finally:
            globalLogPublisher.removeObserver(self._log)
            framing.STEP_BYTES, protocols.JOBS_A_STEP = steps_of_work
            global_random.setstate(state)
        figures = self.figures
        figures.client_answers, figures.drops = self.client_answers, figures.drops + self.drops
        figures.dropped = self._log.dropped
        figures.virtual_seconds = self.time.now
        figures.cpu_seconds = process_time() - begun
        return figures

    def _live(self, steps: int) -> None:
        self._populate()
        while self.figures.steps < steps:
            self._epoch(min(_EPOCH_STEPS, steps - self.figures.steps))
        self._end()

    def _populate(self) -> None:
        self.start_broker()
        self.raw_masters = [RawMaster(self, MASTER_PORT, number > 1, number) for number in range(5)]
        self.raw_slaves = [RawSlave(self, SLAVE_PORT, number % 3 != 2, number) for number in range(6)]
        self.client_masters = [ClientMaster(self, number) for number in range(2)]
        self.client_slaves = [ClientSlave(self, number) for number in range(3)]
        self._actors: list[Any] = [*self.raw_masters, *self.raw_slaves, *self.client_masters, *self.client_slaves]
        # In the calm they make room for one that takes all types, where few connections are allowed.
        self._retiring = self.raw_slaves[1:]

    # The broker's life

    def start_broker(self) -> None:
        """Begin a broker that knows nothing, with limits of its own."""
        settings = self._settings()
        self.broker_clock = Clock(self.time)
        self.around = memory_surroundings(settings, self.broker_clock)
        turns = self.around.turns
        turns.seconds = self._seconds_of_work
        # The processor's time too, or no seed replays exactly.
        turns._cpu_seconds = self._seconds_of_work
        # As with a real clock: before anybody is judged, what is in the sockets is read.
        turns._is_real = True
        turns.look = lambda turns: self.network.broker_reads()
        turns.is_unread = self.network.broker_has_unread
        self.mirror = Mirror(self.around.broker, settings)
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

    def _seconds_of_work(self) -> float:
        """Return the broker's time within a turn: now and then its work takes longer than a slice."""
        if self.random.random() < 0.3:
            self._worked_seconds += 1.5 * SLICE_SECONDS
        return self.time.now + self._worked_seconds

    def _counting(self, build: Any) -> Any:
        return lambda address: self._census.born(build(address))

    def _settings(self) -> Settings:
        choose = self.random.choice
        settings = Settings(
            max_frame_bytes=4096,
            retries=choose((0, 1, 3)),
            max_jobs=choose((8, 40, 100)),
            master_share=choose((0.3, 1.0)),
            max_connections=choose((12, 1000)),
            pause_unread_bytes=choose((500, 2000)),
            unread_seconds=choose((2.0, 10.0)),
            least_read_bytes=choose((1, 1000)),
            stall_seconds=choose((2.0, 30.0)),
            drain_seconds=choose((0.0, 1.0, 30.0)),
        )
        # So little that the small jobs here reach it: a broker's own options begin higher.
        object.__setattr__(settings, "max_queued_bytes", choose((4000, 100_000)))
        object.__setattr__(settings, "max_unread_bytes", choose((1000, 16_000)))
        object.__setattr__(settings, "max_total_unread_bytes", choose((2500, 1_000_000)))
        return settings

    def crash(self) -> None:
        """End the broker as SIGKILL does, as far as its peers can tell, and begin another."""
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
        # Its alarm, stopped by now, may have waited for the sockets: what is forgotten in steps is forgotten here.
        while (following := self.mirror.deadline_passed(self.time.now)) is not None and following <= self.time.now:
            pass
        self._count()
        check_empty(self.mirror, self.around, self.factories)
        self._census.check(self.mirror, self.factories)
        left = self.broker_clock.getDelayedCalls()
        assert not left, f"the broker left calls: {left}"
        self._stopping = None
        self.start_broker()

    def drain(self) -> None:
        """End the broker as SIGTERM does; `_step` begins another when it has stopped."""
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
            while self._stopping is not None:
                self._step()
                self._check()

    def _check(self) -> None:
        self._log.check()
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
        while not self._try_something():
            pass
        # A reactor reads from and writes to several connections before it makes its calls.
        chance = self.random.random()
        if chance < 0.5:
            self._turn()
        elif chance < 0.7:
            self.network.turn()

    def _try_something(self) -> bool:
        """Return whether something happened: a peer may have nothing to do, the net nothing to deliver."""
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
        """Let time pass: mostly little, and sometimes more than anyone waits."""
        chance = self.random.random()
        longest = 0.1 if chance < 0.95 else 2.0 if chance < 0.995 else 60.0
        self._advance_to(self.time.now + longest * self.random.random())

    def _advance_to(self, until: float) -> None:
        while (when := self.time.next()) is not None and when <= until:
            self.time.now = max(self.time.now, when)
            self._turn()
        self.time.now = until

    def _have_a_fault(self) -> None:
        chance = self.random.random()
        ends = self.network.alive()
        if chance > 0.9:
            self._stand_still()
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
        """Stop the broker, as SIGSTOP does, while its peers go on and its sockets fill; its timers come first then."""
        self.figures.gaps += 1
        self.time.hold(self.broker_clock)
        self.network.stands_still = True
        acts = 1 + int(self.random.random() * 20)
        pause = self.random.uniform(0.05, 5.0) / acts
        for _ in range(acts):
            self.random.choice(self._actors).act()
            self.network.deliver()
            self._advance_to(self.time.now + pause)
        self.network.stands_still = False
        self.time.release()
        self._turn()

    def _turn(self) -> None:
        while self.time.turn() | self.network.turn():
            pass
        if self._stopping is not None and self._stopping.called:
            self._stopping = None
            self._broker_is_gone()

    # The end

    def _calm_down(self) -> None:
        """No more faults and no new jobs: everything that is open must end."""
        for actor in self._actors:
            actor.is_calm = True
        for peer in [*self.raw_masters, *self.raw_slaves]:
            # One that has closed and reads no more is ended by TCP_USER_TIMEOUT.
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
            while self.network.deliver():
                self._turn()
        for factory in self.factories:
            factory.abort()
        self._turn()
        self.around.stop()
        self._count()
        check_empty(self.mirror, self.around, self.factories)
        self._census.check(self.mirror, self.factories)
        left = [*self.broker_clock.getDelayedCalls(), *self.clients_clock.getDelayedCalls()]
        assert not left, f"calls that are left: {left}"
        assert not self.network.alive()
        gc.collect()
        self._log.check()
