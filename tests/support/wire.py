"""Messages for wire tests, and peers that are already in a given state."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IReactorCore

from gloom.server.service import BrokerService
from gloom.testing import MemoryGloom, RawPeer

OK = {"ok": True}
HELLO = {"action": "hello", "version": 1}
LEAVE = {"action": "leave"}
PING = {"action": "ping"}


def submit(id: Any, type: str | None = "t", body: Any = 1, **more: Any) -> dict[str, Any]:
    """Return a submit."""
    return {"action": "submit", "id": id, "type": type, "body": body, **more}


def join(type: str | None = "t", **more: Any) -> dict[str, Any]:
    """Return a join."""
    return {"action": "join", "type": type, **more}


def join_types(*types: str, slots: int = 1) -> dict[str, Any]:
    """Return a join of several types."""
    return {"action": "join", "types": types, "slots": slots}


def cancel(id: Any) -> dict[str, Any]:
    """Return a cancel, as a master sends it and as a slave receives it."""
    return {"action": "cancel", "id": id}


def job(id: Any, type: str | None = "t", body: Any = 1) -> dict[str, Any]:
    """Return the job message that a slave receives for `submit` of the same arguments."""
    return {"action": "job", "id": id, "type": type, "body": body}


def respond(body: Any = 2, **more: Any) -> dict[str, Any]:
    """Return a respond."""
    return {"action": "respond", "body": body, **more}


def answer(id: Any, body: Any = 2) -> dict[str, Any]:
    """Return the message that a master receives for `respond` of the same body."""
    return {"id": id, "body": body}


def failure(id: Any, error: str, reason: str, *attempts: tuple[str, float, str]) -> dict[str, Any]:
    """Return an extended master's message for a job that failed after *attempts*: slave, seconds, ended."""
    keys = ("slave", "seconds", "ended")
    return {
        "id": id,
        "error": error,
        "reason": reason,
        "attempts": [dict(zip(keys, one, strict=True)) for one in attempts],
    }


def fail(reason: str = "no", **more: Any) -> dict[str, Any]:
    """Return a fail."""
    return {"action": "fail", "reason": reason, **more}


def stop(gloom: MemoryGloom) -> None:
    """Shut the broker down, as the service does; time passes with `MemoryGloom.advance`."""
    service = BrokerService(cast(IReactorCore, gloom.clock), gloom.masters.around, [], [])
    service.masters, service.slaves = gloom.masters, gloom.slaves
    service.stopService()
    gloom.advance()


def extended(peer: RawPeer, **hello: Any) -> RawPeer:
    """Raise *peer* to the extended level."""
    (welcome,) = peer.ask(HELLO | hello)
    assert welcome["ok"] is True
    return peer


def slave_of(gloom: MemoryGloom, type: str | None = "t", slots: int = 1, **hello: Any) -> RawPeer:
    """Return a joined slave. It is extended if it has several slots or other fields for its ``hello``."""
    slave = extended(gloom.slave(), **hello) if hello or slots > 1 else gloom.slave()
    slave.send(join(type, slots=slots))
    assert slave.frames.pop(0) == b'{"ok":true}'
    return slave


def busy_slave_of(gloom: MemoryGloom, id: Any, **hello: Any) -> RawPeer:
    """Return a slave of the type "t" that runs the job *id*, the next in the queue."""
    slave = slave_of(gloom, **hello)
    assert slave.take() == [job(id)]
    return slave


def served(slave: RawPeer) -> list[Any]:
    """Have *slave* answer every job that arrives, and return the ids in serving order."""
    ids: list[Any] = []
    while jobs := [message for message in slave.take() if "action" in message]:
        ids += [message["id"] for message in jobs]
        slave.send(respond())
    return ids
