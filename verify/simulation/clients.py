"""The library's own masters and slaves, used as a program uses them."""

from __future__ import annotations

from random import Random
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gloom.client.deferred import Master, Slave, current_job
from gloom.client.failing import failure_of
from gloom.errors import BodyError, JobFailed, RequestRefused, TransportError, TryAgain
from gloom.wire.messages import Fail
from gloom.wire.nesting import BODY_LEVELS
from tests.support import hostile_exceptions

from .raw import MORE_TYPES, TYPES

# Not draining: the client then resubmits to the next broker. Not cancelled: the Deferred reports that itself.
_FAILURES = ("job_failed", "timeout", "expired")

_TERMS: dict[str, tuple[Any, ...]] = {
    "timeout": (0.05, 0.5, 3.0),
    "expires": (0.0, 0.1, 5.0),
    "delay": (0.01, 0.5),
    "retries": (0, 1),
    "require_slave": (True,),
}


class OrderedSet(dict[Any, None]):
    """Replaces a set of objects: its order would depend on their addresses, and runs would not be reproducible."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class _Master(Master):
    """
    A master with all its connections accessible.

    Attributes:
        broke: The errors of messages that could not be read: every message here names its job.
    """

    broke: list[Any]

    def broken(self, error: Any) -> None:
        self.broke.append(error)
        super().broken(error)


class _Slave(Slave):
    def describe(self, job: Any, failure: Failure) -> Fail:
        # A traceback contains file names; their length would make a run depend on its directory.
        return failure_of(cast(BaseException, failure.value), job.id, lambda: failure.getTraceback() and "a traceback")


class ClientMaster:
    """
    Submits jobs, and cancels some.

    Attributes:
        waiting: The Deferreds that have not fired.
    """

    def __init__(self, world: Any, number: int) -> None:
        self._world = world
        self._random: Random = world.random
        self.is_calm = False
        self.waiting: dict[int, Deferred[Any]] = {}
        self._has_receipts = number % 2 == 1
        self._service = _Master(
            world.master_endpoint,
            reactor=world.clients_clock,
            name=f"master{number}",
            receipts=self._has_receipts,
        )
        self._service.broke = world.broke
        # Replaces a random prefix, so that a trace shows the same ids each time.
        self._service._id_prefix = f"client{number}-"
        self._service.startService()
        self._is_running = True

    def act(self) -> bool:
        """Do something; return whether there was something to do."""
        chance = self._random.random()
        if self.is_calm:
            return self._start()
        if self._is_running and chance < 0.002:
            self.stop()
        elif chance < 0.06 and self.waiting:
            self.waiting[self._random.choice(list(self.waiting))].cancel()
        elif not self._is_running:
            return chance < 0.2 and self._start()
        elif len(self.waiting) < 12:
            self._submit()
        else:
            return False
        return True

    def _start(self) -> bool:
        if self._is_running:
            return False
        self._is_running = True
        self._service.startService()
        return True

    def stop(self) -> None:
        """Stop it; its unanswered jobs fail at once."""
        self._is_running = False
        self._service.stopService()
        assert not self.waiting, "a stopped master left a Deferred"

    def _submit(self) -> None:
        chance = self._random.random
        type = self._random.choice(TYPES)
        if chance() < 0.1:
            uniques = [self._new_body() for _ in range(1 + int(chance() * 4))]
            answers = self._service.submit_many(type, [{"u": unique} for unique in uniques], **self._terms())
            for unique, answer in zip(uniques, answers, strict=True):
                self._wait_for(unique, answer)
            return
        unique = self._new_body()
        told: list[Any] = []
        watching: dict[str, Any] = {"on_progress": told.append}
        if self._has_receipts:
            watching["on_receipt"] = told.append
        self._wait_for(unique, self._service.submit(type, {"u": unique}, **self._terms(), **watching), told)

    def _new_body(self) -> int:
        self._world.bodies += 1
        return int(self._world.bodies)

    def _terms(self) -> dict[str, Any]:
        chance, choice = self._random.random, self._random.choice
        terms: dict[str, Any] = {"priority": int(chance() * 3)}
        for name, values in _TERMS.items():
            if chance() < 0.1:
                terms[name] = choice(values)
        return terms

    def _wait_for(self, unique: int, answer: Deferred[Any], told: list[Any] | None = None) -> None:
        self.waiting[unique] = answer
        answer.addBoth(self._ended, unique, told)

    def _ended(self, result: Any, unique: int, told: list[Any] | None) -> None:
        del self.waiting[unique]
        self._world.client_answers += 1
        if not isinstance(result, Failure):
            if told is not None:
                receipts = [one for one in told if "attempts" in one]
                assert len(receipts) == self._has_receipts, f"receipts: {receipts}"
            assert result["u"] == unique or "rogue" in result, f"{result} is the answer to {unique}"
            return
        error = result.value
        if isinstance(error, JobFailed):
            assert error.error in _FAILURES, error
        elif isinstance(error, RequestRefused):
            assert error.error in ("busy", "no_slaves"), error  # a refused job waits for the next broker while draining
        elif isinstance(error, BodyError):
            assert unique in self._world.unreadable, f"an answer that can be read is said not to be: {error}"
        else:
            assert isinstance(error, CancelledError | TransportError), error


def _nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


class ClientSlave:
    """Answers at once, or later, or raises."""

    def __init__(self, world: Any, number: int) -> None:
        self._random: Random = world.random
        self.is_calm = False
        self._runs: list[tuple[Deferred[Any], Any]] = []
        self._service = _Slave(
            world.slave_endpoint,
            ["a", "c", *MORE_TYPES] if number == 2 else TYPES[number],
            self._run,
            reactor=world.clients_clock,
            name=f"slave{number}",
            finish_seconds=5,
            slots=1 + number,
        )
        self._service._runs = OrderedSet()  # type: ignore[assignment]
        self._service.startService()
        self._is_running = True

    def _run(self, body: Any) -> Any:
        chance = self._random.random()
        if chance < 0.1:
            raise TryAgain("once more")
        if chance < 0.16:
            raise ValueError("no")
        if chance < 0.18:
            raise self._random.choice(hostile_exceptions.KINDS)
        if chance < 0.2:
            return self._random.choice((_nested(BODY_LEVELS + 1), {1: 2}, float("nan")))
        if chance < 0.5 or self.is_calm:
            return body
        current_job().progress(body)
        run: Deferred[Any] = Deferred()
        self._runs.append((run, body))
        return run

    def act(self) -> bool:
        """Do something; return whether there was something to do."""
        chance = self._random.random()
        if self._runs:
            run, body = self._runs.pop(int(self._random.random() * len(self._runs)))
            if not run.called:
                run.callback(body)
        elif self._is_running and chance < 0.005 and not self.is_calm:
            self.stop()
        elif not self._is_running and (chance < 0.2 or self.is_calm):
            self._is_running = True
            self._service.startService()
        else:
            return False
        return True

    def stop(self) -> None:
        """Stop it; it finishes the jobs in hand first."""
        self._is_running = False
        self._service.stopService()
