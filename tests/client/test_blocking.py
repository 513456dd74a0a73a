"""Blocking masters: one job at a time, and many."""

from __future__ import annotations

import gc
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from threading import Thread, Timer
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from gloom.client.blocking import (
    BodyError,
    Job,
    JobFailed,
    Master,
    RequestRefused,
    ServerError,
    TimedOut,
    TransportError,
)
from gloom.client.blocking.jobs import Batch
from gloom.client.terms import submission
from gloom.client.tls import ClientTLS
from gloom.wire.messages import encode_request
from tests.support.brokers import LIMIT_BYTES, OK, UNREADABLE, Farm, Scripted, greeted


@pytest.fixture
def broker() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


# Imports


def test_importing_it_imports_no_twisted() -> None:
    """A plain script that uses the blocking client does not pay for, or need, Twisted."""
    command = [sys.executable, "-X", "importtime", "-c", "import gloom.client.blocking"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    modules = [line.rsplit("|", 1)[-1].strip() for line in report.splitlines()]
    assert "gloom.client.blocking" in modules
    assert [module for module in modules if module.split(".")[0] in ("twisted", "zope")] == []


# Masters


def test_a_job_has_the_message_and_its_parts() -> None:
    """A job is the dict that came, with its id, type and body at hand."""
    job = Job(action="job", id=1, type="sum", body=[1])
    assert (job.id, job.type, job.body) == (1, "sum", [1])
    assert job == {"action": "job", "id": 1, "type": "sum", "body": [1]}
    assert (Job().id, Job().type, Job().body) == (None, None, None)


def test_job_ids_are_unique(broker: Scripted) -> None:
    """An id that was made up is 32 upper-case hexadecimal digits, and never comes twice."""
    master = Master(broker.near)
    ids = {master.new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9A-F]{32}", id) for id in ids)


def test_a_submitted_job_has_its_arguments_in_the_order_of_2009(broker: Scripted) -> None:
    """Submit takes id, type and body in this order, then the priority, and returns the id."""
    master = greeted(broker)
    broker.says(OK, OK, OK)
    assert master.submit("a", "sum", [1, 2], 5) == "a"
    assert master.submit(0) == 0
    made_up = master.submit(type="sum", body={"n": None})
    assert broker.heard() == [
        {"action": "submit", "id": "a", "type": "sum", "priority": 5, "body": [1, 2]},
        {"action": "submit", "id": 0, "body": None},
        {"action": "submit", "id": made_up, "type": "sum", "body": {"n": None}},
    ]


def test_a_job_may_have_terms(broker: Scripted) -> None:
    """They go to the broker; `timeout` is the call's own, `job_timeout` the job's."""
    master = greeted(broker)
    broker.says(OK)
    master.submit("a", timeout=4, job_timeout=5, expires=0, delay=0.5, retries=0, require_slave=True)
    terms = {"timeout": 5, "expires": 0, "delay": 0.5, "retries": 0, "require_slave": True}
    assert broker.heard() == [{"action": "submit", "id": "a", "body": None} | terms]


def test_a_term_out_of_its_range_is_refused(broker: Scripted) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="retries must be 0 to 100, got -1"):
        Master(broker.near).submit(retries=-1)
    assert broker.heard() == []


def test_a_token_goes_with_hello_and_nowhere_else(broker: Scripted) -> None:
    """No representation of a request has it."""
    master = Master(broker.near, token="secret")
    broker.says({**OK, "version": 1, "server": "gloom/0", "max_frame": LIMIT_BYTES}, OK)
    master.submit("a")
    hello, submit = broker.heard()
    assert hello["token"] == "secret"
    assert "token" not in submit
    assert "secret" not in repr(vars(master._wire))


def test_tls_goes_with_an_address(broker: Scripted) -> None:
    """Only an address takes tls, not a connected socket."""
    with pytest.raises(ValueError, match="tls goes with an address"):
        Master(broker.near, tls=ClientTLS())


def test_a_job_may_be_cancelled(broker: Scripted) -> None:
    """The call says whether it had begun; its outcome follows. One that has ended is no job of this master."""
    master = greeted(broker)
    broker.says({"ok": True, "state": "cancelling"}, {"id": "first", "error": "cancelled", "reason": "a master"})
    assert master.cancel("first") == "cancelling"
    with pytest.raises(JobFailed) as raised:
        master.receive()
    assert (raised.value.error, raised.value.id) == ("cancelled", "first")
    broker.says({"error": "unknown_job", "reason": "no"})
    with pytest.raises(RequestRefused, match="unknown_job"):
        master.cancel("first")
    assert broker.heard() == [{"action": "cancel", "id": "first"}] * 2


