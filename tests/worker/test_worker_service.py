"""A worker's slots: its joins, its leaves and its log, with simulated children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from msgspec import Raw
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure

from gloom.client.deferred.run import Run
from gloom.server.access import Access, Identity, hash_token
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.messages import ExtendedRespond, Fail
from gloom.worker.childprocess import Child, ChildError
from gloom.worker.pipe import ANSWER, FAILURE, OUTCOMES_FD, PROGRESS, READY, UNUSABLE, Job, encode_failure, frame_of
from gloom.worker.service import Refused, Worker
from tests.support.logged import logged


class PlayedChild(Child):
    """
    A child without a process, driven by the test.

    Attributes:
        jobs: The jobs that it was given.
        was_killed: Whether its parent has killed it.
    """

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.jobs: list[Job] = []
        self.was_killed = False

    def run(self, job: Job, *told: Any) -> None:
        self.jobs.append(job)
        super().run(job, *told)

    def end(self) -> None:
        self._ends(ProcessDone(0))

    def kill(self) -> None:
        self.was_killed = True
        self.dies()

    def says(self, kind: bytes, content: bytes = b"") -> None:
        self.childDataReceived(OUTCOMES_FD, frame_of(kind + self.number, content))

    def dies(self) -> None:
        self._ends(ProcessTerminated(signal=9))

    def ends(self, status: int) -> None:
        self._ends(ProcessTerminated(exitCode=status))

    def _ends(self, how: Exception) -> None:
        if not self.ended.called:
            self.processEnded(Failure(how))


class Workshop:
    """
    A broker in memory, one worker, and its children.

    Attributes:
        gloom: The broker.
        worker: The worker.
        children: Every child that it has started, oldest first.
        shortage: The error of starting a process; None for no error.
        log: Its log events.
    """

    def __init__(self, log: list[LogEvent]) -> None:
        self.gloom = MemoryGloom()
        self.children: list[PlayedChild] = []
        self.shortage: OSError | None = None
        self.advance = self.gloom.advance
        self._log = log

    def start(self, concurrency: int = 1, types: Sequence[str] = ("count",), **options: Any) -> Workshop:
        self.worker = Worker(
            self._new_child,
            types,
            options.pop("endpoint", self.gloom.slave_endpoint),
            reactor=self.gloom.clock,
            concurrency=concurrency,
            name="shop",
            **options,
        )
        self.worker.startService()
        return self

    def ready(self, *children: int) -> None:
        """Have children report ready: all of them, or those of these numbers."""
        for number in children or range(len(self.children)):
            self.children[number].says(READY)
        self.advance()

    def master(self, *bodies: Any) -> RawPeer:
        """Return a master that has submitted jobs with *bodies*, and numbers from 0 as ids."""
        master = self.gloom.master()
        master.ask({"action": "hello", "version": 1})
        for id, body in enumerate(bodies):
            assert master.ask({"action": "submit", "id": id, "type": "count", "body": body})[0] == {"ok": True}
        return master

    def lines(self, level: Any = LogLevel.info) -> list[str]:
        """Return and clear the log lines at *level* and above."""
        lines = [str(formatEvent(event)) for event in self._log if event["log_level"] >= level]
        self._log.clear()
        return lines

    def stop(self) -> int:
        stopped = self.worker.stopService()
        self.advance()
        return self.gloom.result(stopped)

    def _new_child(self) -> Child:
        if self.shortage is not None:
            raise self.shortage
        self.children.append(PlayedChild(self.gloom.clock))
        return self.children[-1]


@pytest.fixture
def shop() -> Iterator[Workshop]:
    with logged("gloom.worker") as log:
        one = Workshop(log)
        yield one
        for child in one.children:
            child.ready.addErrback(lambda _: None)
    with suppress(AttributeError):
        one.worker.kill()
        one.worker.stopService()
        one.advance(60)
    assert not one.gloom.clock.getDelayedCalls()


def test_it_joins_when_its_child_is_ready(shop: Workshop) -> None:
    """The worker joins only when its child is ready, so that it takes no job without a process."""
    shop.start()
    master = shop.master("body")
    assert not shop.gloom.slaves.peers
    shop.ready()
    (job,) = shop.children[0].jobs
    assert (job.id, job.type, bytes(job.body)) == (0, "count", b'"body"')
    assert 16 * 2**20 - 100 < job.max_answer_bytes < 16 * 2**20
    shop.children[0].says(ANSWER, b"[1.0]")
    shop.advance()
    assert master.frames == [b'{"id":0,"body":[1.0]}']


def test_each_slot_takes_a_job(shop: Workshop) -> None:
    """With two slots two jobs run at once, and the third waits."""
    shop.start(2)
    shop.ready()
    master = shop.master(1, 2, 3)
    assert [len(child.jobs) for child in shop.children] == [1, 1]
    assert shop.worker.busy == 2
    shop.children[1].says(ANSWER, b"2")
    shop.advance()
    assert master.take() == [{"id": 1, "body": 2}]
    assert [job.id for job in shop.children[1].jobs] == [1, 2]


def test_what_a_child_says_of_a_failure_reaches_the_master(shop: Workshop) -> None:
    """Kind, reason and traceback of a failure reach the master unchanged, with the worker's name."""
    shop.start(2)
    shop.ready()
    master = shop.master(1)
    failure = Fail("no such shelf\nreally", kind="LookupError", traceback="Traceback ...")
    shop.children[0].says(FAILURE, encode_failure(failure))
    shop.advance()
    (outcome,) = master.take()
    assert (outcome["kind"], outcome["reason"], outcome["traceback"]) == (
        "LookupError",
        "no such shelf\nreally",
        "Traceback ...",
    )
    assert outcome["attempts"] == [{"slave": "shop", "seconds": 0.0, "ended": "failed"}]
    assert shop.lines(LogLevel.warn) == [
        "job 0 of count failed: LookupError: no such shelf [...]",
        "job 0 of count: Traceback ...",
    ]


