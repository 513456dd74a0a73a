"""
Jobs, masters and slaves in the account of `verify.simulation.mirror`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from gloom.broker.interfaces import IMasterPeer, ISlavePeer

if TYPE_CHECKING:
    from .mirror import Mirror


class MirrorJob:
    """An accepted job without an outcome."""

    def __init__(self, id: Any, type: str | None, rank: tuple[int, int], size: int, terms: Any, now: float) -> None:
        self.id = id
        self.type = type
        self.rank = rank  # a smaller number is served first
        self.size = size
        self.terms = terms
        self.submitted = now
        self.masters: list[MirrorMaster] = []
        self.slave: MirrorSlave | None = None
        self.is_delayed = terms.delay_seconds > 0
        self.started = 0.0
        self.attempts = 0


@implementer(IMasterPeer)
class MirrorMaster:
    """A connection on the master port, as the broker sees it."""

    def __init__(self, mirror: Mirror, peer: Any) -> None:
        self.mirror = mirror
        self.peer = peer
        self.record: Any = None
        self.jobs: dict[Any, MirrorJob] = {}
        self.queued_bytes = 0

    @property
    def name(self) -> str:
        return str(self.peer.name)

    @property
    def wants_receipts(self) -> bool:
        return bool(self.peer.wants_receipts)

    def accepted(self) -> None:
        self.mirror.submit_accepted(self)
        self.peer.accepted()

    def cancelling(self, running: bool) -> None:
        self.mirror.cancel_accepted(self, running)
        self.peer.cancelling(running)

    @property
    def is_gone(self) -> bool:
        """Whether it has disconnected: the broker may address it until it has removed it; those messages go nowhere."""
        return self.record is None

    def answered(self, id: Any, body: Any, receipt: Any) -> None:
        if not self.is_gone:
            self.mirror.outcome(self, id, None, body)
        self.peer.answered(id, body, receipt)

    def failed(self, id: Any, failure: Any) -> None:
        if not self.is_gone:
            self.mirror.outcome(self, id, failure, None)
        self.peer.failed(id, failure)

    def progressed(self, id: Any, body: Any) -> None:
        if not self.is_gone:
            self.mirror.progress_told(self, id)
        self.peer.progressed(id, body)


@implementer(ISlavePeer)
class MirrorSlave:
    """A connection on the slave port, as the broker sees it."""

    def __init__(self, mirror: Mirror, peer: Any) -> None:
        self.mirror = mirror
        self.peer = peer
        self.record: Any = None
        self.types: tuple[str | None, ...] = ()
        self.slots = 1
        self.is_blocked = False
        # None for an attempt that was ended but is still in the slave's hand.
        self.hand: dict[Any, MirrorJob | None] = {}

    @property
    def name(self) -> str:
        return str(self.peer.name)

    def accepted(self) -> None:
        self.mirror.reply(self)
        self.peer.accepted()

    def assigned(self, payload: bytes) -> bool:
        self.mirror.assigned(self, payload)
        has_enough = bool(self.peer.assigned(payload))
        if has_enough:
            self.mirror.must_wait(self)
        return has_enough

    def revoked(self, id: Any) -> None:
        self.mirror.revoked(self, id)
        self.peer.revoked(id)