async def test_many_jobs_are_submitted_together() -> None:
    """Each entry is an id or a refusal, for jobs of any size; the outcomes come as usual."""

    def run(farm: Farm) -> None:
        with farm.master() as master:
            assert master.submit_many([]) == []
            jobs: list[dict[str, Any]] = [{"id": n, "type": "echo", "body": "x" * 3000} for n in range(50)]
            jobs += [{"id": 0, "type": "echo"}, {"id": "large", "body": "x" * LIMIT_BYTES}]
            *accepted, taken, large = master.submit_many(jobs, timeout=4)
            assert accepted == list(range(50))
            assert isinstance(taken, RequestRefused)
            assert isinstance(large, RequestRefused)
            assert (taken.error, taken.id, large.error, large.id) == ("id_exists", 0, "size_error", "large")
            with farm.slave("echo") as slave:
                for _ in range(50):
                    slave.respond(slave.job(timeout=4).body, timeout=4)
            assert sorted(master.receive(timeout=4).id for _ in range(50)) == list(range(50))

    async with Farm() as farm:
        await deferToThread(run, farm)


@pytest.mark.parametrize("id", [True, 1.5, b"a", ["a"]])
def test_an_id_is_a_string_or_an_integer(broker: Scripted, id: Any) -> None:
    """Any other id is refused before anything is sent."""
    with pytest.raises(TypeError, match="id must be a string of 1 to 255 characters or an integer, got "):
        Master(broker.near).submit(id)
    assert broker.heard() == []


def test_a_body_that_json_cannot_carry_is_refused(broker: Scripted) -> None:
    """A body without a JSON form is an error before anything is sent."""
    with pytest.raises(BodyError, match="not JSON"):
        Master(broker.near).submit(body=object())
    assert broker.heard() == []


def test_a_frame_over_the_brokers_limit_is_refused_here(broker: Scripted) -> None:
    """A job that is too large is refused with the limit, and the connection lives on."""
    master = greeted(broker)
    with pytest.raises(
        RequestRefused, match=f"size_error -> a frame of .* is over the broker's limit of {LIMIT_BYTES}"
    ):
        master.submit("large", body="x" * LIMIT_BYTES)
    broker.says(OK)
    assert master.submit("small") == "small"
    assert [message["id"] for message in broker.heard()] == ["small"]


def test_a_failed_job_raises_the_texts_of_its_slave(broker: Scripted) -> None:
    """Receiving the outcome of a job that failed raises JobFailed with its id, and the next one is not lost."""
    master = greeted(broker)
    broker.says({"id": "first", "error": "job_failed", "reason": "too hot", "kind": "ValueError"}, {"id": 2, "body": 2})
    with pytest.raises(JobFailed, match=r"^ValueError: too hot$") as raised:
        master.receive()
    assert (raised.value.id, raised.value.error, raised.value.reason) == ("first", "job_failed", "too hot")
    assert isinstance(raised.value, ServerError)
    assert master.receive().id == 2


def test_an_answer_that_python_cannot_read_names_its_job(broker: Scripted) -> None:
    """An answer beyond Python's limits is an error of its job only, with the job's id."""
    master = greeted(broker)
    broker.says(b'{"id":"first","body":' + UNREADABLE + b"}", {"id": 2, "body": 2})
    with pytest.raises(BodyError, match=r"^job 'first': cannot read the body"):
        master.receive()
    assert master.receive().body == 2


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_first_request_over_the_brokers_limit_is_refused_here(broker: Scripted, size: int) -> None:
    """The limit comes with the reply to hello: it is awaited, and the connection lives on."""
    master = Master(broker.near)
    broker.says({**OK, "version": 1, "server": "gloom/0", "max_frame": 1024}, OK)
    with pytest.raises(RequestRefused, match=r"size_error -> a frame of .* is over the broker's limit of 1024"):
        master.submit("large", body="x" * size, timeout=4)
    assert master.submit("small", timeout=4) == "small"
    assert [message.get("id") for message in broker.heard()] == [None, "small"]


