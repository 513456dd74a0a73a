"""
A whole session derived from bytes: an in-memory broker, some peers, arbitrary input; and the invariants.

After every step: no error reports a bug, every frame has its one reply (or its
connection is closed), and a master receives outcomes for its accepted jobs and
nothing else. At the end, with the peers gone, the broker holds no state of them.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from gloom.broker.memory import MemoryBroker
from gloom.server.access import Access, Identity, hash_token
from gloom.settings import KIB, MIB, Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.framereader import to_frame
from gloom.wire.nesting import MESSAGE_LEVELS, cut, with_room
from verify.reliability.draw import Draw
from verify.reliability.grammar import TOKEN, about, beginning, greeting, payload

SETTINGS = Settings(
    max_frame_bytes=8 * KIB, retries=1, max_jobs=12, master_share=0.75, max_connections=6,
    max_queued_bytes=MIB, max_unread_bytes=MIB, pause_unread_bytes=4 * KIB, stall_seconds=5,
)  # fmt: skip
ACCESS = Access([Identity("fuzzer", frozenset({"master", "slave"}), ("t", "u*"), hash_token(TOKEN))])
CLOSING = {"invalid_json", "size_error", "unauthorized", "busy"}


class Violation(AssertionError):
    """A broken invariant."""


class Peer:
    """
    One connection; its sent and received frames are counted independently of the broker's code.

    Attributes:
        raw: The connection.
        is_slave: Whether it is on the slave port.
        jobs: The ids of the jobs assigned to it, or accepted from it; some may have ended.
    """

    def __init__(self, gloom: MemoryGloom, is_slave: bool) -> None:
        self.is_slave = is_slave
        self.raw: RawPeer = gloom.slave() if is_slave else gloom.master()
        self._unframed = b""
        self._asked: deque[Any] = deque()
        self._oversize = False
        self.jobs: dict[Any, None] = {}
        self._last_error: str | None = None
        self._surplus = 0

    @property
    def is_open(self) -> bool:
        return not self.raw.lost

    def send(self, data: bytes) -> None:
        """Send *data*, and note the frames completed by it."""
        self.raw.transport.write(data)
        self._unframed += data
        while len(self._unframed) >= 4 and not self._oversize:
            length = int.from_bytes(self._unframed[:4])
            if length > SETTINGS.max_frame_bytes:
                self._oversize = True
            elif len(self._unframed) >= 4 + length:
                self._asked.append(_parsed(self._unframed[4 : 4 + length]))
                self._unframed = self._unframed[4 + length :]
            else:
                return

    def check(self) -> None:
        """
        Check the received messages against the sent frames.

        Raises:
            Violation: They do not match.
        """
        for frame in self.raw.frames:
            _demand(TOKEN.encode() not in frame, "a token is shown", frame)
            said = with_room(json.loads, frame)
            if "action" in said:
                _demand(self.is_slave or said == {"action": "quiet"}, "a master is told of no job", said)
                if said["action"] == "job":
                    self.jobs[said["id"]] = None
            elif "id" in said:
                self._told_of_job(said)
            else:
                self._replied(said)
        self.raw.frames.clear()
        if self.is_open and not self._is_paused:
            # A final reply before a close may answer an oversize frame or an excess connection, not a whole frame.
            left = [request for request in self._asked if not self._may_be_silent(request)]
            _demand(not self._oversize, "an oversize frame has no reply", "")
            _demand(len(left) <= self._surplus, "a frame has no reply", left[:1])
            self._asked.clear()
            self._surplus = 0

    @property
    def _is_paused(self) -> bool:
        return bool(self.raw.transport._other.protocol.paused)

    def _told_of_job(self, said: dict[str, Any]) -> None:
        _demand(not self.is_slave, "a slave is told no outcome", said)
        _demand(said["id"] in self.jobs, "an outcome of a job that this master has not in flight", said)
        if "progress" not in said:
            del self.jobs[said["id"]]

    def _replied(self, said: dict[str, Any]) -> None:
        error = said.get("error")
        _demand(error != "internal_error", "a bug was answered", said)
        _demand(said.get("ok") is True or isinstance(error, str), "a reply is ok or an error", said)
        if not self._asked:
            _demand(error in CLOSING and self._last_error not in CLOSING, "a reply to nothing", said)
        else:
            request = self._asked.popleft()
            if self._may_be_silent(request):
                # The session cannot tell a refusal from the reply to a later frame, so it only counts replies.
                self._surplus += 1
            elif error is None and not self.is_slave:
                self._accepted(request, said)
        self._last_error = error

    def _may_be_silent(self, request: Any) -> bool:
        return self.is_slave and isinstance(request, dict) and request.get("action") == "progress"

    def _accepted(self, request: Any, said: dict[str, Any]) -> None:
        _demand(isinstance(request, dict), "what is no message was accepted", said)
        if request.get("action") == "submit":
            self.jobs[request["id"]] = None
        elif request.get("action") == "submit_many":
            for job, reply in zip(request["jobs"], said["jobs"], strict=True):
                if "ok" in reply:
                    self.jobs[job["id"]] = None


def _parsed(payload: bytes) -> Any:
    try:
        # No accepted value is deeper.
        return with_room(json.loads, cut(payload, MESSAGE_LEVELS + 2))
    except (ValueError, RecursionError):
        return None


def _demand(holds: bool, what: str, said: Any) -> None:
    if not holds:
        raise Violation(f"{what}: {str(said)[:300]}")


class Session:
    """
    Peers and a broker, driven by *data*.

    Attributes:
        inputs: Number of frames and pieces of bytes sent.
    """

    def __init__(self, data: bytes) -> None:
        self._draw = Draw(data)
        self.inputs = 0
        self.gloom = MemoryGloom(SETTINGS, ACCESS if self._draw.once_in(6) else None)
        self._peers: list[Peer] = []
        self._tameness = self._draw.of((16, 64, 250))

    def run(self) -> int:
        """
        Run the session; return the number of inputs.

        Raises:
            Violation: An invariant was broken.
        """
        # One peer of each kind from the start: jobs reach a slave more often.
        for is_slave in (False, True):
            self._connect(is_slave)
        while self._draw.left:
            self._step()
            for peer in self._peers:
                peer.check()
            self._peers = [peer for peer in self._peers if peer.is_open]
        self._end()
        return self.inputs

    def _step(self) -> None:
        draw, kind = self._draw, self._draw.number(24)
        if kind == 0 or not self._peers:
            self._connect(draw.once_in(2))
        elif kind == 1:
            draw.of(self._peers).raw.drop()
        elif kind == 2 and draw.once_in(24):
            self.gloom.broker.drain(self.gloom.clock.seconds(), lambda: None)
        elif kind == 2:
            self.gloom.advance(draw.of((0.0, 0.1, 1.0, 3.0, 6.0, 40.0)))
        else:
            self._send(draw.of(self._peers), kind)
        self.gloom.advance()

    def _connect(self, is_slave: bool) -> None:
        peer = Peer(self.gloom, is_slave)
        self._peers.append(peer)
        if not self._draw.once_in(4):
            peer.send(to_frame(greeting(self._draw)))
            self.inputs += 1
            if peer.is_slave:
                peer.send(to_frame(beginning(self._draw)))
                self.inputs += 1

    def _send(self, peer: Peer, kind: int) -> None:
        draw = self._draw
        if kind == 3:
            # Most lengths exceed the limit; some announce a frame that later pieces complete.
            data = draw.bytes(1 + draw.number(12))
        elif kind == 4:
            frames = [payload(draw, peer.is_slave, self._tameness) for _ in range(1 + draw.number(6))]
            data = b"".join(map(to_frame, frames))
            self.inputs += len(frames) - 1
        elif kind < 12 and peer.jobs:
            id = draw.of(list(peer.jobs))
            if peer.is_slave:
                del peer.jobs[id]
            data = to_frame(about(draw, id, peer.is_slave))
        else:
            data = to_frame(payload(draw, peer.is_slave, self._tameness))
        self.inputs += 1
        if draw.once_in(8):
            at = draw.number(len(data)) if data else 0
            peer.send(data[:at])
            self.gloom.advance(draw.of((0.0, 0.0, 2.0)))
            data = data[at:]
        peer.send(data)

    def _end(self) -> None:
        gloom = self.gloom
        gloom.drop_all()
        gloom.advance(SETTINGS.stall_seconds)
        gloom.advance(2e9)
        broker = gloom.broker
        assert isinstance(broker, MemoryBroker)
        around = gloom.masters.around
        left = {
            "jobs": broker.unanswered, "types": len(broker._lines), "bytes": broker._bytes,
            "connections": around.connections, "watched frames": len(around.stalls._watched),
            "peers": len(gloom.masters.peers) + len(gloom.slaves.peers), "timers": len(gloom.clock.getDelayedCalls()),
        }  # fmt: skip
        _demand(not any(left.values()), "something is left when all have gone", left)