def test_an_error_of_every_job_has_one_traceback_in_the_log(shop: Workshop) -> None:
    """Each failure has a log line; the traceback of the same error is logged once, without escape sequences."""
    shop.start(1)
    shop.ready()
    shop.master(1, 2)
    for number in (1, 2):
        failure = Fail(f"no\x1b[1m {number}", kind="LookupError", traceback=f"Traceback\n\tno\x1b[1m {number}\n")
        shop.children[0].says(FAILURE, encode_failure(failure))
        shop.advance()
    assert shop.lines(LogLevel.warn) == [
        r"job 0 of count failed: LookupError: no\x1b[1m 1",
        "job 0 of count: Traceback\n        no\\x1b[1m 1",
        r"job 1 of count failed: LookupError: no\x1b[1m 2",
    ]


# Children that die


def test_a_job_whose_child_dies_is_never_given_to_the_dead(shop: Workshop) -> None:
    """A dead child's slot is withdrawn before its job fails, so that the retry goes to a live child at once."""
    shop.start(2)
    shop.ready()
    master = shop.master(1)
    shop.children[0].dies()
    shop.advance()
    assert [job.id for job in shop.children[1].jobs] == [0]
    shop.children[1].says(ANSWER, b"1")
    shop.advance()
    assert master.take() == [{"id": 0, "body": 1}]
    assert shop.lines(LogLevel.warn) == [
        "job 0 of count failed and asks for another try: WorkerDied: the worker process was killed by SIGKILL"
    ]


def test_a_child_that_died_at_work_is_replaced_at_once(shop: Workshop) -> None:
    """A child that dies during a job is replaced at once: the next one may do better."""
    shop.start()
    shop.ready()
    master = shop.master(1)
    shop.children[0].dies()
    shop.advance()
    assert len(shop.children) == 2
    # The worker stays connected, and takes no job meanwhile.
    assert len(shop.gloom.slaves.peers) == 1
    assert not shop.children[1].jobs
    shop.ready(1)
    shop.children[1].says(ANSWER, b"1")
    shop.advance()
    assert master.take() == [{"id": 0, "body": 1}]


