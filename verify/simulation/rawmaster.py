"""A master that writes and reads its frames itself, and checks every message against its requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import poison
from .raw import MASTERS_MISTAKES, POISONED, STRANGE_IDS, TYPES, RawPeer, Wire


class RawMaster(RawPeer):
    """
    Submits, cancels, attaches; checks that each job has one outcome, after its ok.

    Attributes:
        open: Its accepted jobs without an outcome: the body expected back, or None where it may differ.
    """

    mistakes = MASTERS_MISTAKES
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
            poisoned = self._poisoned(job)
            wire.ask({"action": "submit", **job}, reply, poisoned)
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

    def _poisoned(self, job: dict[str, Any]) -> bytes | None:
        """Put an unusual body into *job*, sometimes; return it."""
        chance, unique = self.random.random(), job["body"]["u"]
        if chance > 0.03:
            return None
        job["body"] = POISONED
        return poison.unreadable(unique) if chance < 0.005 else poison.harmless(self.random, unique, 4000)

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
            job["body"].pop("x", None)  # two of them would exceed a frame
        poisoned = self._poisoned(jobs[0][0]) if jobs else None

        def replied(message: dict[str, Any]) -> None:
            assert message["ok"] is True and len(message["jobs"]) == len(jobs), message
            for (_, reply), said in zip(jobs, message["jobs"], strict=True):
                reply(said)

        wire.ask({"action": "submit_many", "jobs": [job for job, _ in jobs]}, replied, poisoned)

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