def test_a_small_first_request_does_not_wait_for_the_welcome(broker: Scripted) -> None:
    """It leaves with hello, in one piece."""
    master = Master(broker.near)
    with pytest.raises(TimedOut):
        master.submit("small", timeout=0)
    assert [message["action"] for message in broker.heard()] == ["hello", "submit"]


async def test_a_large_first_job_does_not_end_the_connection() -> None:
    """With the real broker, and with any first call."""

    def run(farm: Farm) -> None:
        large = "x" * LIMIT_BYTES
        with farm.master() as master:
            with pytest.raises(RequestRefused, match="size_error"):
                master.submit(body=large)
            master.submit("a", expires=0)
            assert isinstance(master.submit_many([{"body": large}])[0], RequestRefused)
        with farm.master() as master:
            (error,) = master.do_many([{"body": large}], return_errors=True)
            assert isinstance(error, RequestRefused)
            master.submit("b")

    async with Farm() as farm:
        await deferToThread(run, farm)


def test_one_answer_that_cannot_be_read_is_one_error_among_many(broker: Scripted) -> None:
    """Twenty others get theirs; the connection goes on."""
    master = greeted(broker)
    deep = b'{"id":10,"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    jobs = broker.answering(*(({"id": n}, OK, deep if n == 10 else {"id": n, "body": n}) for n in range(21)))
    ended = list(master.do_many(jobs, return_errors=True))
    (failed,) = (one for one in ended if isinstance(one, BodyError))
    assert failed.id == 10
    assert "job 10: " in str(failed)
    assert [one.body for one in ended if isinstance(one, Job)] == [n for n in range(21) if n != 10]
    broker.says(deep, {"id": "first", "body": 1})
    with pytest.raises(BodyError, match="job 10: "):
        master.receive()
    assert master.receive().id == "first"


def test_two_arguments_without_names_and_no_body_warn(broker: Scripted) -> None:
    """They are the id and the type, since 2009; the warning names the keywords, and the line that made the call."""
    master = greeted(broker)
    broker.says(OK, OK, OK, OK, OK)
    with pytest.warns(
        UserWarning, match=r"submit\('echo', 'hello'\) is a job with that id and that type.*body="
    ) as told:
        master.submit("echo", "hello")
    assert told[0].filename == __file__
    assert broker.heard() == [{"action": "submit", "id": "echo", "type": "hello", "body": None}]
    # Not these.
    master.submit("a", "t", None)
    master.submit("b", "t", body=None)
    master.submit("c", type="t")
    master.submit(id="d", type="t")


