"""`gloom.client.deferred.Master` against the real broker in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError

from gloom.client.deferred import Master
from gloom.errors import BodyError, JobFailed, RequestRefused, TransportError
from gloom.settings import Settings
from gloom.transport.framing import FrameProtocol
from tests.support.farm import Farm, Firings, Scripted


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


# Answers


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**70, 0.5, "", "é\u2028\x00", [], {}, {"a": [1, {"b": None}]}])
async def test_a_value_goes_to_the_slave_and_comes_back_as_it_was(farm: Farm, value: object) -> None:
    """Bodies and answers are the Python values that JSON has, and arrive unchanged."""
    farm.slave("echo", lambda body: body)
    answer = farm.master().submit("echo", value)
    farm.advance()
    arrived = await answer
    assert arrived == value
    assert type(arrived) is type(value)


def test_answers_come_to_callbacks_too(farm: Farm) -> None:
    """Without await: callbacks get the answer, errbacks the failure."""
    farm.slave("half", lambda n: 1 / n)
    master, seen = farm.master(), list[Any]()
    master.submit("half", 2).addCallback(seen.append)
    master.submit("half", 0).addErrback(lambda failure: seen.append(failure.trap(JobFailed)))
    farm.advance()
    assert seen == [0.5, JobFailed]


def test_an_untyped_job_goes_to_any_slave(farm: Farm) -> None:
    """The type None asks for whichever slave is free."""
    farm.slave("anything", lambda body: "done")
    assert farm.result(farm.master().submit(None, 1)) == "done"


def test_priority_goes_before_age(farm: Farm) -> None:
    """Larger priorities are served first, equal ones in the order of submission."""
    master, served = farm.master(), list[str]()
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1), ("e", 5)):
        master.submit("note", name, priority=priority)
    farm.advance()
    farm.slave("note", served.append)
    assert "".join(served) == "beacd"


@pytest.mark.parametrize("id", ["mine", 7, -(2**70), "x" * 255])
def test_the_id_may_be_chosen(farm: Farm, id: str | int) -> None:
    """A given id is the id that the slave sees."""
    slave = farm.raw_slave("echo")
    answer = farm.master().submit("echo", 1, id=id)
    farm.advance()
    assert [job["id"] for job in slave.take()] == [id]
    slave.ask({"action": "respond", "body": 2})
    assert farm.result(answer) == 2


def test_made_up_ids_are_unique(farm: Farm) -> None:
    """Two masters of one program never collide."""
    slave = farm.raw_slave("other")
    masters = [farm.master(name="same"), farm.master(name="same")]
    answers = [master.submit("echo", n) for master in masters for n in range(50)]
    farm.slave("echo", lambda body: body)
    assert [farm.result(answer) for answer in answers] == [*range(50), *range(50)]
    assert slave.take() == []


class Patient(FrameProtocol):
    """
    A broker that accepts every job, and answers them all when it is told to.

    Attributes:
        submits: The accepted submits.
    """

    def __init__(self, farm: Farm) -> None:
        super().__init__(2**31, farm.gloom.flushes, farm.gloom.clock)
        self.submits: list[Any] = []

    def stringReceived(self, string: bytes) -> None:
        message = json.loads(string)
        if message["action"] == "submit":
            self.submits.append(message)
        self.sendString(b'{"ok":true}')

    def answer_all(self) -> None:
        for message in self.submits:
            self.sendString(json.dumps({"id": message["id"], "body": message["body"]}).encode())


def test_ten_thousand_jobs_are_in_flight_at_once(farm: Farm) -> None:
    """One connection carries as many unanswered jobs as there is memory for, in order."""
    broker = Patient(farm)
    farm.gloom.master_endpoint.server = Scripted(lambda: broker)
    master = farm.master()
    firings = Firings().of([master.submit("echo", n) for n in range(10_000)])
    farm.advance()
    assert master.unanswered == 10_000
    assert [message["body"] for message in broker.submits] == list(range(10_000))
    broker.answer_all()
    farm.advance()
    assert firings.answers == [(n, n) for n in range(10_000)]
    assert master.unanswered == 0


# Failures


def test_an_exception_becomes_a_failure_with_kind_reason_and_traceback(farm: Farm) -> None:
    """JobFailed has the exception's name, its text, the slave's traceback and the attempts."""

    def count_words(body: Any) -> int:
        return len(body.split())

    farm.slave("words", count_words, name="worker:1")
    answer = farm.master().submit("words", 5, id="five")
    with pytest.raises(JobFailed) as raised:
        farm.result(answer)
    failed = raised.value
    assert (failed.id, failed.error, failed.kind) == ("five", "job_failed", "AttributeError")
    assert failed.reason == "'int' object has no attribute 'split'"
    assert str(failed) == "AttributeError: 'int' object has no attribute 'split'"
    assert failed.traceback is not None
    assert "return len(body.split())" in failed.traceback
    assert [(attempt["slave"], attempt["ended"]) for attempt in failed.attempts] == [("worker:1", "failed")]


def test_a_job_fails_when_all_its_slaves_disappear(farm: Farm) -> None:
    """Where the attempts are spent there is no kind, but each attempt is told."""
    answer = farm.master().submit("heavy", 1)
    for _ in range(4):
        farm.raw_slave("heavy", extended=True).drop()
    with pytest.raises(JobFailed) as raised:
        farm.result(answer)
    assert raised.value.kind is None
    assert raised.value.reason == "the slave raw disappeared (4 attempts)"
    assert [attempt["ended"] for attempt in raised.value.attempts] == ["lost"] * 4


# Refusals


def test_an_id_that_this_master_has_in_flight_is_refused(farm: Farm) -> None:
    """The second job with an id gets id_exists; the first is untouched."""
    master = farm.master()
    first, second = master.submit("echo", 1, id="x"), master.submit("echo", 2, id="x")
    with pytest.raises(RequestRefused) as raised:
        farm.result(second)
    assert (raised.value.error, raised.value.reason, raised.value.id) == ("id_exists", "x", "x")
    farm.slave("echo", lambda body: body)
    assert farm.result(first) == 1


def test_an_id_that_another_master_has_in_flight_is_refused(farm: Farm) -> None:
    """Ids are unique over the whole system, and free again after the outcome."""
    mine, other = farm.master(), farm.master()
    first = other.submit("echo", 1, id="x")
    farm.advance()
    second = mine.submit("echo", 2, id="x")
    with pytest.raises(RequestRefused) as raised:
        farm.result(second)
    assert (raised.value.error, raised.value.id) == ("id_exists", "x")
    farm.slave("echo", lambda body: body)
    assert farm.result(first) == 1
    assert farm.result(mine.submit("echo", 3, id="x")) == 3


WRONG_FIELDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"type": ""}, ValueError, "type must be 1 to 255 characters, got 0"),
    ({"type": "x" * 256}, ValueError, "type must be 1 to 255 characters, got 256"),
    ({"type": 5}, TypeError, "type must be a string of 1 to 255 characters or None, got 5"),
    ({"type": b"t"}, TypeError, "type must be a string of 1 to 255 characters or None, got b't'"),
    ({"type": ["t"]}, TypeError, r"type must be a string .*, got \['t'\]"),
    ({"type": "\ud800"}, ValueError, r"type must be text that UTF-8 can carry.*, got '\\ud800'"),
    ({"priority": "high"}, TypeError, "priority must be an integer, got 'high'"),
    ({"priority": 2**63}, ValueError, r"priority must be -2\*\*63 to 2\*\*63 - 1, got 9223372036854775808"),
    ({"priority": 10**5000}, ValueError, "priority must be .*, got int"),
    ({"priority": True}, TypeError, "priority must be an integer, got True"),
    ({"priority": 1.0}, TypeError, "priority must be an integer, got 1.0"),
    ({"retries": 1.5}, TypeError, "retries must be an integer, 0 to 100, got 1.5"),
    ({"retries": -1}, ValueError, "retries must be 0 to 100, got -1"),
    ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, got '5'"),
    ({"expires": float("nan")}, ValueError, "expires must be 0 to 1e9 seconds, got nan"),
    ({"delay": b""}, TypeError, "delay must be a number of seconds, got b''"),
    ({"require_slave": 1}, TypeError, "require_slave must be True or False, got 1"),
    ({"on_progress": 5}, TypeError, "on_progress must be a function, got 5"),
    ({"on_receipt": print}, ValueError, "on_receipt needs a master with receipts"),
]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        *WRONG_FIELDS,
        ({"id": ""}, ValueError, "id must be 1 to 255 characters, got 0"),
        ({"id": "x" * 256}, ValueError, "id must be 1 to 255 characters, got 256"),
        ({"id": b"x"}, TypeError, "id must be a string of 1 to 255 characters or an integer, got b'x'"),
        ({"id": True}, TypeError, "id must be a string .*, got True"),
        ({"id": []}, TypeError, r"id must be a string .*, got \[\]"),
        ({"id": "\ud800"}, ValueError, "id must be text that UTF-8 can carry"),
        ({"prority": 5}, TypeError, "prority"),
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_a_job_against_the_protocol_is_refused(
    farm: Farm, options: dict[str, Any], kind: type[Exception], told: str, early: bool
) -> None:
    """A wrong field fails its own job at once, before anything is sent; also where no broker is there yet."""
    farm.slave("echo", lambda body: body)
    master = farm.master(start=not early)
    given: dict[str, Any] = {"type": "echo", "body": 2} | options
    before, wrong, after = master.submit("echo", 1), master.submit(**given), master.submit("echo", 3)
    with pytest.raises(kind, match=told):
        farm.gloom.result(wrong)
    master.startService()
    assert (farm.result(before), farm.result(after)) == (1, 3)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        *WRONG_FIELDS,
        ({"id": "mine"}, TypeError, "map takes no id"),
        ({"prority": 5}, TypeError, "map takes no prority; its keywords are window, priority, timeout"),
        ({"window": 0}, ValueError, "window must be 1 or more, got 0"),
        ({"window": 2.0}, TypeError, "window must be an integer, 1 or more, got 2.0"),
        ({"bodies": 5}, TypeError, "not iterable"),
    ],
)
def test_map_refuses_at_the_call(farm: Farm, options: dict[str, Any], kind: type[Exception], told: str) -> None:
    """A term for which each job would be refused is one error, and no body is read."""
    bodies = iter(range(3))
    with pytest.raises(kind, match=told):
        farm.master().map(**({"type": "echo", "bodies": bodies} | options))
    assert next(bodies) == 0


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"token": "secret\ud800"}, ValueError, "token must be text that UTF-8 can carry"),
        ({"token": b"secret"}, TypeError, "token must be a string, got bytes$"),
        ({"token": 7777}, TypeError, "token must be a string, got int$"),
        ({"name": b"n"}, TypeError, "name must be a string, got b'n'"),
        ({"name": "\ud800"}, ValueError, "name must be text that UTF-8 can carry"),
        ({"heartbeat_seconds": "5"}, TypeError, "heartbeat_seconds must be a number of seconds, got '5'"),
        ({"heartbeat_seconds": float("nan")}, ValueError, "heartbeat_seconds must be 0 to 1e9 seconds, got nan"),
        ({"receipts": 1}, TypeError, "receipts must be True or False, got 1"),
        ({"endpoint": 9998}, TypeError, "endpoint must be a string or an IStreamClientEndpoint, got int"),
        ({"endpoint": ("127.0.0.1", 9998)}, TypeError, "endpoint must be a string or .*, got tuple"),
    ],
)
def test_a_master_refuses_wrong_arguments(
    farm: Farm, options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """A wrong argument is said by the constructor; nothing hangs later, and no error shows a token."""
    with pytest.raises(kind, match=told) as raised:
        Master(**({"endpoint": farm.gloom.master_endpoint, "reactor": farm.gloom.clock} | options))
    assert "secret" not in str(raised.value) and "7777" not in str(raised.value)


@pytest.mark.parametrize(("attempts", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_a_wait_has_one_attempt_or_more(farm: Farm, attempts: Any, kind: type[Exception]) -> None:
    """Else it would end, or never end, by accident."""
    with pytest.raises(kind, match="attempts must be"):
        farm.master().when_connected(attempts)


def test_a_type_that_the_broker_requires_is_missed() -> None:
    """A broker that runs with --require-type refuses a job without one."""
    with Farm(Settings(require_type=True)) as strict, pytest.raises(RequestRefused) as raised:
        strict.result(strict.master().submit(None, 1))
    assert raised.value.error == "missing_field"


@pytest.mark.parametrize(
    "body", [object(), float("nan"), float("-inf"), "\ud800", {(1, 2): 3}, [1, {"a": float("nan")}]]
)
def test_a_body_that_json_has_not_fails_at_once(farm: Farm, body: object) -> None:
    """BodyError, before anything is sent; also for a master that was never started."""
    master = farm.master(start=False)
    with pytest.raises(BodyError, match="not JSON"):
        farm.gloom.result(master.submit("echo", body))
    assert master.unanswered == 0


def test_a_body_without_an_end_fails_at_once(farm: Farm) -> None:
    """A list that holds itself is a BodyError, not a crash."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(BodyError):
        farm.gloom.result(farm.master().submit("echo", endless))


