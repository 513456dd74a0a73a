"""A slave that writes and reads its frames itself, and checks every message against the jobs in hand."""

from __future__ import annotations

from typing import Any

from . import poison
from .raw import MAX_FRAME_BYTES, MORE_TYPES, POISONED, SLAVES_MISTAKES, TYPES, RawPeer, Wire


class RawSlave(RawPeer):
    """
    Joins, answers early, late, twice and wrongly; checks the jobs assigned to it.

    Attributes:
        held: The jobs in its hand at this point of the stream, with the body of each.
    """

    mistakes = SLAVES_MISTAKES
    accepts = ("cancel", "quiet")

    def begin(self) -> None:
        self.held: dict[Any, None] = {}
        self.types: tuple[str | None, ...] = ()
        self.slots = 0
        # Jobs that this slave has not answered yet, by its own record.
        self._to_answer: dict[Any, int] = {}
        self._has_asked_to_join = False
        self._has_joined_calmly = False
        # Whether it has answered a job that it may not hold: from then on it cannot match its answers to jobs.
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
        if message.get("error") == "busy":
            assert "joined types" in message["reason"], message
            # It keeps its jobs, and asks again.
            self._has_asked_to_join = self._has_joined_calmly = False
            return
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
            # With slots, and without a job id, the answer may be for another job than this slave believes.
            is_rogue = self._is_rogue or (self.is_extended and not names_it)
            poisoned = None if is_rogue else self._poisoned(unique)
            body: Any = {"u": unique, "rogue": True} if is_rogue else {"u": unique}
            if random.random() < 0.1:
                body["x"] = "x" * int(random.random() * 2500)
            self._say(wire, {"action": "respond", "body": POISONED if poisoned else body}, named, poisoned)
        if not self.is_calm and random.random() < 0.03:
            # Answer once more: for no job, or for the next one.
            self._say(wire, {"action": "respond", "body": {"u": unique, "rogue": True}}, named)
            self._is_rogue = True

    def _poisoned(self, unique: int) -> bytes | None:
        """Return an unusual answer, sometimes."""
        chance = self.random.random()
        if chance > 0.06:
            return None
        if chance > 0.01:
            return poison.harmless(self.random, unique, MAX_FRAME_BYTES)
        self.world.unreadable.add(unique)
        return poison.unreadable(unique)

    def _answer_wrongly(self, wire: Wire) -> None:
        self._is_rogue = True
        id = self.random.choice((None, "nobody's", 0, "j2")) if self.is_extended else None
        self._say(wire, {"action": "respond", "body": {"u": 0, "rogue": True}}, id)

    def _say(self, wire: Wire, request: dict[str, Any], id: Any, body: bytes | None = None) -> None:
        if id is not None:
            request["id"] = id
        wire.ask(request, lambda message: self._let_go(id, message), body)

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