def test_the_signature_of_submit_is_seen() -> None:
    """By help() and editors."""
    assert list(inspect.signature(Master.submit).parameters)[:5] == ["self", "id", "type", "body", "priority"]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"id": ""}, ValueError, "id must be 1 to 255 characters, got 0"),
        ({"type": b"t"}, TypeError, "type must be a string of 1 to 255 characters or None, got b't'"),
        ({"type": ""}, ValueError, "type must be 1 to 255 characters, got 0"),
        ({"priority": 2**63}, ValueError, "priority must be"),
        ({"priority": 1.0}, TypeError, "priority must be an integer, got 1.0"),
        ({"retries": 1.0}, TypeError, "retries must be an integer"),
        ({"job_timeout": 0}, ValueError, "timeout must be over 0"),
        ({"require_slave": None}, TypeError, "require_slave must be True or False, got None"),
        ({"timeout": -1}, ValueError, "timeout must be 0 seconds or more, or None, got -1"),
        ({"timeout": float("nan")}, ValueError, "timeout must be 0 seconds or more, or None, got nan"),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, got '5'"),
    ],
)
def test_a_wrong_argument_is_refused_at_the_call(
    broker: Scripted, options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(kind, match=told):
        Master(broker.near).submit(**options)
    assert broker.heard() == []


def test_a_member_of_an_enumeration_is_a_priority(broker: Scripted) -> None:
    """Named priorities are checked as quickly as plain integers are, and arrive as these."""

    class Urgency(IntEnum):
        NEVER = -(2**63)
        HIGH = 5
        TOO_HIGH = 2**63

    master = Master(broker.near)
    with pytest.raises(ValueError, match="priority must be"):
        master.submit(priority=Urgency.TOO_HIGH)
    requests = [submission("a", None, None, priority=urgency) for urgency in (Urgency.NEVER, Urgency.HIGH)]
    assert [json.loads(bytes(encode_request(request)))["priority"] for request in requests] == [-(2**63), 5]


class Name(str):
    """As many libraries have their own."""


class Amount(float):
    """Likewise."""


class Times(IntEnum):
    """Likewise."""

    TWICE = 2


def test_values_of_a_subclass_are_sent_as_the_plain_values(broker: Scripted) -> None:
    """A subclass of str, int or float from another library is sent as its plain value."""
    request = submission(Name("a"), Name("t"), None, timeout=Amount(2.5), retries=Times.TWICE)
    sent = json.loads(bytes(encode_request(request)))
    assert (sent["id"], sent["type"], sent["timeout"], sent["retries"]) == ("a", "t", 2.5, 2)


@pytest.mark.parametrize("id", [10**4300, -(10**4299)], ids=["positive", "negative"])
def test_an_id_of_too_many_digits_is_refused_at_the_call(broker: Scripted, id: int) -> None:
    """The error names the field and its limit, and not a setting of Python."""
    with pytest.raises(ValueError, match="id must be an integer of at most 4300 characters"):
        submission(id, None, None)


def test_a_wrong_argument_of_other_calls_is_refused_too(broker: Scripted) -> None:
    """Before anything is sent, and no error shows a token."""
    master = Master(broker.near)
    with pytest.raises(TypeError, match="id must be a string"):
        master.cancel(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="window must be an integer"):
        master.do_many([], window=2.5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="return_errors must be True or False, got 1"):
        master.do_many([], return_errors=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
        master.do_many([], timeout=-1)
    with pytest.raises(TypeError, match="not iterable"):
        master.do_many(5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"token must be text that UTF-8 can carry, without lone surrogates$"):
        Master(broker.near, token="\ud800")
    with pytest.raises(TypeError, match=r"token must be a string, got bytes$"):
        Master(broker.near, token=b"secret")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout must be a number of seconds, got '5'"):
        Master(broker.near, timeout="5")  # type: ignore[arg-type]
    assert broker.heard() == []


def test_the_timeout_of_a_master_is_that_of_each_call(broker: Scripted) -> None:
    """Unless the call has one of its own; None is for ever."""
    master = Master(broker.near, timeout=0.01)
    calls: list[Callable[[], object]] = [
        lambda: master.submit("a"),
        lambda: master.submit_many([{"id": "b"}]),
        lambda: master.cancel("a"),
        master.receive,
        lambda: next(master.do_many([{"id": "c"}])),
    ]
    for call in calls:
        with pytest.raises(TimedOut, match=r"within 0\.01 s"):
            call()
    with pytest.raises(TimedOut, match=r"within 0\.02 s"):
        master.receive(timeout=0.02)
    # The replies to hello and to the requests above: a, ping, the cancel of a.
    broker.says({**OK, "version": 1, "server": "gloom/0", "max_frame": LIMIT_BYTES}, OK, OK, OK)
    Timer(0.1, broker.says, [{"id": "a", "body": 1}]).start()
    assert master.receive(timeout=None).id == "a"


def test_a_master_in_two_threads_says_so(broker: Scripted) -> None:
    """The second call raises, names both threads and does nothing; the first goes on, and nothing is lost."""
    master = greeted(broker)
    received: list[Job] = []
    thread = Thread(target=lambda: received.append(master.receive(timeout=4)), name="reader")
    thread.start()
    while not master._wire._waiting:
        thread.join(0.001)
    calls: list[Callable[[], object]] = [
        lambda: master.submit("a"),
        lambda: master.submit_many([{"id": "b"}]),
        lambda: master.receive(timeout=0),
        lambda: list(master.do_many([{"id": "c"}])),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="thread 'MainThread' uses a connection on which thread 'reader' is in"):
            call()
    broker.says({"id": "first", "body": 1}, {"id": "next", "body": 2})
    thread.join(4)
    assert [job.id for job in received] == ["first"]
    assert master.receive(timeout=4).id == "next"
    assert broker.heard() == []


async def test_a_job_is_answered() -> None:
    """The master receives the result of the slave's function, for any JSON value."""
    async with Farm() as farm:
        farm.serve("echo", lambda body: body)
        bodies: list[Any] = [None, True, 1, -1.5, "", "ä€😀", [], {"a": [{}]}, 2**80]

        def run() -> list[Any]:
            with farm.master() as master:
                received = []
                for body in bodies:
                    id = master.submit(type="echo", body=body, timeout=4)
                    job = master.receive(timeout=4)
                    assert job.id == id
                    received.append(job.body)
                return received

        assert await deferToThread(run) == bodies


async def test_a_refused_job_says_why() -> None:
    """The broker's refusal is raised with its code, its reason and the job's id; the connection goes on."""
    async with Farm() as farm:

        def run() -> str:
            with farm.master() as master:
                master.submit("twice", type="nobody", timeout=4)
                with pytest.raises(RequestRefused) as raised:
                    master.submit("twice", type="nobody", timeout=4)
                assert (raised.value.error, raised.value.reason, raised.value.id) == ("id_exists", "twice", "twice")
                master.submit("once", type="nobody", timeout=4)
                return str(raised.value)

        assert await deferToThread(run) == "id_exists -> twice"


# Many jobs


async def test_many_jobs_are_all_answered_once() -> None:
    """Do_many yields one answer a job, and reads its jobs no faster than the window allows."""
    async with Farm() as farm:
        farm.serve("double", lambda n: 2 * n)
        farm.serve("double", lambda n: 2 * n)
        open_jobs: set[int] = set()
        most = 0

        def jobs() -> Iterator[dict[str, Any]]:
            nonlocal most
            for n in range(1000):
                open_jobs.add(n)
                most = max(most, len(open_jobs))
                yield {"id": n, "type": "double", "body": n}

        def run() -> list[Job]:
            answers = []
            with farm.master() as master:
                for job in master.do_many(jobs(), timeout=4, window=10):
                    open_jobs.remove(job.id)
                    answers.append(job)
            return answers

        answers = await deferToThread(run)
        assert sorted((job.id, job.body) for job in answers) == [(n, 2 * n) for n in range(1000)]
        assert 1 <= most <= 10


def test_answers_are_not_kept_back_by_jobs_that_come_slowly(broker: Scripted) -> None:
    """A ready answer is yielded before the next job is read."""
    master = greeted(broker)
    broker.says(OK, {"id": "a", "body": 1})
    yielded: list[Any] = []

    def jobs() -> Iterator[dict[str, Any]]:
        yield {"id": "a"}
        assert yielded == ["a"]
        broker.says(OK, {"id": "b", "body": 2})
        yield {"id": "b"}

    for job in master.do_many(jobs()):
        yielded.append(job.id)
    assert yielded == ["a", "b"]


def test_a_window_holds_at_least_one_job(broker: Scripted) -> None:
    """A window in which nothing can happen is refused at once."""
    with pytest.raises(ValueError, match="window must be 1 or more, got 0"):
        Master(broker.near).do_many([], window=0)


def test_a_job_is_described_with_the_words_of_submit(broker: Scripted) -> None:
    """A key that submit does not know is an error, not something to overlook."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'prio'"):
        list(Master(broker.near).do_many([{"type": "sum", "prio": 1}]))


def test_many_jobs_wait_no_longer_than_their_timeout(broker: Scripted) -> None:
    """Do_many gives up when the next answer does not come in time."""
    master = greeted(broker)
    broker.says(OK)
    with pytest.raises(TimedOut):
        list(master.do_many([{"id": "a"}], timeout=0.01))


def test_many_jobs_go_on_after_a_timeout(broker: Scripted) -> None:
    """No answer is lost, and it does not look finished: next() waits once more."""
    master = greeted(broker)
    answers = master.do_many([{"id": n} for n in range(3)], timeout=0.01, window=2)
    for message in (OK, OK, None):
        with pytest.raises(TimedOut):
            next(answers)
        if message is not None:
            broker.says(message)
    broker.says({"id": 0, "body": 0})
    assert next(answers).id == 0
    with pytest.raises(TimedOut):
        next(answers)
    broker.says(OK, {"id": 2, "body": 2}, {"id": 1, "body": 1})
    assert [job.id for job in answers] == [2, 1]
    assert [job["id"] for job in broker.heard()] == [0, 1, 2]
    assert next(answers, None) is None


def test_many_jobs_go_on_after_a_timeout_before_hello(broker: Scripted) -> None:
    """A job that was read and not sent is sent by the next call, once."""
    master = Master(broker.near)
    answers = master.do_many([{"id": 1}], timeout=0.01)
    for _ in range(3):
        with pytest.raises(TimedOut):
            next(answers)
    broker.says({**OK, "version": 1, "server": "gloom/0", "max_frame": LIMIT_BYTES})
    with pytest.raises(TimedOut):
        next(answers)
    broker.says(OK, {"id": 1, "body": 1})
    assert [job.id for job in answers] == [1]
    assert [message.get("id") for message in broker.heard()] == [None, 1]


def test_many_jobs_go_on_after_a_timeout_in_the_middle_of_sending(broker: Scripted) -> None:
    """The next call first sends the rest of a large job: the stream stays whole, and no job comes twice."""
    master = greeted(broker, max_frame=2**31)
    answers = master.do_many(({"id": n, "body": "x" * 3_000_000} for n in range(2)), timeout=0.01)
    for _ in range(3):
        with pytest.raises(TimedOut):
            next(answers)
    heard: list[Any] = []
    reader = Thread(target=lambda: heard.extend(broker.hears(2)))
    reader.start()
    while reader.is_alive():
        with pytest.raises(TimedOut):
            next(answers)
    broker.says(OK, {"id": 0, "body": 0}, OK, {"id": 1, "body": 1})
    assert [job.id for job in answers] == [0, 1]
    assert [message["id"] for message in heard] == [0, 1]


def test_many_jobs_end_with_an_error(broker: Scripted) -> None:
    """After a job that failed there is nothing more; the same as for a generator."""
    master = greeted(broker)
    failed = {"id": 0, "error": "expired", "reason": "late"}
    answers = master.do_many(broker.answering(({"id": 0}, OK), ({"id": 1}, OK, failed)))
    with pytest.raises(JobFailed):
        next(answers)
    assert next(answers, None) is None


def test_many_jobs_are_sent_within_their_timeout(broker: Scripted) -> None:
    """Do_many gives up when the broker does not read."""
    master = greeted(broker, max_frame=2**31)
    with pytest.raises(TimedOut):
        list(master.do_many([{"id": "large", "body": "x" * 4_000_000}], timeout=0.01))


def test_a_failure_ends_many_jobs_and_leaves_nothing_behind(broker: Scripted) -> None:
    """A failed job is raised; later outcomes of the other jobs do not reach a later call."""
    master = greeted(broker)
    failed = {"id": "a", "error": "job_failed", "reason": "too hot"}
    answers = master.do_many(broker.answering(({"id": "a"}, OK), ({"id": "b"}, OK), ({"id": "c"}, OK, failed)))
    with pytest.raises(JobFailed, match="too hot"):
        next(answers)
    broker.says({"id": "b", "body": 1}, {"id": "first", "body": 2}, {"id": "c", "body": 3}, {"id": "b", "body": 4})
    assert master.receive().id == "first"
    # The ids are free again: from here on they are someone else's.
    assert master.receive() == {"id": "b", "body": 4}


def test_giving_up_many_jobs_leaves_nothing_behind(broker: Scripted) -> None:
    """A loop that was left early does not disturb the calls after it, nor their replies."""
    master = greeted(broker)
    jobs = broker.answering(({"id": "a"},), ({"id": "b"},), ({"id": "c"}, OK, {"id": "a", "body": 1}))
    for job in master.do_many(jobs):
        assert job.id == "a"
        break
    broker.says(
        OK, {"id": "first", "body": 2}, OK, {"id": "c", "body": 3}, OK, {"id": "b", "body": 4}, {"id": "z", "body": 5}
    )
    broker.says(OK, {"id": "b", "body": 5})
    master.submit("z")
    assert [master.receive().id for _ in range(2)] == ["first", "z"]
    master.submit("b")
    assert master.receive() == {"id": "b", "body": 5}


def test_answers_that_came_before_the_end_are_yielded(broker: Scripted) -> None:
    """A broker that closes does not take along the answers that it has sent."""
    master = greeted(broker)

    def jobs() -> Iterator[dict[str, Any]]:
        yield {"id": "a"}
        broker.says(OK, {"id": "a", "body": 1})
        broker.heard()
        broker.far.close()
        yield {"id": "b"}

    ended = master.do_many(jobs())
    assert next(ended).id == "a"
    with pytest.raises(TransportError, match="the broker closed the connection"):
        next(ended)


def test_an_answer_that_another_call_came_across_is_yielded(broker: Scripted) -> None:
    """The last answer of many jobs may come while something else is submitted; it is not lost."""
    master = greeted(broker)

    def jobs() -> Iterator[dict[str, Any]]:
        yield from broker.answering(({"id": "a"}, OK), ({"id": "b"}, OK))
        broker.says({"id": "a", "body": 1})

    ended = master.do_many(jobs())
    assert next(ended).id == "a"
    broker.says({"id": "b", "body": 2}, OK)
    master.submit("c")
    assert [job.id for job in ended] == ["b"]


def test_a_late_reply_is_not_about_many_jobs(broker: Scripted) -> None:
    """The reply to a submit that timed out is not taken for that of the next job."""
    master = greeted(broker)
    with pytest.raises(TimedOut):
        master.submit("late", timeout=0)
    refused = {"error": "id_exists", "reason": "late"}
    jobs = broker.answering(({"id": "a"}, refused, OK, {"id": "a", "body": 1}))
    assert [job.id for job in master.do_many(jobs)] == ["a"]


def test_many_jobs_that_have_ended_are_forgotten(broker: Scripted) -> None:
    """A connection that has done many jobs, or has given them up, carries nothing of them along."""
    master = greeted(broker)
    broker.says(OK, {"id": "a", "body": 1})
    list(master.do_many([{"id": "a"}]))
    next(master.do_many(broker.answering(({"id": "b"}, OK), ({"id": "c"}, OK, {"id": "b", "body": 2}))))
    broker.says({"id": "c", "body": 3}, {"id": "first", "body": 4})
    assert master.receive().id == "first"
    gc.collect()
    assert [kept for kept in gc.get_objects() if isinstance(kept, Batch)] == []


def test_errors_of_many_jobs_may_be_yielded(broker: Scripted) -> None:
    """With return_errors a job that was refused or failed is yielded as its error, and the rest goes on."""
    master = greeted(broker)
    jobs = broker.answering(
        ({"id": "a"}, OK),
        ({"id": "b"}, {"error": "id_exists", "reason": "b"}),
        ({"id": "c", "body": "x" * LIMIT_BYTES}, {"id": "a", "error": "job_failed", "reason": "too hot"}),
        ({"id": "d"}, OK, {"id": "d", "body": 4}),
    )
    ended = list(master.do_many(jobs, return_errors=True))
    assert {job.id: type(job) for job in ended} == {
        "a": JobFailed,
        "b": RequestRefused,
        "c": RequestRefused,
        "d": Job,
    }


def test_the_same_id_twice_among_many_jobs_is_refused_once(broker: Scripted) -> None:
    """Of two jobs with one id the first is answered, and the second refused."""
    master = greeted(broker)
    refused = {"error": "id_exists", "reason": "a"}
    jobs = broker.answering(({"id": "a"}, OK), ({"id": "a"}, refused, {"id": "a", "body": 1}))
    first, second = master.do_many(jobs, return_errors=True)
    assert isinstance(first, RequestRefused)
    assert second == {"id": "a", "body": 1}


async def test_between_the_answers_of_many_jobs_others_may_be_submitted() -> None:
    """Two do_many side by side, and submit and receive between them, each get their own outcomes."""
    async with Farm() as farm:
        farm.serve("echo", lambda body: body)

        def jobs(name: str) -> Iterator[dict[str, Any]]:
            return ({"type": "echo", "body": [name, n]} for n in range(50))

        def run() -> tuple[list[Any], list[Any], list[Any]]:
            left: list[Any] = []
            right: list[Any] = []
            others: list[Any] = []
            with farm.master() as master:
                lefts = master.do_many(jobs("left"), timeout=4, window=7)
                rights = master.do_many(jobs("right"), timeout=4, window=7)
                for one, other in zip(lefts, rights, strict=True):
                    left.append(one.body)
                    right.append(other.body)
                    master.submit(type="echo", body=len(left), timeout=4)
                while len(others) < 50:
                    others.append(master.receive(timeout=4).body)
            return left, right, others

        left, right, others = await deferToThread(run)
        assert sorted(left) == [["left", n] for n in range(50)]
        assert sorted(right) == [["right", n] for n in range(50)]
        assert sorted(others) == list(range(1, 51))