def test_an_answer_that_python_cannot_read_is_a_failure_of_its_own_job(farm: Farm) -> None:
    """Any JSON may come back; a value that Python cannot read is a BodyError, and the next answer arrives."""
    slave, master = farm.raw_slave("digits"), farm.master()
    first, second = master.submit("digits", 5000), master.submit("digits", 1)
    farm.advance()
    slave.send(b'{"action":"respond","body":' + b"9" * 5000 + b"}")
    slave.send({"action": "respond", "body": 9})
    with pytest.raises(BodyError):
        farm.result(first)
    assert farm.result(second) == 9


# Sizes


def test_a_body_over_the_brokers_limit_is_refused_and_the_others_go_on() -> None:
    """It is not sent: the broker would end the connection, and everyone else's jobs with it."""
    with Farm(Settings(max_frame_bytes=20_000)) as farm:
        farm.slave("length", len)
        master = farm.master()
        before, large, after = (master.submit("length", "x" * n) for n in (10, 20_000, 19_000))
        with pytest.raises(RequestRefused) as raised:
            farm.result(large)
        assert raised.value.error == "size_error"
        assert "20000" in raised.value.reason
        assert (farm.result(before), farm.result(after)) == (10, 19_000)
        assert len(farm.gloom.master_endpoint.connections) == 1


