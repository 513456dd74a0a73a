"""A broker without a wire, on a clock that the test sets, with recording peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gloom.broker.interfaces import Body, IBroker, MasterRecord, SlaveRecord
from gloom.broker.memory import MemoryBroker
from gloom.broker.values import BASE_TERMS, JobKey, Terms
from gloom.errors import GloomError, ProtocolError
from gloom.settings import Settings
from tests.support.recording import OK, RecordingMaster, RecordingPeer, RecordingSlave, Told, payload_of, picture


@dataclass(frozen=True)
class Kind:
    """
    A kind of broker to test.

    Attributes:
        name: Its name in the names of tests.
        make: Makes a broker from its settings and its alarm, as `IBroker` says.
        picture: Returns the whole state of a broker. Equal pictures are the same state.
    """

    name: str
    make: Callable[[Settings, Callable[[float], None]], Any]
    picture: Callable[[Any], Any]


_REPLIES = ("ok", "cancelled", "cancelling")

MEMORY = Kind("memory", MemoryBroker, picture)


class Floor:
    """
    A broker with its clock.

    Attributes:
        broker: The broker.
        now: The time that the broker is told.
        alarm: The earliest time for which the broker has asked to be called.
        journal: All calls of the broker on its peers: (name, call).
        drained: The number of times that the broker has said that it is drained.
    """

    broker: IBroker

    def __init__(self, kind: Kind = MEMORY, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.broker = kind.make(self.settings, self._set_alarm)
        self.now = 0.0
        self.journal: list[tuple[str, Told]] = []
        self.drained = 0
        self._kind = kind
        self.alarm: float | None = None
        self._peers: list[AMaster | ASlave] = []

    def _set_alarm(self, when: float) -> None:
        self.alarm = when if self.alarm is None else min(self.alarm, when)

    def wait(self, seconds: float) -> None:
        """Let time pass; the alarm rings exactly at its set time."""
        until = self.now + seconds
        while self.alarm is not None and self.alarm <= until:
            self.now, self.alarm = max(self.now, self.alarm), None
            following = self.broker.deadline_passed(self.now)
            if following is not None:
                self._set_alarm(following)
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
        """Return a slave that has joined *types*, "echo" by default; its reply and its first jobs are already taken."""
        slave = self.slave(name)
        slave.join(*types, slots=slots)
        assert slave.take()[:1] == [OK]
        return slave

    def request(self, peer: RecordingPeer, verb: Callable[..., None], *arguments: Any) -> None:
        """
        Make a request, and hold it against the rules of `IBroker` for all requests.

        An accepted request has one reply, before everything that follows from it;
        for a refused one no peer is called.
        """
        told, heard = len(peer.told), len(self.journal)
        try:
            verb(*arguments)
        except ProtocolError:
            assert self.journal[heard:] == []
            raise
        replies = [call for _, call in self.journal[heard:] if call[0] in _REPLIES]
        assert replies == peer.told[told : told + 1]
        assert self.journal[heard] == (peer.name, replies[0])

    def picture(self) -> Any:
        """Return the whole state of the broker."""
        return self._kind.picture(self.broker)

    def is_empty(self) -> bool:
        """Return whether the state of the broker is that of an unused one."""
        return bool(self.picture() == self._kind.picture(self._kind.make(self.settings, self._set_alarm)))

    def everybody_goes(self) -> None:
        """Disconnect all peers. State that the broker keeps afterwards is a leak."""
        for peer in self._peers:
            peer.lost()
        self.wait(0.0)
        assert self.is_empty()


class MemoryFloor(Floor):
    """A `Floor` with the in-memory broker, for tests of its internals."""

    broker: MemoryBroker


class AMaster:
    """A master's verbs, in short form."""

    def __init__(self, floor: Floor, peer: RecordingMaster) -> None:
        self.floor = floor
        self.peer = peer
        self.take = peer.take
        self.record: MasterRecord = floor.broker.master_connected(peer)

    def submit(self, id: JobKey, type: str | None = "echo", priority: int = 0, **terms: Any) -> None:
        self.submit_payload(id, payload_of(id), type, priority, **terms)

    def submit_payload(
        self, id: JobKey, payload: bytes, type: str | None = "echo", priority: int = 0, **terms: Any
    ) -> None:
        """Submit a job with another payload than `payload_of` returns."""
        asked = Terms(**terms) if terms else BASE_TERMS
        submit = self.floor.broker.submit
        self.floor.request(self.peer, submit, self.record, id, type, priority, payload, asked, self.floor.now)

    def queue(self, *ids: JobKey, type: str | None = "echo", **terms: Any) -> AMaster:
        """Submit *ids*, and discard the ok of each."""
        for id in ids:
            self.submit(id, type, **terms)
        self.take()
        return self

    def cancel(self, id: JobKey) -> None:
        self.floor.request(self.peer, self.floor.broker.cancel, self.record, id, self.floor.now)

    def lost(self) -> None:
        self.peer.is_lost = True
        self.floor.broker.master_lost(self.record, self.floor.now)


class ASlave:
    """A slave's verbs, in short form."""

    def __init__(self, floor: Floor, peer: RecordingSlave) -> None:
        self.floor = floor
        self.peer = peer
        self.name = peer.name
        self.take = peer.take
        self.record: SlaveRecord = floor.broker.slave_connected(peer)

    @property
    def hand(self) -> list[JobKey]:
        """The ids of the slave's unfinished jobs, oldest first."""
        return self.peer.hand

    def join(self, *types: str | None, slots: int = 1, untyped: bool = True) -> None:
        """Join *types*, "echo" if there are none, and untyped jobs unless *untyped* is false."""
        joined = (*(types or ("echo",)), *((None,) if untyped else ()))
        self.floor.request(self.peer, self.floor.broker.join, self.record, joined, slots, self.floor.now)

    def leave(self) -> None:
        self.floor.request(self.peer, self.floor.broker.leave, self.record)

    def blocked(self) -> None:
        self.floor.broker.slave_blocked(self.record)

    def ready(self) -> None:
        self.floor.broker.slave_ready(self.record, self.floor.now)

    def respond(self, body: Body = b"1", id: JobKey | None = None) -> None:
        self._let_go(id, self.floor.broker.respond, body, self.floor.now)

    def fail(
        self,
        reason: str = "no",
        kind: str | None = None,
        retry: bool = False,
        id: JobKey | None = None,
        traceback: str | None = None,
    ) -> None:
        self._let_go(id, self.floor.broker.fail, reason, kind, traceback, retry, self.floor.now)

    def _let_go(self, id: JobKey | None, verb: Callable[..., None], *arguments: Any) -> None:
        hand = list(self.hand)
        # The broker may assign a job during the call, even one of the same id.
        self.peer.hand = [one for one in hand if one != (hand[0] if id is None and len(hand) == 1 else id)]
        try:
            self.floor.request(self.peer, verb, self.record, id, *arguments)
        except ProtocolError:
            self.peer.hand = hand
            raise

    def progress(self, body: Body = b"0.5", id: JobKey | None = None) -> None:
        self.floor.broker.progress(self.record, id, body)

    def lost(self) -> None:
        self.peer.is_lost = True
        self.peer.hand = []
        self.floor.broker.slave_lost(self.record, self.floor.now)


def refused(floor: Floor, error: type[GloomError], match: str, verb: Any, *arguments: Any, **more: Any) -> None:
    """Assert that *verb* is refused with *error*, and that nothing has changed."""
    before = floor.picture()
    with pytest.raises(error, match=match):
        verb(*arguments, **more)
    assert floor.picture() == before
