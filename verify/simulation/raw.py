"""
Peers that write and read frames themselves, misbehave, and check every message received.

A connection carries replies and unsolicited messages in one stream, so the
state of a peer at each point of the stream is known exactly.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from . import poison

_LENGTH = struct.Struct("!I")
#: The broker's frame limit: enough for an unreadable integer.
MAX_FRAME_BYTES = 6000
# Placeholder for a body that is built separately.
POISONED = "(poison)"

TYPES = ("a", "b", "c", None)
# Types without jobs; a slave that joins these too has enough types to belong to a crew.
MORE_TYPES = tuple(f"more{number}" for number in range(20))
# Ids with equal hashes, beyond a machine word, below zero; and text that looks like them, which is another id.
STRANGE_IDS = (
    *(sign * k * (2**61 - 1) for k in (1, 2, 3) for sign in (1, -1)),
    *(2**53, 2**63 - 1, -(2**63), 2**63, 2**64, 10**99, -(10**99)),
    *(str(2**61 - 1), str(2**64), str(10**99), str(-(10**99)), "0"),
)

# The broker finds the error in these before it looks at the job and its state.
_MISTAKES: tuple[tuple[bytes, tuple[str, ...]], ...] = (
    (b'{"action":"dance"}', ("unknown_action",)),
    (b'{"no":"action"}', ("missing_field",)),
    (b'{"action":5}', ("invalid_type",)),
    (b'{"action":"hello","version":2}', ("invalid_state", "unsupported_version")),
)
MASTERS_MISTAKES = (
    *_MISTAKES,
    (b'{"action":"join","type":"a"}', ("invalid_action",)),
    (b'{"action":"submit","id":"x"}', ("missing_field",)),
    (b'{"action":"submit","id":true,"body":1}', ("invalid_type",)),
    (b'{"action":"submit","id":"x","body":1,"priority":9223372036854775808}', ("invalid_type",)),
    (b'{"action":"submit","id":"x","body":%b}' % poison.too_deep(0), ("invalid_type",)),
)
SLAVES_MISTAKES = (
    *_MISTAKES,
    (b'{"action":"submit","id":"x","body":1}', ("invalid_action",)),
    (b'{"action":"join","type":""}', ("invalid_type",)),
    (b'{"action":"respond"}', ("missing_field",)),
    # The answer is refused, and the job stays in hand.
    (b'{"action":"respond","body":%b}' % poison.too_deep(0), ("invalid_type",)),
    (b'{"action":"respond","id":5,"body":%b}' % poison.too_deep(0), ("invalid_type",)),
)
_DEADLY = (
    (_LENGTH.pack(2**31), "size_error"),
    (_LENGTH.pack(MAX_FRAME_BYTES + 1), "size_error"),
    (b"\0\0\0\0", "invalid_json"),
    (b"\0\0\0\4true", "invalid_json"),
    (b"\0\0\0\3{\xff}", "invalid_json"),
    (b"\0\0\0\5{} {}", "invalid_json"),
)


class Wire:
    """
    One connection of a raw peer.

    Attributes:
        expected: For each request without a reply, the callback for its reply.
    """

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.expected: deque[Callable[[dict[str, Any]], None]] = deque()
        self.end: Any = None
        self.is_extended = False
        self.is_dying = False
        self.is_lost = False
        self._partial = b""

    def makeConnection(self, end: Any) -> None:
        self.end = end

    def ask(self, request: dict[str, Any], reply: Callable[[dict[str, Any]], None], body: bytes | None = None) -> None:
        self.expected.append(reply)
        self.tell(request, body)

    def tell(self, request: dict[str, Any], body: bytes | None = None) -> None:
        """Send *request*, with *body* in place of its poisoned one."""
        self.note(">", request)
        payload = json.dumps(request, separators=(",", ":")).encode()
        if body is not None:
            payload = payload.replace(b'"%b"' % POISONED.encode(), body)
        self.end.write(_LENGTH.pack(len(payload)) + payload)

    def dataReceived(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        offset = 0
        while len(data) - offset >= 4:
            stop = offset + 4 + _LENGTH.unpack_from(data, offset)[0]
            if stop > len(data):
                break
            self.heard(poison.read(data[offset + 4 : stop]))
            offset = stop
        self._partial = data[offset:]

    def note(self, direction: str, message: object) -> None:
        world = self.peer.world
        world.trace.append((world.figures.steps, type(self.peer).__name__, self.peer.number, direction, message))

    def heard(self, message: dict[str, Any]) -> None:
        self.note("<", message)
        if "action" in message:
            self.peer.told(message)
        elif "id" in message:
            self.peer.of_job(message)
        else:
            if not self.expected:
                # Refused before its first message.
                assert message["error"] == "busy", f"a reply to nothing: {message}"
                self.is_dying = True
                return
            if message.get("error") == "busy" and "connections" in message["reason"]:
                self.is_dying = True
                return
            self.expected.popleft()(message)

    def connectionLost(self, reason: Any) -> None:
        self.is_lost = True
        self.note("!", reason)
        self.peer.lost(self)


class RawPeer:
    """
    Common part of raw masters and raw slaves.

    Args:
        world: Gives `connect(port, protocol)`, `random`, and counts.
        port: The port to connect to.
        is_extended: Whether it sends ``hello``.
    """

    mistakes: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    accepts: tuple[str, ...] = ()

    def __init__(self, world: Any, port: int, is_extended: bool, number: int) -> None:
        self.world = world
        self.random: Random = world.random
        self.port = port
        self.is_extended = is_extended
        self.number = number
        self.wire: Wire | None = None
        self.is_calm = False

    def act(self) -> bool:
        """Do something; return whether there was something to do."""
        wire = self.wire
        if wire is None:
            return self.connect()
        if wire.is_dying or len(wire.expected) > 60:
            if self.is_calm or self.random.random() > 0.02:
                return False
            wire.end.abortConnection()
            return True
        if not self.is_calm and self.random.random() < 0.01:
            self.misbehave(wire)
            return True
        return self.work(wire)

    def connect(self) -> bool:
        wire = Wire(self)
        self.begin()
        if self.world.network.connect(self.port, lambda _: wire) is None:
            return False
        self.wire = wire
        if self.is_extended:
            heartbeat = 0 if self.random.random() < 0.7 else 20
            hello = {"action": "hello", "version": 1, "name": f"raw{self.number}", "heartbeat": heartbeat}
            wire.ask({**hello, "accept": [kind for kind in self.accepts if self.random.random() < 0.8]}, self._welcomed)
        return True

    def _welcomed(self, message: dict[str, Any]) -> None:
        assert message.get("ok") is True and message["version"] == 1, message

    def misbehave(self, wire: Wire) -> None:
        """Break the rules for clients."""
        chance = self.random.random()
        if chance < 0.5:
            frame, errors = self.random.choice(self.mistakes)
            wire.expected.append(lambda message: self._is_error(message, errors))
            wire.note(">", frame)
            wire.end.write(_LENGTH.pack(len(frame)) + frame)
        elif chance < 0.65:
            data, error = self.random.choice(_DEADLY)
            wire.expected.append(lambda message: self._is_deadly(message, error))
            wire.note(">", data)
            wire.end.write(data)
            wire.is_dying = True
        elif chance < 0.7:
            wire.end.write(b"\0\0\1")  # and no more
            wire.is_dying = True
        elif chance < 0.85:
            self.world.drops += 1
            wire.end.abortConnection()
        else:
            wire.end.loseConnection()
            wire.is_dying = True

    def _is_error(self, message: dict[str, Any], errors: tuple[str, ...]) -> None:
        assert message["error"] in errors, (message, errors)

    def _is_deadly(self, message: dict[str, Any], error: str) -> None:
        assert message["error"] == error, (message, error)

    def lost(self, wire: Wire) -> None:
        if wire is self.wire:
            self.wire = None

    def told(self, message: dict[str, Any]) -> None:
        assert message["action"] == "quiet" and self.is_extended and "quiet" in self.accepts, message

    # Overridden by each role

    def begin(self) -> None:
        raise NotImplementedError

    def work(self, wire: Wire) -> bool:
        raise NotImplementedError

    def of_job(self, message: dict[str, Any]) -> None:
        raise NotImplementedError