def test_the_limit_is_exact() -> None:
    """A frame of just the broker's limit goes through, one byte more is refused; small limits leave room to work."""
    with Farm(Settings(max_frame_bytes=1024)) as farm:
        farm.slave("length", len)
        master = farm.master()
        frame = len('{"action":"submit","id":1,"body":"","type":"length"}')
        fits, over = (master.submit("length", "x" * (1024 - frame + more), id=1 + more) for more in (0, 1))
        with pytest.raises(RequestRefused, match="1025 bytes, the broker takes 1024"):
            farm.result(over)
        assert farm.result(fits) == 1024 - frame
        assert len(farm.gloom.master_endpoint.connections) == 1


# Giving up


def test_a_cancelled_job_is_forgotten_in_every_state(farm: Farm) -> None:
    """Cancelled before the connection, in the queue or in hand: CancelledError, and nothing is left."""
    slave, master = farm.raw_slave("echo"), farm.master(start=False)
    unsent = master.submit("echo", "unsent")
    unsent.cancel()
    master.startService()
    in_hand, queued = master.submit("echo", "in hand"), master.submit("echo", "queued")
    farm.advance()
    for answer in (in_hand, queued):
        answer.cancel()
    assert master.unanswered == 0
    assert [job["body"] for job in slave.take()] == ["in hand"]
    assert slave.ask({"action": "respond", "body": "late"}) == [{"ok": True}]
    for answer in (unsent, in_hand, queued):
        with pytest.raises(CancelledError):
            farm.result(answer)


