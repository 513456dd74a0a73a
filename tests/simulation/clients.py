"""The library's own masters and slaves, used as a program uses them."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gloom.client.deferred import Master, Slave
from gloom.errors import JobFailed, RequestRefused, TransportError, TryAgain

from .raw import TYPES

_FAILURES = ("job_failed", "timeout", "expired", "cancelled", "draining")


class ClientMaster:
    """
    Submits, and gives some jobs up.

    Attributes:
        waiting: The Deferreds that have not fired.
    """

    def __init__(self, world: Any, number: int) -> None:
        self._world = world
        self._random: Random = world.random
        self.is_calm = False
        self.waiting: dict[int, Deferred[Any]] = {}
        self._service = Master(world.master_endpoint, reactor=world.clients_clock, name=f"master{number}")
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
        """Stop it; what it has unanswered fails at once."""
        self._is_running = False
        self._service.stopService()
        assert not self.waiting, "a stopped master left a Deferred"

    def _submit(self) -> None:
        world = self._world
        world.bodies += 1
        unique: int = world.bodies
        answer = self._service.submit(
            self._random.choice(TYPES), {"u": unique}, priority=int(self._random.random() * 3)
        )
        self.waiting[unique] = answer
        answer.addBoth(self._ended, unique)

    def _ended(self, result: Any, unique: int) -> None:
        del self.waiting[unique]
        self._world.client_answers += 1
        if not isinstance(result, Failure):
            assert result["u"] == unique or "rogue" in result, f"{result} is the answer to {unique}"
            return
        error = result.value
        if isinstance(error, JobFailed):
            assert error.error in _FAILURES, error
        elif isinstance(error, RequestRefused):
            assert error.error in ("busy", "draining"), error
        else:
            assert isinstance(error, CancelledError | TransportError), error


class ClientSlave:
    """Answers at once, or later, or raises."""

    def __init__(self, world: Any, number: int) -> None:
        self._random: Random = world.random
        self.is_calm = False
        self._runs: list[tuple[Deferred[Any], Any]] = []
        self._service = Slave(
            world.slave_endpoint,
            TYPES[number % len(TYPES)],
            self._run,
            reactor=world.clients_clock,
            name=f"slave{number}",
            finish_seconds=5,
        )
        self._service.startService()
        self._is_running = True

    def _run(self, body: Any) -> Any:
        chance = self._random.random()
        if chance < 0.1:
            raise TryAgain("once more")
        if chance < 0.2:
            raise ValueError("no")
        if chance < 0.5 or self.is_calm:
            return body
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
        """Stop it; it waits for what is in hand."""
        self._is_running = False
        self._service.stopService()
