"""A broker without a wire, told the time by hand, and the peers that a test puts before it."""

from __future__ import annotations

from typing import Any

from gloom.broker.memory import MemoryBroker
from gloom.broker.records import Master, Slave
from gloom.broker.values import BASE_TERMS, JobKey, Terms
from gloom.settings import Settings
from tests.support.recording import OK, RecordingMaster, RecordingSlave, Told, payload_of, picture


class Floor:
    """
    A broker with its clock.

    Attributes:
        now: What the broker is told.
        journal: All that its peers were told: (name, what).
        drained: How often the broker has said so.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.broker = MemoryBroker(self.settings, self._set_alarm)
        self.now = 0.0
        self.journal: list[tuple[str, Told]] = []
        self.drained = 0
        self._alarm: float | None = None
        self._peers: list[AMaster | ASlave] = []

    def _set_alarm(self, when: float) -> None:
        self._alarm = when if self._alarm is None else min(self._alarm, when)

    def wait(self, seconds: float) -> None:
        """Let time pass, with the broker's alarm ringing exactly when it was set to."""
        until = self.now + seconds
        while self._alarm is not None and self._alarm <= until:
            self.now, self._alarm = max(self.now, self._alarm), None
            following = self.broker.deadline_passed(self.now)
            if following is not None:
                self._alarm = following
        self.now = until

    def drain(self) -> None:
        def drained() -> None:
            self.drained += 1

        self.broker.drain(self.now, drained)

    def master(self, name: str = "master") -> AMaster:
        master = AMaster(self, RecordingMaster(name, self.journal))
        self._peers.append(master)
        return master

    def slave(self, name: str = "slave") -> ASlave:
        slave = ASlave(self, RecordingSlave(name, self.journal))
        self._peers.append(slave)
        return slave

    def joined(self, *types: str | None, name: str = "slave", slots: int = 1) -> ASlave:
        """A slave that has joined, "echo" unless types are given, and has read its ok (and its first jobs)."""
        slave = self.slave(name)
        slave.join(*types, slots=slots)
        assert slave.take()[:1] == [OK]
        return slave

    def is_empty(self) -> bool:
        """Whether only what an unused broker has is left."""
        unused = picture(MemoryBroker(self.settings, self._set_alarm))
        return picture(self.broker) | {"submitted": 0} == unused

    def everybody_goes(self) -> None:
        """Have all peers lose their connection; what the broker still keeps then is a leak."""
        for peer in self._peers:
            peer.lost()
        self.wait(0.0)
        assert self.is_empty()
        assert len(self.broker._deadlines) == 0


class AMaster:
    """A master's verbs, short."""

    def __init__(self, floor: Floor, peer: RecordingMaster) -> None:
        self.floor = floor
        self.peer = peer
        self.take = peer.take
        self.record: Master = floor.broker.master_connected(peer)

    def submit(self, id: JobKey, type: str | None = "echo", priority: int = 0, **terms: Any) -> None:
        asked = Terms(**terms) if terms else BASE_TERMS
        self.floor.broker.submit(self.record, id, type, priority, payload_of(id), asked, self.floor.now)

    def queue(self, *ids: JobKey, type: str | None = "echo", **terms: Any) -> AMaster:
        """Submit *ids*, and forget the ok of each."""
        for id in ids:
            self.submit(id, type, **terms)
        self.take()
        return self

    def cancel(self, id: JobKey) -> None:
        self.floor.broker.cancel(self.record, id, self.floor.now)

    def lost(self) -> None:
        self.floor.broker.master_lost(self.record, self.floor.now)


class ASlave:
    """A slave's verbs, short."""

    def __init__(self, floor: Floor, peer: RecordingSlave) -> None:
        self.floor = floor
        self.peer = peer
        self.name = peer.name
        self.take = peer.take
        self.record: Slave = floor.broker.slave_connected(peer)

    def join(self, *types: str | None, slots: int = 1) -> None:
        """Join *types*, "echo" if there are none, and untyped jobs."""
        self.floor.broker.join(self.record, (*(types or ("echo",)), None), slots, self.floor.now)

    def leave(self) -> None:
        self.floor.broker.leave(self.record)

    def respond(self, body: bytes = b"1", id: JobKey | None = None) -> None:
        self.floor.broker.respond(self.record, id, body, self.floor.now)

    def progress(self, body: bytes = b"0.5", id: JobKey | None = None) -> None:
        self.floor.broker.progress(self.record, id, body)

    def fail(self, reason: str = "no", kind: str | None = None, retry: bool = False, id: JobKey | None = None) -> None:
        self.floor.broker.fail(self.record, id, reason, kind, None, retry, self.floor.now)

    def lost(self) -> None:
        self.floor.broker.slave_lost(self.record, self.floor.now)