def test_a_timeout_is_a_cancel(farm: Farm) -> None:
    """addTimeout bounds the wait; the late answer is thrown away."""
    slave, master = farm.raw_slave("echo"), farm.master()
    answer = master.submit("echo", 1).addTimeout(5, farm.gloom.clock)
    farm.advance()
    farm.advance(5)
    with pytest.raises(defer.TimeoutError):
        farm.result(answer)
    slave.ask({"action": "respond", "body": "late"})
    assert master.unanswered == 0


def test_the_id_of_a_job_that_was_cancelled_may_be_used_again(farm: Farm) -> None:
    """At once: the next job with it goes out when the broker has forgotten the first."""
    slave, master = farm.raw_slave("echo"), farm.master()
    master.submit("echo", 1, id="x").addErrback(lambda failure: failure.trap(CancelledError) and None).cancel()
    second = master.submit("echo", 2, id="x")
    farm.advance()
    slave.ask({"action": "respond", "body": "of the first"})
    assert [job["body"] for job in slave.take() if "body" in job] in ([], [2])
    slave.ask({"action": "respond", "body": "of the second"})
    assert farm.result(second) == "of the second"


def test_the_answer_of_a_job_that_was_given_up_never_answers_another(farm: Farm) -> None:
    """An outcome that was under way when its id was used again is not taken for the new job's."""
    slave, master = farm.raw_slave("echo"), farm.master()
    first = master.submit("echo", 1, id="x").addErrback(lambda failure: failure.trap(CancelledError) and None)
    farm.advance()
    transport = farm.gloom.master_endpoint.connections[-1]
    transport.stalled = True
    slave.ask({"action": "respond", "body": "of the first"})
    first.cancel()
    second = master.submit("echo", 2, id="x")
    farm.advance()
    transport.stalled = False
    farm.advance()
    assert not second.called
    slave.ask({"action": "respond", "body": "of the second"})
    assert farm.result(second) == "of the second"


