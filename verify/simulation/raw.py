"""
Peers that write and read frames themselves, behave badly, and check every message that comes.

A connection's replies and what is said unasked come in one stream, so what a
peer must hold at each point of the stream is known exactly.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from random import Random
from struct import Struct
from typing import Any

_LENGTH = Struct("!I")
# Not msgspec's, which the broker has: integers of any size come through these as they are.
_decode = json.loads

TYPES = ("a", "b", "c", None)
# What no job is of; a slave that joins these too has so many types that it belongs to a crew.
MORE_TYPES = tuple(f"more{number}" for number in range(20))
# Of one hash, beyond what fits into a word, below zero; and text that looks like them, which is another id.
STRANGE_IDS = (
    *(sign * k * (2**61 - 1) for k in (1, 2, 3) for sign in (1, -1)),
    *(2**53, 2**63 - 1, -(2**63), 2**63, 2**64, 10**99, -(10**99)),
    *(str(2**61 - 1), str(2**64), str(10**99), str(-(10**99)), "0"),
)

# What is wrong with it is found before the job and its state are looked at.
_MISTAKES: tuple[tuple[bytes, tuple[str, ...]], ...] = (
    (b'{"action":"dance"}', ("unknown_action",)),
    (b'{"no":"action"}', ("missing_field",)),
    (b'{"action":5}', ("invalid_type",)),
    (b'{"action":"hello","version":2}', ("invalid_state", "unsupported_version")),
)
_MASTERS_MISTAKES = (
    *_MISTAKES,
    (b'{"action":"join","type":"a"}', ("invalid_action",)),
    (b'{"action":"submit","id":"x"}', ("missing_field",)),
    (b'{"action":"submit","id":true,"body":1}', ("invalid_type",)),
    (b'{"action":"submit","id":"x","body":1,"priority":9223372036854775808}', ("invalid_type",)),
)
_SLAVES_MISTAKES = (
    *_MISTAKES,
    (b'{"action":"submit","id":"x","body":1}', ("invalid_action",)),
    (b'{"action":"join","type":""}', ("invalid_type",)),
    (b'{"action":"respond"}', ("missing_field",)),
)
_DEADLY = (
    (_LENGTH.pack(2**31), "size_error"),
    (b"\0\0\0\0", "invalid_json"),
    (b"\0\0\0\4true", "invalid_json"),
    (b"\0\0\0\3{\xff}", "invalid_json"),
    (b"\0\0\0\5{} {}", "invalid_json"),
)


class Wire:
    """
    One connection of a raw peer.

    Attributes:
        expected: For each request without a reply, what its reply is given to.
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

    def ask(self, request: dict[str, Any], reply: Callable[[dict[str, Any]], None]) -> None:
        self.expected.append(reply)
        self.tell(request)

    def tell(self, request: dict[str, Any]) -> None:
        self.note(">", request)
        payload = json.dumps(request, separators=(",", ":")).encode()
        self.end.write(_LENGTH.pack(len(payload)) + payload)

    def dataReceived(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        offset = 0
        while len(data) - offset >= 4:
            stop = offset + 4 + _LENGTH.unpack_from(data, offset)[0]
            if stop > len(data):
                break
            self.heard(_decode(data[offset + 4 : stop]))
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
                # Refused before it said anything.
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
    What raw masters and raw slaves have in common.

    Args:
        world: Gives `connect(port, protocol)`, `random`, and counts.
        port: Where it connects.
        is_extended: Whether it says ``hello``.
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
        """Do what no client should."""
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

    # What each role does

    def begin(self) -> None:
        raise NotImplementedError

    def work(self, wire: Wire) -> bool:
        raise NotImplementedError

    def of_job(self, message: dict[str, Any]) -> None:
        raise NotImplementedError


class RawMaster(RawPeer):
    """
    Submits, cancels, attaches; checks that each job has one outcome, after its ok.

    Attributes:
        open: Its accepted jobs without an outcome: the body that must come back, or None where it may differ.
    """

    mistakes = _MASTERS_MISTAKES
    accepts = ("progress", "receipt", "quiet")

    def begin(self) -> None:
        self.open: dict[Any, int | None] = {}
        self._cancelled: Any = None

    def work(self, wire: Wire) -> bool:
        if self.is_calm:
            return False
        random = self.random
        chance = random.random()
        if not self.is_extended or chance < 0.75:
            job, reply = self._new_job()
            wire.ask({"action": "submit", **job}, reply)
        elif chance < 0.85:
            id = random.choice(list(self.open)) if self.open and random.random() < 0.8 else self._some_id()
            wire.ask({"action": "cancel", "id": id}, lambda message: self._cancel_replied(id, message))
        elif chance < 0.95:
            self._submit_many(wire)
        else:
            wire.ask({"action": "ping"}, self._is_ok)
        return True

    def _some_id(self) -> Any:
        number = int(self.random.random() * 40)
        if self.random.random() < 0.1:
            return self.random.choice(STRANGE_IDS)
        return number if number % 2 else f"j{number}"

    def _new_job(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
        random, world = self.random, self.world
        world.bodies += 1
        unique = world.bodies
        id = self._some_id() if random.random() < 0.5 else f"m{self.number}-{unique}"
        body: dict[str, Any] = {"u": unique}
        if random.random() < 0.05:
            body["x"] = "x" * int(random.random() * 2500)
        job: dict[str, Any] = {"id": id, "body": body}
        type = random.choice(TYPES)
        if type is not None or random.random() < 0.5:
            job["type"] = type
        if random.random() < 0.5:
            job["priority"] = int(random.random() * 5) - 2
        if self.is_extended:
            self._ask_terms(job)
        attach = job.get("attach", False)
        return job, lambda message: self._submit_replied(id, None if attach else unique, attach, message)

    def _ask_terms(self, job: dict[str, Any]) -> None:
        chance = self.random.random
        if chance() < 0.2:
            job["attach"] = True
        if chance() < 0.2:
            job["timeout"] = self.random.choice((0.05, 0.5, 3))
        if chance() < 0.2:
            job["expires"] = self.random.choice((0, 0.1, 1, 5))
        if chance() < 0.2:
            job["delay"] = self.random.choice((0, 0.01, 0.5, 2))
        if chance() < 0.3:
            job["retries"] = int(chance() * 3)
        if chance() < 0.1:
            job["require_slave"] = True

    def _submit_many(self, wire: Wire) -> None:
        jobs = [self._new_job() for _ in range(int(self.random.random() * 5))]
        for job, _ in jobs[1:]:
            job["body"].pop("x", None)  # more than one would make more than a frame

        def replied(message: dict[str, Any]) -> None:
            assert message["ok"] is True and len(message["jobs"]) == len(jobs), message
            for (_, reply), said in zip(jobs, message["jobs"], strict=True):
                reply(said)

        wire.ask({"action": "submit_many", "jobs": [job for job, _ in jobs]}, replied)

    def _is_ok(self, message: dict[str, Any]) -> None:
        assert message == {"ok": True}, message

    def _submit_replied(self, id: Any, body: int | None, attach: bool, message: dict[str, Any]) -> None:
        self._nothing_is_cancelled()
        if "error" in message:
            error = message["error"]
            assert (
                error in ("busy", "draining")
                or (error == "id_exists" and message["reason"] == str(id))
                or (error == "no_slaves" and self.is_extended)
            ), message
            assert id not in self.open or error == "id_exists", f"{message} for an id in flight"
            return
        assert message == {"ok": True}, message
        assert attach or id not in self.open, "an id in flight was accepted again"
        self.open[id] = body

    def _cancel_replied(self, id: Any, message: dict[str, Any]) -> None:
        self._nothing_is_cancelled()
        if message.get("error") == "unknown_job":
            assert id not in self.open, f"{id!r} is open and unknown"
            return
        assert message.get("ok") is True and message["state"] in ("cancelled", "cancelling"), message
        assert id in self.open, f"{id!r} was cancelled and is not open"
        self._cancelled = id

    def _nothing_is_cancelled(self) -> None:
        assert self._cancelled is None, f"{self._cancelled!r} was cancelled, and another message came first"

    def of_job(self, message: dict[str, Any]) -> None:
        id = message["id"]
        assert id in self.open, f"an outcome of a job that is not open: {message}"
        if self._cancelled is not None:
            assert id == self._cancelled and message["error"] == "cancelled", message
            self._cancelled = None
        if "progress" in message:
            assert self.is_extended and message["progress"]["u"] >= 0
            return
        body = self.open.pop(id)
        if "error" in message:
            assert message["error"] in ("job_failed", "timeout", "expired", "cancelled", "draining"), message
            assert self.is_extended == ("attempts" in message), message
        else:
            assert self.is_extended or message.keys() == {"id", "body"}, message
            answer = message["body"]
            assert body is None or answer["u"] == body or "rogue" in answer, f"{message}, for the body {body}"


class RawSlave(RawPeer):
    """
    Joins, answers early, late, twice and wrongly; checks what it is given.

    Attributes:
        held: What is in its hand at this point of the stream, with the body of each.
    """

    mistakes = _SLAVES_MISTAKES
    accepts = ("cancel", "quiet")

    def begin(self) -> None:
        self.held: dict[Any, None] = {}
        self.types: tuple[str | None, ...] = ()
        self.slots = 0
        # Jobs that are not answered yet, by this slave's own word.
        self._to_answer: dict[Any, int] = {}
        self._has_asked_to_join = False
        self._has_joined_calmly = False
        # Whether it has answered what it may not have: then it does not know what its answers are for.
        self._is_rogue = False

    def work(self, wire: Wire) -> bool:
        random = self.random
        chance = random.random()
        if not self._has_asked_to_join or chance < 0.01 or (self.is_calm and not self._has_joined_calmly):
            self._join(wire)
        elif self._to_answer and (self.is_calm or chance < 0.7):
            self._answer(wire)
        elif self.is_calm:
            return False
        elif chance < 0.73:
            self._answer_wrongly(wire)
        elif self.is_extended and chance < 0.75:
            self._has_asked_to_join = False
            wire.ask({"action": "leave"}, self._left)
        elif self.is_extended and chance < 0.8:
            wire.ask({"action": "ping"}, self._is_ok)
        elif self.is_extended and self._to_answer and chance < 0.9:
            id = random.choice(list(self._to_answer))
            wire.tell({"action": "progress", "id": id, "body": {"u": self._to_answer[id]}})
        else:
            return False
        return True

    def _is_ok(self, message: dict[str, Any]) -> None:
        assert message == {"ok": True}, message

    def _join(self, wire: Wire) -> None:
        random = self.random
        self._has_asked_to_join = True
        self._has_joined_calmly = self.is_calm
        if self.is_calm:
            types: tuple[str | None, ...] = TYPES[:3]
            join: dict[str, Any] = {"action": "join", "types": types}
        elif not self.is_extended or random.random() < 0.5:
            types = (random.choice(TYPES),)
            join = {"action": "join", "type": types[0]}
        else:
            types = tuple(random.sample(TYPES[:3], 1 + int(random.random() * 3)))
            if random.random() < 0.5:
                types += MORE_TYPES
            join = {"action": "join", "types": types}
        slots = 1
        if self.is_extended and random.random() < 0.6:
            slots = join["slots"] = 1 + int(random.random() * 4)
        wire.ask(join, lambda message: self._joined(types, slots, message))

    def _joined(self, types: tuple[str | None, ...], slots: int, message: dict[str, Any]) -> None:
        self._is_ok(message)
        self.types, self.slots = types, slots

    def _left(self, message: dict[str, Any]) -> None:
        self._is_ok(message)
        self.types, self.slots = (), 0

    def _answer(self, wire: Wire) -> None:
        random = self.random
        id = random.choice(list(self._to_answer))
        unique = self._to_answer.pop(id)
        names_it = self.is_extended and (len(self._to_answer) > 0 or self.slots != 1 or random.random() < 0.8)
        named = id if names_it else None
        chance = random.random()
        if self.is_extended and chance < 0.2:
            failure = {"action": "fail", "reason": "no", "retry": chance < 0.1, "kind": "ValueError"}
            self._say(wire, failure, named)
        else:
            body: dict[str, Any] = {"u": unique}
            if random.random() < 0.1:
                body["x"] = "x" * int(random.random() * 2500)
            # With slots, and not by name, it may be for another job than this slave believes.
            if self._is_rogue or (self.is_extended and not names_it):
                body["rogue"] = True
            self._say(wire, {"action": "respond", "body": body}, named)
        if not self.is_calm and random.random() < 0.03:
            # Once more, which is then for nothing, or for the next job.
            self._say(wire, {"action": "respond", "body": {"u": unique, "rogue": True}}, named)
            self._is_rogue = True

    def _answer_wrongly(self, wire: Wire) -> None:
        self._is_rogue = True
        id = self.random.choice((None, "nobody's", 0, "j2")) if self.is_extended else None
        self._say(wire, {"action": "respond", "body": {"u": 0, "rogue": True}}, id)

    def _say(self, wire: Wire, request: dict[str, Any], id: Any) -> None:
        if id is not None:
            request["id"] = id
        wire.ask(request, lambda message: self._let_go(id, message))

    def _let_go(self, id: Any, message: dict[str, Any]) -> None:
        error = message.get("error")
        held = self.held
        if error is None:
            self._is_ok(message)
            assert id in held if id is not None else len(held) == 1, f"let go of {id!r}, in hand were {held}"
            if id is None:
                id = next(iter(held))
            del held[id]
        elif error == "invalid_state":
            assert id not in held if id is not None else not held, f"{message}, in hand were {held}"
        else:
            assert error == "missing_field" and id is None and len(held) > 1, f"{message}, in hand were {held}"
            self._is_rogue = True
            self._to_answer.update((id, 0) for id in held if id not in self._to_answer)

    def told(self, message: dict[str, Any]) -> None:
        if message["action"] == "job":
            self._assigned(message)
        elif message["action"] == "cancel":
            assert message["id"] in self.held and self.is_extended, f"{message}, in hand were {self.held}"
            if message["id"] in self._to_answer and self.random.random() < 0.3:
                del self._to_answer[message["id"]]
                assert self.wire is not None
                self._say(self.wire, {"action": "fail", "reason": "cancelled"}, message["id"])
        else:
            super().told(message)

    def _assigned(self, message: dict[str, Any]) -> None:
        id, type = message["id"], message["type"]
        assert message.keys() == {"action", "id", "type", "body"}, message
        assert id not in self.held, f"{id!r} twice in one hand"
        assert type is None or type in self.types, f"a job of the type {type!r}, joined were {self.types}"
        assert len(self.held) < self.slots, f"more jobs than the {self.slots} slots"
        self.held[id] = None
        self._to_answer[id] = message["body"]["u"]

    def of_job(self, message: dict[str, Any]) -> None:
        raise AssertionError(f"a slave was told {message}")