def test_a_child_that_dies_idle_is_told_and_replaced(shop: Workshop) -> None:
    """An idle child's death is one log line; a child that never worked is replaced after a pause."""
    shop.start()
    shop.ready()
    shop.lines()
    shop.children[0].dies()
    shop.advance()
    assert shop.lines() == ["the worker process was killed by SIGKILL, without a job; another one starts"]
    assert len(shop.children) == 1
    shop.advance(0.2)
    assert len(shop.children) == 2


def test_a_job_that_comes_for_a_dead_child_is_tried_again(shop: Workshop) -> None:
    """A job on its way to a dead child is given back."""
    shop.start()
    shop.ready()
    master = shop.gloom.master()
    master.ask({"action": "hello", "version": 1})
    # The broker has assigned the job, and the worker has not received it before its child dies.
    shop.gloom.slave_endpoint.connections[0].stalled = True
    master.ask({"action": "submit", "id": 0, "type": "count", "body": 1})
    shop.children[0].dies()
    shop.gloom.slave_endpoint.connections[0].stalled = False
    shop.lines()
    shop.advance()
    assert shop.lines() == [
        "job 0 of count failed and asks for another try: WorkerDied: the worker process that it came for has died"
    ]
    assert not master.take()
    shop.advance(0.2)
    shop.ready(1)
    assert [job.id for job in shop.children[1].jobs] == [0]


def test_what_a_child_tells_of_its_job_reaches_the_master(shop: Workshop) -> None:
    """The bytes of a child's progress reach the master unchanged."""
    shop.start()
    shop.ready()
    master = shop.gloom.master()
    master.ask({"action": "hello", "version": 1, "accept": ["progress"]})
    master.ask({"action": "submit", "id": 0, "type": "count", "body": 1})
    shop.children[0].says(PROGRESS, b'{"done":  0.50}')
    shop.advance()
    assert master.frames == [b'{"id":0,"progress":{"done":  0.50}}']
    master.take()
    shop.children[0].says(ANSWER, b"1")
    shop.children[0].says(PROGRESS, b'"late"')
    shop.advance()
    assert master.take() == [{"id": 0, "body": 1}]


def test_the_child_of_a_job_that_is_cancelled_is_killed(shop: Workshop) -> None:
    """The child of a cancelled job is killed; another child takes its place, and the next job."""
    shop.start()
    shop.ready()
    master = shop.master(1, 2)
    shop.lines()
    assert master.ask({"action": "cancel", "id": 0})[0] == {"ok": True, "state": "cancelling"}
    assert shop.children[0].was_killed
    assert shop.lines() == ["job 0 of count is cancelled: its process is killed"]
    shop.advance(0.2)
    shop.ready(1)
    assert [job.id for job in shop.children[1].jobs] == [1]
    shop.children[1].says(ANSWER, b"2")
    shop.advance()
    assert master.take()[-1] == {"id": 1, "body": 2}


def test_the_end_of_one_child_leaves_the_others_at_work(shop: Workshop) -> None:
    """All slots share one connection; a cancel ends its own job's process, and no other job."""
    shop.start(2)
    shop.ready()
    master = shop.master(1, 2, 3)
    master.ask({"action": "cancel", "id": 0})
    assert [child.was_killed for child in shop.children[:2]] == [True, False]
    shop.children[1].says(ANSWER, b"2")
    shop.advance()
    assert master.take() == [{"id": 1, "body": 2}]
    # The third job went to the live child; no fourth comes before there is another child.
    assert [job.id for job in shop.children[1].jobs] == [1, 2]
    master.ask({"action": "submit", "id": 3, "type": "count", "body": 4})
    assert not shop.children[2].jobs
    shop.ready(2)
    assert [job.id for job in shop.children[2].jobs] == [3]