# Connections that end


def test_jobs_may_be_submitted_before_the_start(farm: Farm) -> None:
    """They wait for the connection, and keep their order."""
    master = farm.master(start=False)
    firings = Firings().of([master.submit("echo", n) for n in range(5)])
    assert master.unanswered == 5
    farm.slave("echo", lambda body: body)
    master.startService()
    farm.advance()
    assert firings.answers == [(n, n) for n in range(5)]


def test_a_running_job_is_found_again_and_does_not_run_twice(farm: Farm) -> None:
    """After a reconnect the master attaches to jobs that still run."""
    slave, master = farm.raw_slave("echo"), farm.master()
    running, queued = master.submit("echo", "running"), master.submit("echo", "queued")
    farm.advance()
    farm.gloom.master_endpoint.connections[-1].abortConnection()
    assert master.unanswered == 2
    farm.advance(0.2)
    slave.send({"action": "respond", "body": "once"})
    slave.send({"action": "respond", "body": "twice"})
    jobs = [job["body"] for job in slave.take() if job.get("action") == "job"]
    assert jobs == ["running", "queued"]
    assert (farm.result(running), farm.result(queued)) == ("once", "twice")


def test_a_broker_that_starts_again_empty_costs_no_answer(farm: Farm) -> None:
    """Running and waiting jobs are submitted again, and run again."""
    farm.raw_slave("echo")
    master = farm.master()
    answers = [master.submit("echo", n) for n in range(3)]
    farm.advance()
    farm.crash()
    farm.slave("echo", lambda body: body)
    assert [farm.result(answer) for answer in answers] == [0, 1, 2]


def test_an_answer_that_was_lost_with_the_connection_is_made_again(farm: Farm) -> None:
    """The broker has forgotten the job; it runs once more and its Deferred fires once."""
    slave, master = farm.raw_slave("echo"), farm.master()
    firings = Firings().of([master.submit("echo", 1)])
    farm.advance()
    transport = farm.gloom.master_endpoint.connections[-1]
    transport.stalled = True
    slave.ask({"action": "respond", "body": "lost"})
    transport.abortConnection()
    farm.advance(0.2)
    slave.ask({"action": "respond", "body": "made again"})
    assert firings.answers == [(0, "made again")]


def test_each_job_is_answered_once_although_connections_break(farm: Farm) -> None:
    """Connections drop and brokers die between any two answers; every Deferred fires exactly once."""
    farm.slave("echo", lambda body: body)
    master = farm.master()
    firings = Firings().of([master.submit("echo", n) for n in range(200)])
    for step in range(40):
        # One hop of bytes at a time, so that each break meets messages under way.
        for _ in range(step % 4):
            farm.gloom.clock.advance(0)
            farm.gloom.master_endpoint.carry()
            farm.gloom.slave_endpoint.carry()
        if step % 3:
            farm.gloom.drop_all()
        else:
            farm.gloom.restart()
            farm.gloom.drop_all()
        farm.gloom.clock.advance(0.2)
    farm.advance(1)
    farm.advance(1)
    assert sorted(firings.answers) == [(n, n) for n in range(200)]


