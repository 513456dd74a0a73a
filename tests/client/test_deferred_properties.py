"""Masters and slaves under any sequence of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from gloom.client.deferred import Master, Slave
from gloom.errors import JobFailed, RequestRefused, TransportError, TryAgain
from tests.support.farm import Farm


class Story:
    """
    Two masters and two slaves, to which things happen.

    Invariants, held at the end, when all of them run and the broker lives:

    - every Deferred of `submit` has fired, and none twice;
    - an answer is that of its own body (or, for an id that a test chose, of a body that had this id);
    - a failure has its cause: a function that raised, a stop, a cancel, an id that is in flight;
    - nothing is left: no unanswered job, no timer, no logged error.
    """

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.answers: list[Deferred[Any]] = []
        self.outcomes: list[list[Any]] = []
        self.ids: list[int | None] = []
        self.cancelled: set[int] = set()
        self.runs: list[Deferred[Any]] = []
        self.masters = [farm.master() for _ in range(2)]
        self.slaves = [farm.slave("work", self.function, finish_seconds=2) for _ in range(2)]
        self.stopped: list[Deferred[None]] = []

    def function(self, body: int) -> Any:
        match body % 4:
            case 0:
                return body
            case 1:
                run: Deferred[Any] = Deferred()
                self.runs.append(run)
                return run.addCallback(lambda _: body)
            case 2:
                raise ValueError(body)
        raise TryAgain

    # The events

    def submit(self, n: int) -> None:
        self._submit(self.masters[n % 2], None)

    def submit_with_id(self, n: int) -> None:
        self._submit(self.masters[n % 2], n % 3)

    def _submit(self, master: Master, id: int | None) -> None:
        body, seen = len(self.answers), list[Any]()
        answer = master.submit("work", body, id=id)
        self.ids.append(id)
        self.answers.append(answer)
        self.outcomes.append(seen)
        answer.addBoth(seen.append)

    def cancel(self, n: int) -> None:
        if self.answers and not self.outcomes[n % len(self.answers)]:
            self.cancelled.add(n % len(self.answers))
            self.answers[n % len(self.answers)].cancel()

    def finish(self, n: int) -> None:
        if self.runs:
            run = self.runs.pop(n % len(self.runs))
            if not run.called:
                run.callback(None)

    def hop(self, _n: int) -> None:
        """Carry bytes in one direction at a time, so that other events meet messages under way."""
        self.farm.gloom.clock.advance(0)
        self.farm.gloom.master_endpoint.carry()
        self.farm.gloom.slave_endpoint.carry()

    def pass_time(self, n: int) -> None:
        self.farm.advance(n / 10)

    def drop(self, n: int) -> None:
        ends = [self.farm.gloom.master_endpoint, self.farm.gloom.slave_endpoint][n % 2].connections
        if ends:
            ends[n % len(ends)].abortConnection()

    def crash(self, _n: int) -> None:
        self.farm.gloom.restart()
        self.farm.gloom.drop_all()

    def go_away(self, n: int) -> None:
        for endpoint in (self.farm.gloom.master_endpoint, self.farm.gloom.slave_endpoint):
            endpoint.refusing = n % 2 == 0

    def stop(self, n: int) -> None:
        self.stopped.append(self._services()[n % 4].stopService())

    def start(self, n: int) -> None:
        self._services()[n % 4].startService()

    def _services(self) -> list[Master | Slave]:
        return [*self.masters, *self.slaves]

    # The end

    def end(self) -> None:
        self.go_away(1)
        for service in self._services():
            service.startService()
        for _ in range(60):
            self.farm.advance(1)
            while self.runs:
                self.finish(0)
            self.farm.advance()
        for stopped in self.stopped:
            self.farm.result(stopped)
        for body, seen in enumerate(self.outcomes):
            assert len(seen) == 1, f"job {body} has fired {len(seen)} times"
            self.check(body, seen[0])

    def check(self, body: int, outcome: Any) -> None:
        mine = [other for other, id in enumerate(self.ids) if id == self.ids[body]]
        bodies = [body] if self.ids[body] is None else mine
        if not isinstance(outcome, Failure):
            assert outcome in bodies
            assert outcome % 4 < 2
            return
        kind = outcome.type
        assert kind in (CancelledError, TransportError, RequestRefused, JobFailed), outcome
        if kind is CancelledError:
            assert body in self.cancelled
        elif kind is RequestRefused:
            assert self.ids[body] is not None
        elif kind is TransportError:
            assert self.stopped
        elif isinstance(outcome.value, JobFailed) and outcome.value.kind is not None:
            # Else its slaves have disappeared.
            assert any(other % 4 >= 2 for other in bodies)


EVENTS: dict[str, Callable[[Story, int], None]] = {
    name: getattr(Story, name)
    for name in ("submit", "submit_with_id", "cancel", "finish", "hop", "pass_time", "drop", "crash", "go_away")
} | {"stop": Story.stop, "start": Story.start}
# The most frequent events of a real client come most often.
NAMES = ["submit"] * 4 + ["hop"] * 6 + ["finish"] * 2 + list(EVENTS)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 11)), max_size=60))
def test_every_job_has_one_outcome_in_any_story(events: list[tuple[str, int]]) -> None:
    """Connections drop, brokers die, services stop, jobs are given up: each Deferred fires once, and rightly."""
    with Farm() as farm:
        story = Story(farm)
        for name, n in events:
            EVENTS[name](story, n)
        story.end()