def test_a_child_of_a_lost_connection_takes_jobs_when_it_is_free_beside_the_others(shop: Workshop) -> None:
    """After a reconnect a free child works at once; one that still runs an old job joins after it."""
    shop.start(2)
    shop.ready()
    shop.master(1)
    shop.gloom.restart()
    shop.gloom.drop_all()
    shop.advance(0.2)
    shop.master(2, 3)
    assert [len(child.jobs) for child in shop.children] == [1, 1]
    shop.children[0].says(ANSWER, b"1")
    shop.advance()
    assert [bytes(job.body) for job in shop.children[0].jobs] == [b"1", b"3"]


def test_a_worker_may_have_several_types(shop: Workshop) -> None:
    """Each child takes jobs of every type of the worker."""
    shop.start(types=["count", "sum"])
    shop.ready()
    master = shop.gloom.master()
    master.send({"action": "submit", "id": 0, "type": "sum", "body": 1})
    assert [(job.id, job.type) for job in shop.children[0].jobs] == [(0, "sum")]
    assert shop.lines() == [f"joined count, sum at {shop.gloom.slave_endpoint} (1 at once)"]


def test_a_broker_that_does_not_let_it_in_is_told_once(shop: Workshop) -> None:
    """A refusal is logged once, with the broker's reason, and the worker retries."""
    shop.gloom.access = Access([Identity("farm", frozenset({"slave"}), ("*",), token_sha256=hash_token("right"))])
    shop.gloom.restart()
    shop.start(token="wrong")
    shop.ready()
    shop.advance(5)
    lines = shop.lines()
    assert lines == [
        f"the broker at {shop.gloom.slave_endpoint} refuses this worker: "
        "unauthorized -> the token is not known here; trying again"
    ]


def test_children_that_cannot_start_are_tried_ever_more_slowly(shop: Workshop) -> None:
    """If the module breaks later, children are restarted with pauses that grow to 15 seconds."""
    shop.start()
    shop.ready()
    shop.children[0].dies()
    for _ in range(2000):
        shop.advance(0.1)
        if not shop.children[-1].ready.called:
            shop.children[-1].dies()
    # Seconds: 200. Without a pause it would be 2000 of them.
    assert 15 < len(shop.children) < 40
    assert shop.lines(LogLevel.error)[0] == (
        "cannot start a worker process: WorkerDied: the worker process was killed by SIGKILL"
    )
    shop.advance(15)
    shop.ready(-1)
    assert len(shop.gloom.slaves.peers) == 1


def test_a_worker_that_never_could_start_is_broken(shop: Workshop) -> None:
    """If the very first children fail, the worker reports it once, and gives up."""
    shop.start(2)
    failure = Fail("there is no module 'shop'", kind="CannotLoad")
    for child in shop.children:
        child.says(UNUSABLE, encode_failure(failure))
        child.dies()
    shop.advance(60)
    with pytest.raises(ChildError) as broken:
        shop.gloom.result(shop.worker.broken)
    assert broken.value.fail == failure
    assert len(shop.children) == 2
    assert shop.stop() == 0


def test_a_first_child_that_is_killed_is_started_again(shop: Workshop) -> None:
    """A first child killed by a signal says nothing about the function, so another one starts."""
    shop.start()
    shop.children[0].dies()
    shop.advance(1)
    assert shop.lines() == [
        "cannot start a worker process: WorkerDied: the worker process was killed by SIGKILL",
    ]
    assert len(shop.children) == 2
    shop.ready(1)
    shop.master(1)
    assert [job.id for job in shop.children[1].jobs] == [0]
    assert not shop.worker.broken.called