def test_the_order_of_submission_survives_a_reconnect(farm: Farm) -> None:
    """Jobs that are submitted again keep their order, and go before later ones."""
    master, served = farm.master(), list[int]()
    for n in range(10):
        master.submit("note", n)
    farm.advance()
    farm.drop(0)
    master.submit("note", 10)
    farm.advance(0.2)
    master.submit("note", 11)
    farm.slave("note", served.append)
    assert served == list(range(12))


def test_a_job_is_refused_by_the_next_broker(farm: Farm) -> None:
    """A broker that comes back with lower limits refuses a job that is submitted again; the others go on."""
    master = farm.master()
    untyped, large, small = master.submit(None, 1), master.submit("length", "x" * 2000), master.submit("length", "xx")
    farm.advance()
    farm.gloom.settings = Settings(require_type=True, max_frame_bytes=1024)
    farm.crash()
    with pytest.raises(RequestRefused, match="missing_field"):
        farm.result(untyped)
    with pytest.raises(RequestRefused, match="size_error"):
        farm.result(large)
    farm.slave("length", len)
    assert farm.result(small) == 2


def test_a_job_cancelled_between_two_connections_is_not_submitted_again(farm: Farm) -> None:
    """Given up is given up."""
    master = farm.master()
    gone, kept = master.submit("echo", "gone"), master.submit("echo", "kept")
    farm.advance()
    farm.gloom.drop_all()
    gone.addErrback(lambda failure: failure.trap(CancelledError) and None).cancel()
    farm.advance(0.2)
    slave = farm.raw_slave("echo")
    assert [job["body"] for job in slave.take()] == ["kept"]
    slave.ask({"action": "respond", "body": 1})
    assert farm.result(kept) == 1


def test_one_refusal_may_set_off_anything(farm: Farm) -> None:
    """A callback of a job that the new connection refuses gives up others, and uses an id again."""
    farm.gloom.settings = Settings(max_frame_bytes=1024)
    farm.gloom.restart()
    master, outcomes = farm.master(start=False), list[Any]()
    refused = master.submit("length", "x" * 5000)
    given_up, replaced = master.submit("length", "y" * 5000, id=1), master.submit("length", "z" * 5000, id=2)

    def give_up(_failure: object) -> None:
        given_up.cancel()
        replaced.cancel()
        master.submit("length", "new", id=2).addCallback(outcomes.append)

    refused.addErrback(give_up)
    for answer in (given_up, replaced):
        answer.addErrback(lambda failure: outcomes.append(failure.type))
    master.startService()
    farm.slave("length", len)
    assert outcomes == [CancelledError, CancelledError, 3]


# Stopping


def test_stopping_fails_the_unanswered_jobs(farm: Farm) -> None:
    """TransportError for each, in order, and for all that is submitted afterwards."""
    master = farm.master()
    firings = Firings().of([master.submit("echo", n) for n in range(3)])
    farm.stop(master, 0)
    assert [index for index, _ in firings.answers] == [0, 1, 2]
    assert {type(error) for error in firings.failures()} == {TransportError}
    with pytest.raises(TransportError, match="stopped"):
        farm.gloom.result(master.submit("echo", 4))
    assert master.unanswered == 0


def test_stopping_may_set_off_anything(farm: Farm) -> None:
    """The failure of one job makes its owner cancel the others and submit new ones; the stop completes."""
    master, outcomes = farm.master(), list[Any]()
    answers = [master.submit("echo", n) for n in range(3)]

    def cancel_the_others(_failure: object) -> None:
        for answer in answers[1:]:
            answer.cancel()
        master.submit("echo", 4).addErrback(lambda failure: outcomes.append(failure.type))

    answers[0].addErrback(cancel_the_others)
    for answer in answers[1:]:
        answer.addErrback(lambda failure: outcomes.append(failure.type))
    farm.stop(master, 0)
    assert outcomes == [CancelledError, CancelledError, TransportError]
    assert master.unanswered == 0


