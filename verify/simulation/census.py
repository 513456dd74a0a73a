"""
Which of the broker's objects live, held against those that can be reached from the broker.

Something that was forgotten and lives all the same is a leak, whether the garbage
collector would find it or not: it does not follow jobs (decision 14), so what a
job refers to, its master and its connection, would live as long as the process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import gloom.broker.crews
import gloom.broker.lines
import gloom.broker.memory
from gloom.broker.records import Crew, Job, Line, Master, Slave

from .mirror import Mirror

#: After so many steps all that lives is counted.
CENSUS_STEPS = 100


class Census:
    """
    All objects of a run that live.

    Only objects that are made within `taken` are counted, of the broker's records;
    a connection is counted when it is told of by `born`.
    """

    def __init__(self) -> None:
        self._living: dict[type, WeakSet[Any]] = {kind: WeakSet() for kind in (Line, Crew, Master, Slave)}
        # Nothing may refer weakly to what the collector does not follow.
        self._jobs = 0
        self._connections: WeakSet[Any] = WeakSet()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count what is made meanwhile."""
        modules: tuple[Any, ...] = (gloom.broker.memory, gloom.broker.lines, gloom.broker.crews)
        known = [(module, name, getattr(module, name)) for module in modules for name in _names_in(module)]
        for module, name, kind in known:
            setattr(module, name, self._counted(kind))
        try:
            yield
        finally:
            for module, name, kind in known:
                setattr(module, name, kind)

    def _counted(self, kind: Any) -> Any:
        if kind is Job:
            return self._counted_job()
        living = self._living[kind]

        class Counted(kind):
            __slots__ = ("__weakref__",)

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                living.add(self)

        return Counted

    def _counted_job(self) -> Any:
        census = self

        class CountedJob(Job, eq=False, gc=False):
            def __post_init__(self) -> None:
                census._jobs += 1

            def __del__(self) -> None:
                census._jobs -= 1

        return CountedJob

    def born(self, connection: Any) -> Any:
        """Count *connection*, and return it."""
        self._connections.add(connection)
        return connection

    def check(self, mirror: Mirror, factories: Any) -> None:
        """Compare what lives with what the broker and the factories know."""
        problem = self._problem(mirror, factories)
        if problem:
            # The traceback of a refusal may be in a circle with what it was raised for.
            gc.collect()
            problem = self._problem(mirror, factories)
        assert not problem, problem

    def _problem(self, mirror: Mirror, factories: Any) -> str | None:
        broker = mirror.broker
        pairing = broker._pairing
        known: dict[type, set[Any]] = {
            Line: set(broker._lines),
            Crew: {*pairing.crews.by_types.values(), *pairing.crews.deserted},
            Master: {*(master.record for master in mirror.masters), *broker._gone_masters},
            Slave: {slave.record for slave in mirror.slaves},
        }
        if self._jobs != len(broker._jobs):
            return f"{self._jobs} jobs live, and {len(broker._jobs)} are in flight"
        for kind, things in known.items():
            strays = set(self._living[kind]) - things
            if strays:
                return f"{len(strays)} of {kind.__name__} live, and the broker has forgotten them"
        around = factories[0].around
        known_connections = {peer for factory in factories for peer in (*factory.peers, *factory.turned_away)}
        # A turn that has not come yet would have sent something to these.
        known_connections.update(around.flushes._waiting, around.answers._waiting)
        left = set(self._connections) - known_connections
        return f"{len(left)} connections live that have ended" if left else None


def _names_in(module: Any) -> list[str]:
    return [kind.__name__ for kind in (Job, Line, Crew, Master, Slave) if hasattr(module, kind.__name__)]