def test_a_first_child_that_is_always_killed_ends_the_worker(shop: Workshop) -> None:
    """After five killed first children in a row, the worker ends."""
    shop.start()
    for _ in range(100):
        shop.children[-1].dies()
        shop.advance(0.1)
    with pytest.raises(ChildError, match="was killed by SIGKILL"):
        shop.gloom.result(shop.worker.broken)
    assert len(shop.children) == 5
    assert shop.stop() == 0


def test_a_first_child_that_ends_by_itself_ends_the_worker(shop: Workshop) -> None:
    """A first child that ends by itself, by os._exit in its module, ends the worker."""
    shop.start()
    shop.children[0].ends(3)
    with pytest.raises(ChildError, match="ended with exit status 3"):
        shop.gloom.result(shop.worker.broken)
    assert len(shop.children) == 1
    assert shop.stop() == 0


def test_a_system_that_starts_no_process_is_asked_again(shop: Workshop) -> None:
    """If no process can be started, the worker logs the reason and retries, at its start and later."""
    shop.shortage = OSError(11, "Resource temporarily unavailable")
    shop.start()
    shop.shortage = None
    shop.advance(1)
    assert shop.lines() == [
        "cannot start a worker process: WorkerDied: the system cannot start a process: Resource temporarily unavailable"
    ]
    shop.ready()
    shop.shortage = OSError(24, "Too many open files")
    shop.lines()
    shop.children[0].dies()
    shop.advance(1)
    assert "the system cannot start a process: Too many open files" in shop.lines()[1]
    shop.shortage = None
    shop.advance(15)
    assert len(shop.children) == 2
    assert shop.stop() == 0


def test_a_worker_stops_though_it_has_never_had_a_child(shop: Workshop) -> None:
    """A worker that could not start any process stops at once."""
    shop.shortage = OSError(11, "Resource temporarily unavailable")
    shop.start(2)
    assert shop.worker.busy == 0
    assert shop.stop() == 0
    shop.worker.kill()