def test_the_queued_jobs_of_a_stopped_master_leave_the_queue(farm: Farm) -> None:
    """Its connection is closed: nobody runs them, and their ids are free."""
    master, other = farm.master(), farm.master()
    Firings().of([master.submit("echo", "dropped", id="x")])
    farm.stop(master, 0)
    answer = other.submit("echo", "kept", id="x")
    farm.slave("echo", lambda body: body)
    assert farm.result(answer) == "kept"


def test_a_stopped_master_starts_again(farm: Farm) -> None:
    """It takes jobs as before, any number of times."""
    farm.slave("echo", lambda body: body)
    master = farm.master()
    for n in range(3):
        assert farm.result(master.submit("echo", n)) == n
        farm.stop(master, 0)
        master.startService()
    assert farm.result(master.submit("echo", 4)) == 4


def test_a_master_started_while_it_stops_works(farm: Farm) -> None:
    """Jobs that are submitted in between wait for the new connection."""
    farm.slave("echo", lambda body: body)
    master = farm.master()
    lost = master.submit("lost", 1)
    stopped = master.stopService()
    master.startService()
    answer = master.submit("echo", 2)
    with pytest.raises(TransportError):
        farm.result(lost)
    farm.result(stopped)
    assert farm.result(answer) == 2
    assert len([one for one in farm.gloom.master_endpoint.connections if one.connected]) == 1


def test_masters_and_slaves_live_under_one_parent(farm: Farm) -> None:
    """Any number of them, with the same name; starting and stopping the parent is theirs."""
    parent = MultiService()
    masters = [farm.master(start=False) for _ in range(2)]
    slaves = [farm.slave("echo", lambda body: body, start=False) for _ in range(2)]
    for service in (*masters, *slaves):
        service.setServiceParent(parent)
    parent.startService()
    assert [farm.result(master.submit("echo", 1)) for master in masters] == [1, 1]
    stopped: Deferred[Any] = parent.stopService()
    assert farm.result(stopped) == [(True, None)] * 4
    assert not any(one.connected for one in farm.gloom.master_endpoint.connections)


def test_many_jobs_are_awaited_together(farm: Farm) -> None:
    """The Deferreds work with gatherResults: one failure fails all, and the other jobs are cancelled."""
    farm.slave("half", lambda n: 1 / n)
    farm.raw_slave("never")
    master = farm.master()
    answers = [master.submit("half", 2), master.submit("half", 0), master.submit("never", 1)]
    with pytest.raises(FirstError) as raised:
        farm.result(DeferredList(answers, fireOnOneErrback=True, consumeErrors=True))
    assert raised.value.subFailure.type is JobFailed
    for answer in answers:
        answer.cancel()
    assert master.unanswered == 0


def test_a_master_names_itself(farm: Farm) -> None:
    """The broker's log and others' attempts know it by host and process, or by the name that it was given."""
    assert Master(farm.gloom.master_endpoint, reactor=farm.gloom.clock, name="mine").peer_name == "mine"
    assert Master(farm.gloom.master_endpoint, reactor=farm.gloom.clock).peer_name.rpartition(":")[2].isdecimal()


def test_a_refusal_that_ends_the_connection_costs_its_own_job_only(farm: Farm) -> None:
    """As for a frame that is no JSON to the broker: it is not submitted again, the others are."""
    master = farm.master()
    answers = [master.submit("echo", n, id=n) for n in range(3)]
    broker = farm.gloom.master_endpoint.connections[-1]._other
    assert broker is not None
    assert broker.protocol is not None
    broker.protocol.stringReceived = _refusing(broker.protocol.stringReceived)  # type: ignore[attr-defined]
    farm.slave("echo", lambda body: body)
    farm.advance(0.2)
    with pytest.raises(RequestRefused, match="invalid_json"):
        farm.result(answers[1])
    assert (farm.result(answers[0]), farm.result(answers[2])) == (0, 2)
    assert len(farm.gloom.master_endpoint.connections) == 2


def _refusing(receive: Callable[[bytes], None]) -> Callable[[bytes], None]:
    return lambda frame: receive(frame + b"]" if b'"id":1' in frame else frame)
