"""
Live objects of the broker, compared with those reachable from the broker.

An object that the broker has removed but that is still alive is a leak, whether or not
the garbage collector would find it. The collector does not track jobs and lines (decision 14),
so the objects that one refers to, its master and its connection, would live as long as the process.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakSet

import gloom.broker.crews
import gloom.broker.lines
import gloom.broker.memory
from gloom.broker.records import Crew, Job, Line, Master, Slave

from .mirror import Mirror

#: Number of steps between two counts of all live objects.
CENSUS_STEPS = 100


class Census:
    """
    All live objects of a run.

    Of the broker's records, it counts only objects created within `taken`;
    it counts a connection once `born` has registered it.
    """

    def __init__(self) -> None:
        self._living: dict[type, WeakSet[Any]] = {kind: WeakSet() for kind in (Crew, Master, Slave)}
        # Objects that the collector does not track allow no weak references.
        self._unfollowed: Counter[type] = Counter()
        self._connections: WeakSet[Any] = WeakSet()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count the objects created within this context."""
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
        if kind not in self._living:
            return self._counted_unfollowed(kind)
        living = self._living[kind]

        class Counted(kind):
            __slots__ = ("__weakref__",)

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                living.add(self)

        return Counted

    def _counted_unfollowed(self, kind: Any) -> Any:
        census = self

        class Counted(kind, eq=False, gc=False):  # type: ignore[call-arg]
            def __post_init__(self) -> None:
                census._unfollowed[kind] += 1

            def __del__(self) -> None:
                census._unfollowed[kind] -= 1

        return Counted

    def born(self, connection: Any) -> Any:
        """Count *connection*, and return it."""
        self._connections.add(connection)
        return connection

    def check(self, mirror: Mirror, factories: Any) -> None:
        """Compare the live objects with those known to the broker and the factories."""
        problem = self._problem(mirror, factories)
        if problem:
            # The traceback of a refusal may form a reference cycle with the refused object.
            gc.collect()
            problem = self._problem(mirror, factories)
        assert not problem, problem

    def _problem(self, mirror: Mirror, factories: Any) -> str | None:
        broker = mirror.broker
        pairing = broker._pairing
        known: dict[type, set[Any]] = {
            Crew: {*pairing.crews.by_types.values(), *pairing.crews.deserted},
            Master: {*(master.record for master in mirror.masters), *broker._gone_masters},
            Slave: {slave.record for slave in mirror.slaves},
        }
        counts: dict[type, int] = {Job: len(broker._jobs), Line: len(broker._lines)}
        for kind, count in counts.items():
            if self._unfollowed[kind] != count:
                return f"{self._unfollowed[kind]} of {kind.__name__} live, and the broker has {count}"
        for kind, things in known.items():
            strays = set(self._living[kind]) - things
            if strays:
                return f"{len(strays)} of {kind.__name__} live, and the broker has forgotten them"
        around = factories[0].around
        known_connections = {peer for factory in factories for peer in (*factory.peers, *factory.turned_away)}
        # A pending turn would still send to these.
        known_connections.update(around.flushes._waiting, around.answers._waiting)
        # A pending turn would still skip these.
        known_connections.update(peer for _, _, peer, _ in around.turns._waiting)
        # The broker removes their jobs in bounded steps.
        known_connections.update(cast(Any, master.peer).peer for master in broker._gone_masters)
        left = set(self._connections) - known_connections
        return f"{len(left)} connections live that have ended" if left else None


def _names_in(module: Any) -> list[str]:
    return [kind.__name__ for kind in (Job, Line, Crew, Master, Slave) if hasattr(module, kind.__name__)]