def test_an_answer_that_cannot_be_sent_fails_its_job_only(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out for a large answer, its job fails; the other job and the process go on."""
    shop.start(2)
    shop.ready()
    master = shop.master(1, 2)

    def answer(run: Run, body: Raw) -> None:
        if bytes(body) == b"1":
            raise MemoryError
        run.say(ExtendedRespond(body, run.job.id))

    monkeypatch.setattr(shop.worker._slave, "answer", answer)
    shop.children[0].says(ANSWER, b"1")
    shop.children[1].says(ANSWER, b"2")
    shop.advance()
    failed, answered = master.take()
    assert (failed["id"], failed["kind"]) == (0, "MemoryError")
    assert failed["reason"] == "the answer could not be sent: MemoryError()"
    assert answered == {"id": 1, "body": 2}
    assert not any(child.was_killed for child in shop.children)
    master.ask({"action": "submit", "id": 3, "type": "count", "body": 3})
    assert [len(child.jobs) for child in shop.children] == [2, 1]


def test_a_job_that_cannot_be_given_to_a_child_fails_alone(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between the broker and the process fails that job only."""
    shop.start()
    shop.ready()
    master = shop.master()
    with monkeypatch.context() as patch:
        patch.setattr("gloom.worker.childprocess.encode_job", lambda _job: 1 / 0)
        _, failed = master.ask({"action": "submit", "id": 0, "type": "count", "body": 1})
    assert (failed["id"], failed["kind"]) == (0, "ZeroDivisionError")
    assert master.ask({"action": "submit", "id": 1, "type": "count", "body": 1})[0] == {"ok": True}
    shop.children[0].says(ANSWER, b"1")
    shop.advance()
    assert master.take() == [{"id": 1, "body": 1}]


# The broker


def test_a_port_for_masters_is_no_place_for_a_worker(shop: Workshop) -> None:
    """On the port for masters the broker refuses the join, and the worker reports it at once."""
    shop.start(endpoint=shop.gloom.master_endpoint)
    shop.ready()
    with pytest.raises(Refused) as refused:
        shop.gloom.result(shop.worker.broken)
    assert refused.value.error.error == "invalid_action"
    assert not shop.lines()
    assert shop.stop() == 0


def test_a_type_that_the_worker_may_not_have_ends_it(shop: Workshop) -> None:
    """A worker without the right to a type ends, and does not report that it joined."""
    shop.gloom.access = Access([Identity("farm", frozenset({"slave"}), ("mail",), token_sha256=hash_token("t"))])
    shop.gloom.restart()
    shop.start(token="t")
    shop.ready()
    with pytest.raises(Refused, match="forbidden -> farm may not have jobs of the type count"):
        shop.gloom.result(shop.worker.broken)
    assert not shop.lines()
    assert shop.stop() == 0


def test_a_worker_that_is_refused_later_tries_on(shop: Workshop) -> None:
    """If the rules change later, the worker logs the refusal once, and joins when it is admitted."""

    def allow(type: str) -> None:
        farm = Identity("farm", frozenset({"slave"}), (type,), token_sha256=hash_token("t"))
        shop.gloom.access = Access([farm])
        shop.gloom.restart()
        shop.gloom.drop_all()

    allow("count")
    shop.start(token="t")
    shop.ready()
    shop.lines()
    allow("mail")
    shop.advance(60)
    gone, refused = shop.lines()
    assert gone.endswith(" is gone; trying again")
    assert refused.endswith(" refuses count: forbidden -> farm may not have jobs of the type count; trying again")
    allow("count")
    shop.advance(60)
    gone, again = shop.lines()
    assert again.endswith(" again (1 at once)")
    allow("mail")
    shop.advance(1)
    assert shop.stop() == 0


def test_the_broker_is_told_of_once_for_all_slots(shop: Workshop) -> None:
    """Joined, lost and joined again are one log line each, however many slots there are."""
    shop.start(3)
    shop.ready()
    (joined,) = shop.lines()
    assert joined.startswith("joined count at <gloom.testing.MemoryEndpoint")
    assert joined.endswith("> (3 at once)")
    shop.gloom.slave_endpoint.refusing = True
    shop.gloom.drop_all()
    shop.advance(60)
    (gone,) = shop.lines()
    assert gone.endswith(" is gone; trying again")
    shop.gloom.slave_endpoint.refusing = False
    shop.advance(60)
    (again,) = shop.lines()
    assert again.endswith(" again (3 at once)")
    assert len(shop.gloom.slaves.peers) == 1
    shop.master(1, 2, 3, 4)
    assert [len(child.jobs) for child in shop.children] == [1, 1, 1]


def test_a_broker_that_is_not_there_is_told_once(shop: Workshop) -> None:
    """A worker that starts before its broker logs once that it waits."""
    shop.gloom.slave_endpoint.refusing = True
    shop.start(2)
    shop.ready()
    shop.advance(60)
    (line,) = shop.lines()
    assert line.startswith("no broker at ")
    assert line.endswith(": An error occurred while connecting: the broker is down; trying again")


def test_a_run_that_was_lost_with_its_connection_ends_before_the_next_job(shop: Workshop) -> None:
    """After a reconnect the slot joins once its child has finished the old job, whose answer is dropped."""
    shop.start()
    shop.ready()
    shop.master(1)
    shop.gloom.restart()
    shop.gloom.drop_all()
    shop.advance(0.2)
    assert len(shop.gloom.slaves.peers) == 1
    second = shop.master(2)
    assert len(shop.children[0].jobs) == 1
    shop.children[0].says(ANSWER, b"1")
    shop.advance()
    assert [bytes(job.body) for job in shop.children[0].jobs] == [b"1", b"2"]
    shop.children[0].says(ANSWER, b"2")
    shop.advance()
    assert second.take() == [{"id": 0, "body": 2}]


def test_a_run_that_was_lost_and_does_not_end_is_killed(shop: Workshop) -> None:
    """A job whose connection has ended has a second to end; then a new process takes its place."""
    shop.start()
    shop.ready()
    shop.master(1)
    shop.gloom.drop_all()
    shop.advance(0.2)
    assert not shop.children[0].was_killed
    shop.advance(1)
    assert shop.children[0].was_killed
    assert len(shop.children) == 2


def test_a_connection_that_ends_while_a_child_is_busy_is_not_joined(shop: Workshop) -> None:
    """A slot does not join on a connection that was opened and lost during its old job."""
    shop.start()
    shop.ready()
    shop.master(1)
    for _ in range(2):
        shop.gloom.drop_all()
        shop.advance(0.2)
    shop.gloom.drop_all()
    shop.children[0].says(ANSWER, b"1")
    shop.advance(0.2)
    shop.master(2)
    assert [bytes(job.body) for job in shop.children[0].jobs] == [b"1", b"2"]


# Stopping


def test_an_idle_worker_stops_at_once(shop: Workshop) -> None:
    """Stopping sends leave, ends the children without killing them, and closes the connection."""
    shop.start(2)
    shop.ready()
    assert shop.stop() == 0
    assert not any(child.was_killed for child in shop.children)
    assert all(child.ended.called for child in shop.children)
    assert not shop.gloom.slaves.peers


def test_stopping_finishes_the_job_in_hand(shop: Workshop) -> None:
    """The running job is answered, and no other job is taken."""
    shop.start()
    shop.ready()
    master = shop.master(1, 2)
    stopped = shop.worker.stopService()
    shop.advance(29)
    assert not stopped.called
    shop.children[0].says(ANSWER, b"1")
    shop.advance()
    assert shop.gloom.result(stopped) == 0
    assert master.take() == [{"id": 0, "body": 1}]
    assert len(shop.children[0].jobs) == 1
    assert not shop.children[0].was_killed


def test_stopping_does_not_wait_for_ever(shop: Workshop) -> None:
    """After finish_seconds the running job is cut off and counted, and another worker gets it."""
    shop.start(2, finish_seconds=5)
    shop.ready()
    shop.master(1)
    stopped = shop.worker.stopService()
    shop.advance(4.9)
    assert not stopped.called
    shop.advance(0.1)
    assert shop.gloom.result(stopped) == 1
    assert [child.was_killed for child in shop.children] == [True, False]
    other = shop.gloom.slave()
    other.send({"action": "join", "type": "count"})
    assert [message.get("id") for message in other.take()] == [None, 0]


def test_a_child_that_dies_while_its_job_is_waited_for(shop: Workshop) -> None:
    """A child that dies during the stop fails its job, and is not replaced."""
    shop.start()
    shop.ready()
    shop.master(1)
    stopped = shop.worker.stopService()
    shop.advance()
    shop.children[0].dies()
    shop.advance()
    assert shop.gloom.result(stopped) == 0
    assert len(shop.children) == 1


def test_a_worker_that_is_killed_leaves_no_child(shop: Workshop) -> None:
    """An immediate end kills every child."""
    shop.start(2)
    shop.ready()
    shop.master(1)
    shop.worker.kill()
    assert all(child.was_killed for child in shop.children)


def test_stopping_while_children_start_kills_them(shop: Workshop) -> None:
    """A stop kills a child that is not ready, since it has no job to finish."""
    shop.start(2)
    shop.ready(0)
    assert shop.stop() == 0
    assert [child.was_killed for child in shop.children] == [False, True]


def test_stopping_during_a_pause_ends_it(shop: Workshop) -> None:
    """A slot that pauses before its next child stops at once."""
    shop.start()
    shop.ready()
    shop.children[0].dies()
    shop.advance()
    assert shop.stop() == 0
    assert len(shop.children) == 1


def test_stopping_without_a_broker(shop: Workshop) -> None:
    """A worker that never reached its broker stops, and logs no more."""
    shop.gloom.slave_endpoint.refusing = True
    shop.start()
    shop.ready()
    shop.lines()
    assert shop.stop() == 0
    assert shop.lines() == []
