"""`gloom.client.deferred.Slave` against the real broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import formatEvent
from twisted.python.failure import Failure

from gloom.client.deferred import Slave
from gloom.client.session import Assignment
from gloom.errors import JobFailed, TryAgain
from gloom.settings import Settings
from gloom.wire.messages import Fail
from tests.support.farm import Farm
from tests.support.logged import logged


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


class Work:
    """
    Jobs that the test ends itself.

    Attributes:
        bodies: The bodies of the jobs that began, in order.
        runs: The Deferred of each.
    """

    def __init__(self, canceller: Callable[[Deferred[Any]], None] | None = None) -> None:
        self.bodies: list[Any] = []
        self.runs: list[Deferred[Any]] = []
        self._canceller = canceller

    def __call__(self, body: Any) -> Deferred[Any]:
        self.bodies.append(body)
        self.runs.append(Deferred(self._canceller))
        return self.runs[-1]


class Stubborn:
    """
    Work that goes on after it was cancelled, until the test ends it.

    Attributes:
        cancelled: How often it was cancelled.
        runs: The Deferred of each run.
    """

    def __init__(self) -> None:
        self.cancelled = 0
        self.runs: list[Deferred[Any]] = []

    async def __call__(self, body: Any) -> Any:
        end: Deferred[Any] = Deferred()
        self.runs.append(end)
        waiting: Deferred[Any] = Deferred()
        end.addBoth(lambda result: None if waiting.called else waiting.callback(result))
        try:
            return await waiting
        except CancelledError:
            self.cancelled += 1
            last: Deferred[Any] = Deferred()
            end.addBoth(lambda _: last.callback("too late"))
            return await last


def outcome_of(farm: Farm, deferred: Deferred[Any]) -> JobFailed:
    with pytest.raises(JobFailed) as raised:
        farm.result(deferred)
    return raised.value


# Functions of every kind


def later(farm: Farm, seconds: float, act: Callable[[], Any]) -> Deferred[Any]:
    return deferLater(farm.gloom.clock, seconds, act)


def plain(farm: Farm, act: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda _body: act()


def deferred(farm: Farm, act: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda _body: later(farm, 1, act)


def coroutine(farm: Farm, act: Callable[[], Any]) -> Callable[[Any], Any]:
    async def function(_body: Any) -> Any:
        return await later(farm, 1, act)

    return function


def early_coroutine(farm: Farm, act: Callable[[], Any]) -> Callable[[Any], Any]:
    async def function(_body: Any) -> Any:
        return act()

    return function


def generator(farm: Farm, act: Callable[[], Any]) -> Callable[[Any], Any]:
    @inlineCallbacks
    def function(_body: Any) -> Generator[Deferred[Any], Any, Any]:
        answer = yield later(farm, 1, act)
        return answer

    return function


KINDS = [plain, deferred, coroutine, early_coroutine, generator]


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_of_any_kind_answers(farm: Farm, kind: Callable[..., Any]) -> None:
    """It may return the answer, a Deferred of it, or be a coroutine."""
    farm.slave("work", kind(farm, lambda: {"done": True}))
    answer = farm.master().submit("work", 1)
    farm.advance()
    farm.advance(1)
    assert farm.result(answer) == {"done": True}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ValueError("no such file"), CancelledError("mine"), SystemExit(3)])
def test_an_exception_of_any_kind_of_function_reaches_the_master(
    farm: Farm, kind: Callable[..., Any], error: BaseException, logged_errors: Callable[..., list[Failure]]
) -> None:
    """Any exception fails the job; the slave takes the next one."""

    def act() -> None:
        raise error

    farm.slave("work", kind(farm, act))
    master = farm.master()
    for _ in range(2):
        answer = master.submit("work", 1)
        farm.advance()
        farm.advance(1)
        failed = outcome_of(farm, answer)
        assert (failed.kind, failed.reason) == (type(error).__name__, str(error))
        assert failed.traceback is not None
        assert "raise error" in failed.traceback


@pytest.mark.parametrize("kind", KINDS)
def test_trying_again_gives_the_job_to_a_slave_once_more(farm: Farm, kind: Callable[..., Any]) -> None:
    """TryAgain spends an attempt instead of failing the job, as long as there are attempts."""
    runs = list[int]()

    def act() -> str:
        runs.append(1)
        if len(runs) < 3:
            raise TryAgain("not yet")
        return "now"

    farm.slave("work", kind(farm, act))
    answer = farm.master().submit("work", 1)
    for _ in range(5):
        farm.advance(1)
    assert farm.result(answer) == "now"


def test_trying_again_too_often_fails(farm: Farm) -> None:
    """The last reason is told, and every attempt."""

    def never(_body: Any) -> None:
        raise TryAgain

    farm.slave("work", never)
    failed = outcome_of(farm, farm.master().submit("work", 1))
    assert failed.kind == "TryAgain"
    assert failed.reason == "TryAgain() (4 attempts)"
    assert len(failed.attempts) == 4


def test_jobs_are_taken_one_at_a_time(farm: Farm) -> None:
    """The next job comes when the one in hand is answered."""
    work, master = Work(), farm.master()
    farm.slave("work", work)
    answers = [master.submit("work", n) for n in range(3)]
    farm.advance()
    assert work.bodies == [0]
    work.runs[0].callback("a")
    farm.advance()
    assert work.bodies == [0, 1]
    work.runs[1].callback("b")
    assert (farm.result(answers[0]), farm.result(answers[1])) == ("a", "b")
    work.runs[2].callback("c")
    assert farm.result(answers[2]) == "c"


# Answers and failures that cannot be told as they are


@pytest.mark.parametrize("answer", [object(), float("nan"), "\ud800", {(1,): 2}])
def test_an_answer_that_json_has_not_is_a_failure(farm: Farm, answer: object) -> None:
    """The master hears that the answer is not JSON."""
    farm.slave("work", lambda _body: answer)
    failed = outcome_of(farm, farm.master().submit("work", 1))
    assert failed.kind == "BodyError"
    assert failed.reason.startswith("the answer is not JSON: ")


def test_a_body_that_python_cannot_read_is_a_failure(farm: Farm) -> None:
    """The function is not called, and the master hears why."""
    work = Work()
    farm.slave("work", work)
    master = farm.gloom.master()
    master.send(b'{"action":"submit","id":1,"type":"work","body":' + b"9" * 5000 + b"}")
    assert [message.get("error") for message in master.take()] == [None, "job_failed"]
    assert work.bodies == []


@pytest.mark.parametrize("limit", [1024, 20_000])
def test_an_answer_over_the_brokers_limit_is_a_failure(limit: int) -> None:
    """It is not sent, which would end the connection; the next answer, of just the limit, goes through."""
    with Farm(Settings(max_frame_bytes=limit)) as farm:
        envelope = len('{"action":"respond","body":"","id":2}')
        farm.slave("work", lambda extra: "x" * (limit - envelope + extra))
        master = farm.master()
        failed = outcome_of(farm, master.submit("work", 1, id=1))
        assert (failed.kind, failed.reason) == (
            "SizeError",
            f"the answer makes a frame of {limit + 1} bytes, the broker takes {limit}",
        )
        assert len(farm.result(master.submit("work", 0, id=2))) == limit - envelope
        assert len(farm.gloom.slave_endpoint.connections) == 1


@pytest.mark.parametrize(("limit", "told"), [(1024, 50), (16 * 1024 * 1024, 64 * 1024)])
def test_a_long_failure_is_cut_to_the_brokers_limit(limit: int, told: int) -> None:
    """A reason of megabytes, or a small limit, costs words and not the connection."""

    def fail(_body: Any) -> None:
        raise ValueError("\x01" * 20_000_000)

    with Farm(Settings(max_frame_bytes=limit)) as farm:
        farm.slave("work", fail)
        failed = outcome_of(farm, farm.master().submit("work", 1))
        assert (failed.kind, failed.reason) == ("ValueError", "\x01" * told)
        assert len(farm.gloom.slave_endpoint.connections) == 1


def test_a_failure_that_utf8_cannot_encode_is_escaped(farm: Farm) -> None:
    """Names of files hold lone surrogates; an exception with one must not leave the job unanswered."""

    def fail(_body: Any) -> None:
        raise FileNotFoundError("no such file: caf\udce9")

    farm.slave("work", fail)
    assert outcome_of(farm, farm.master().submit("work", 1)).reason == "no such file: caf\\udce9"


def test_an_exception_without_text_has_a_reason(farm: Farm) -> None:
    """Empty text becomes the repr, and a text that raises becomes the names of both exceptions."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    errors: list[Exception] = [ValueError(), MuteError()]

    def fail(_body: Any) -> None:
        raise errors.pop(0)

    farm.slave("work", fail)
    master = farm.master()
    assert outcome_of(farm, master.submit("work", 1)).reason == "ValueError()"
    assert "MuteError" in outcome_of(farm, master.submit("work", 1)).reason


class Nameless(type):
    """A metaclass that makes its classes raise for each attribute."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class SilentError(Exception):
    """It has no text, and none can be made."""

    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        raise RuntimeError("silent")


class StubbornError(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")


class NamelessError(Exception, metaclass=Nameless):
    pass


def noted() -> Exception:
    error = ValueError("v" * 20_000_000)
    error.add_note("n" * 20_000_000)
    return error


UGLY_ERRORS: list[Callable[[], BaseException]] = [
    SilentError,
    StubbornError,
    NamelessError,
    type("", (Exception,), {}),
    type("N" * 300, (Exception,), {}),
    noted,
    lambda: SystemExit(3),
    lambda: GeneratorExit(),
    lambda: SyntaxError("s", (b"\xff", 1, 1, 5)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("make_error", UGLY_ERRORS, ids=range(len(UGLY_ERRORS)))
@pytest.mark.parametrize("limit", [1024, 16 * 1024 * 1024])
@pytest.mark.parametrize("later", [False, True])
def test_any_exception_of_a_function_ends_its_job(
    make_error: Callable[[], BaseException], limit: int, later: bool
) -> None:
    """Its master hears of it, and the slot takes the next job; nothing hangs, and no connection ends."""
    runs = list[Deferred[Any]]()

    def work(body: Any) -> Any:
        if body is None:
            return "next"
        if later:
            runs.append(Deferred())
            return runs[0]
        raise make_error()

    with Farm(Settings(max_frame_bytes=limit)) as farm:
        farm.slave("work", work)
        master = farm.master()
        answer = master.submit("work", 1)
        farm.advance()
        if later:
            runs[0].errback(make_error())
        failed = outcome_of(farm, answer)
        assert failed.error == "job_failed"
        assert 0 < len(failed.reason) <= 64 * 1024
        assert farm.result(master.submit("work", None)) == "next"
        assert len(farm.gloom.slave_endpoint.connections) == 1


@pytest.mark.parametrize("id", ["x" * 255, "\x01" * 100])
def test_a_failure_fits_beside_a_long_id(id: str) -> None:
    """The id takes its part of the frame first."""
    with Farm(Settings(max_frame_bytes=1024)) as farm:
        farm.slave("work", lambda body: body["no"])
        assert outcome_of(farm, farm.master().submit("work", 1, id=id)).error == "job_failed"
        assert len(farm.gloom.slave_endpoint.connections) == 1


def test_a_subclass_that_finds_no_words_fails_the_job(farm: Farm, logged_errors: Any) -> None:
    """`describe` of a program's own may raise: the job ends all the same."""

    class Wordless(Slave):
        def describe(self, job: Assignment, failure: Failure) -> Fail:
            raise KeyError("words")

    farm.add(Wordless(farm.gloom.slave_endpoint, "work", lambda body: 1 / body, reactor=farm.gloom.clock))
    assert outcome_of(farm, farm.master().submit("work", 0)).reason == "'words'"
    assert len(logged_errors(KeyError)) == 1


# Connections that end


def test_a_slave_joins_again_after_a_reconnect(farm: Farm) -> None:
    """Also when the broker has started anew, and knows nobody."""
    farm.slave("echo", lambda body: body)
    master = farm.master()
    for end in (farm.drop, farm.crash):
        end()
        assert farm.result(master.submit("echo", 1)) == 1


def test_a_job_in_hand_is_cancelled_when_the_connection_ends(farm: Farm) -> None:
    """Another slave gets the job; the answer of the cancelled run is dropped."""
    cancelled = list[Deferred[Any]]()
    work, master = Work(cancelled.append), farm.master()
    slave = farm.slave("work", work)
    answer = master.submit("work", 1)
    farm.advance()
    farm.gloom.slave_endpoint.connections[-1].abortConnection()
    assert cancelled == work.runs
    farm.raw_slave("work").ask({"action": "respond", "body": "by another"})
    assert farm.result(answer) == "by another"
    farm.advance(0.2)
    assert slave.connection is not None


@pytest.mark.parametrize("late", ["late", RuntimeError("late")])
def test_a_late_answer_is_not_sent_on_the_next_connection(farm: Farm, late: object) -> None:
    """A run that goes on after it was cancelled says nothing of the job that is in hand by then."""
    work, master = Stubborn(), farm.master()
    farm.slave("work", work)
    answer = master.submit("work", 1)
    farm.advance()
    farm.gloom.slave_endpoint.connections[-1].abortConnection()
    farm.advance(0.2)
    assert (work.cancelled, len(work.runs)) == (1, 2)
    work.runs[0].callback(late)
    farm.advance()
    assert not answer.called
    work.runs[1].callback("in time")
    assert farm.result(answer) == "in time"


def test_a_function_may_end_its_own_connection(farm: Farm) -> None:
    """A plain function during which the connection ends: its answer goes nowhere, the job runs again."""
    runs = list[Any]()

    def function(body: Any) -> str:
        runs.append(body)
        if len(runs) == 1:
            farm.gloom.drop_all()
        return "done"

    farm.slave("work", function)
    answer = farm.master().submit("work", 1)
    farm.advance()
    assert not answer.called
    farm.advance(0.2)
    assert farm.result(answer) == "done"
    assert runs == [1, 1]


def test_a_canceller_that_raises_costs_no_connection(farm: Farm, logged_errors: Callable[..., list[Failure]]) -> None:
    """A job's Deferred that refuses to be cancelled is logged; the slave reconnects and serves."""

    def refuse(_deferred: Deferred[Any]) -> None:
        raise RuntimeError("no")

    work, master = Work(refuse), farm.master()
    farm.slave("work", work)
    answer = master.submit("work", 1)
    farm.advance()
    farm.drop()
    assert len(logged_errors(RuntimeError)) == 1
    work.runs[0].callback("late")
    work.runs[1].callback("in time")
    assert farm.result(answer) == "in time"


def test_a_long_job_keeps_its_connection(farm: Farm) -> None:
    """Pings go on while a Deferred is awaited, for as long as the job takes."""
    work, master = Work(), farm.master()
    farm.slave("work", work, heartbeat_seconds=30)
    answer = master.submit("work", 1)
    for _ in range(100):
        farm.advance(10)
    work.runs[0].callback("after a thousand seconds")
    assert farm.result(answer) == "after a thousand seconds"
    assert work.bodies == [1]


# Stopping


def test_stopping_finishes_the_job_in_hand(farm: Farm) -> None:
    """The broker is told first, gives no more jobs, and the job in hand is answered."""
    work, master = Work(), farm.master()
    slave = farm.slave("work", work)
    answers = [master.submit("work", n) for n in range(2)]
    farm.advance()
    stopped = slave.stopService()
    farm.advance(29)
    assert not stopped.called
    work.runs[0].callback("finished")
    assert farm.result(answers[0]) == "finished"
    farm.result(stopped)
    assert work.bodies == [0]
    other = farm.raw_slave("work")
    other.ask({"action": "respond", "body": "by another"})
    assert farm.result(answers[1]) == "by another"


def test_stopping_does_not_wait_for_ever(farm: Farm) -> None:
    """After finish_seconds the job is cancelled, and its master still gets an answer, from another slave."""
    cancelled = list[Deferred[Any]]()
    work, master = Work(cancelled.append), farm.master()
    slave = farm.slave("work", work, finish_seconds=5)
    answer = master.submit("work", 1)
    farm.advance()
    stopped = slave.stopService()
    farm.advance()
    farm.advance(4.9)
    assert cancelled == []
    farm.advance(0.1)
    farm.result(stopped)
    assert cancelled == work.runs
    farm.raw_slave("work").ask({"action": "respond", "body": "by another"})
    assert farm.result(answer) == "by another"


def test_a_job_that_ends_as_it_is_cancelled_is_answered(farm: Farm) -> None:
    """An answer that comes at the last moment counts; a failure does not, as the cancelling may have caused it."""
    master = farm.master()
    for last, expected in (("just in time", "just in time"), (Failure(RuntimeError("broken off")), "by another")):
        work = Work(lambda deferred, last=last: deferred.callback(last))  # type: ignore[misc]
        slave = farm.slave("work", work, finish_seconds=0)
        answer = master.submit("work", 1)
        farm.advance()
        farm.stop(slave, 0)
        if not answer.called:
            farm.raw_slave("work").ask({"action": "respond", "body": "by another"})
        assert farm.result(answer) == expected


def test_a_job_that_outlives_the_stop_says_nothing(farm: Farm) -> None:
    """A function that goes on after its cancel reports nothing, and does no harm."""
    work, master = Stubborn(), farm.master()
    slave = farm.slave("work", work, finish_seconds=1)
    answer = master.submit("work", 1)
    farm.advance()
    stopped = slave.stopService()
    farm.advance()
    farm.gloom.clock.advance(1)
    work.runs[0].callback(None)
    farm.result(stopped)
    assert not answer.called
    farm.raw_slave("work").ask({"action": "respond", "body": "by another"})
    assert farm.result(answer) == "by another"


def test_a_job_that_was_on_its_way_is_served(farm: Farm) -> None:
    """The broker gave it before it heard that the slave leaves: it is answered, and no attempt is spent."""
    master = farm.master()
    slave = farm.slave("echo", lambda body: body)
    answer = master.submit("echo", 1)
    farm.gloom.clock.advance(0)
    farm.gloom.master_endpoint.carry()
    farm.gloom.clock.advance(0)
    stopped = slave.stopService()
    assert farm.result(answer) == 1
    farm.result(stopped)


def test_stopping_ends_when_the_connection_does(farm: Farm) -> None:
    """A broker that goes away in the meantime has nothing left to be told."""
    work, master = Work(), farm.master()
    slave = farm.slave("work", work)
    for _ in range(2):
        answer = master.submit("work", 1)
        farm.advance()
        stopped = slave.stopService()
        farm.gloom.drop_all()
        farm.result(stopped)
        farm.advance(0.2)
        slave.startService()
        farm.advance()
        work.runs[-1].callback("second run")
        assert farm.result(answer) == "second run"


def test_stopping_beside_a_silent_broker_ends(farm: Farm) -> None:
    """A broker that does not answer the leave, and agreed on no heartbeat, is not waited for beyond finish_seconds."""
    slave = farm.slave("echo", lambda body: body, heartbeat_seconds=0, finish_seconds=7)
    far = farm.gloom.slave_endpoint.connections[-1]._other
    assert far is not None
    far.stalled = True
    stopped = slave.stopService()
    farm.advance(6.9)
    assert not stopped.called
    farm.advance(0.1)
    farm.advance(1)
    farm.result(stopped)


def test_stopping_waits_for_a_cancelled_job_too(farm: Farm) -> None:
    """When the stop is complete nothing runs any more, also nothing that a lost connection has cancelled."""
    work = Stubborn()
    slave = farm.slave("work", work)
    answer = farm.master().submit("work", 1)
    farm.advance()
    farm.gloom.slave_endpoint.refusing = True
    farm.gloom.slave_endpoint.connections[-1].abortConnection()
    stopped = slave.stopService()
    farm.advance(5)
    assert not stopped.called
    work.runs[0].callback(None)
    farm.result(stopped)
    farm.gloom.slave_endpoint.refusing = False
    farm.raw_slave("work").ask({"action": "respond", "body": 1})
    assert farm.result(answer) == 1


def test_the_end_of_a_cancelled_job_does_not_end_the_wait_for_the_one_in_hand(farm: Farm) -> None:
    """Stopping waits for both: the one that a lost connection has cancelled, and the one that came after it."""
    work = Stubborn()
    slave = farm.slave("work", work)
    answer = farm.master().submit("work", 1)
    farm.advance()
    farm.drop()
    stopped = slave.stopService()
    farm.advance()
    work.runs[0].callback(None)
    farm.advance(1)
    assert not stopped.called
    work.runs[1].callback("finished")
    assert farm.result(answer) == "finished"
    farm.result(stopped)
    assert work.cancelled == 1


def test_a_stopped_slave_starts_again(farm: Farm) -> None:
    """It joins and serves as before, any number of times."""
    slave, master = farm.slave("echo", lambda body: body), farm.master()
    for n in range(3):
        assert farm.result(master.submit("echo", n)) == n
        farm.stop(slave, 0)
        slave.startService()
    assert farm.result(master.submit("echo", 4)) == 4


def test_a_slave_started_while_it_stops_serves(farm: Farm) -> None:
    """It finishes the job in hand first, leaves, and joins anew."""
    work, master = Work(), farm.master()
    slave = farm.slave("work", work)
    first, second = master.submit("work", 1), master.submit("work", 2)
    farm.advance()
    stopped = slave.stopService()
    slave.startService()
    farm.advance(1)
    assert not stopped.called
    work.runs[0].callback("a")
    assert farm.result(first) == "a"
    farm.result(stopped)
    work.runs[1].callback("b")
    assert farm.result(second) == "b"


def test_a_second_stop_is_the_same_stop(farm: Farm) -> None:
    """Both Deferreds fire, when the job in hand is finished."""
    work = Work()
    slave = farm.slave("work", work)
    answer = farm.master().submit("work", 1)
    farm.advance()
    stops = [slave.stopService(), slave.stopService()]
    farm.advance()
    assert [stop.called for stop in stops] == [False, False]
    work.runs[0].callback("finished")
    assert farm.result(answer) == "finished"
    for stop in stops:
        farm.result(stop)


# Arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": ""}, "type must be 1 to 255 characters, got 0"),
        ({"type": "x" * 256}, "type must be 1 to 255 characters, got 256"),
        ({"type": "\ud800"}, "surrogates"),
        ({"name": ""}, "name must be 1 to 255 characters"),
        ({"heartbeat_seconds": -1}, "heartbeat_seconds must be 0 to 1e9 seconds, got -1"),
        ({"heartbeat_seconds": float("nan")}, "heartbeat_seconds"),
        ({"finish_seconds": float("inf")}, "finish_seconds"),
    ],
)
def test_a_value_out_of_range_is_refused_at_once(farm: Farm, options: dict[str, Any], words: str) -> None:
    """ValueError when it is made, rather than a slave that never gets a job."""
    given: dict[str, Any] = {"type": "work", "function": len, "reactor": farm.gloom.clock} | options
    with pytest.raises(ValueError, match=words):
        Slave(farm.gloom.slave_endpoint, **given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": b"t"}, "type must be a string, a list of strings or None, got b't'"),
        ({"type": 5}, "type must be a string, a list of strings or None, got 5"),
        ({"type": ["a", 5]}, "type must be a string, got 5"),
        ({"function": "len"}, "function must be a function, got 'len'"),
        ({"slots": 1.5}, "slots must be an integer, 1 to 1000, got 1.5"),
        ({"slots": True}, "slots must be an integer"),
        ({"finish_seconds": None}, "finish_seconds must be a number of seconds, got None"),
        ({"token": object()}, "token must be a string, got object"),
    ],
)
def test_a_value_of_another_type_is_refused_at_once(farm: Farm, options: dict[str, Any], words: str) -> None:
    """TypeError when it is made."""
    given: dict[str, Any] = {"type": "work", "function": len, "reactor": farm.gloom.clock} | options
    with pytest.raises(TypeError, match=words):
        Slave(farm.gloom.slave_endpoint, **given)


def test_untyped_jobs_only(farm: Farm) -> None:
    """A slave of the type None gets jobs without a type, and no others."""
    work, master = Work(), farm.master()
    farm.slave(None, work)
    typed, untyped = master.submit("typed", 1), master.submit(None, 2)
    farm.advance()
    assert work.bodies == [2]
    work.runs[0].callback("done")
    assert farm.result(untyped) == "done"
    farm.slave("typed", lambda body: body)
    assert farm.result(typed) == 1


# Slaves of another kind


class Relay(Slave):
    """Answers with the bytes of the body, and tells failures in its own way."""

    limits: list[int]

    def run(self, job: Assignment, max_answer_bytes: int) -> Any:
        self.limits = [*getattr(self, "limits", []), max_answer_bytes]
        if job.id == 0:
            raise ValueError
        return job.body

    def describe(self, job: Assignment, failure: Failure) -> Fail:
        return Fail(f"no {job.id}", kind="Relay")


def test_a_subclass_works_on_json_as_it_came() -> None:
    """Bytes in, bytes out: numbers that Python would change arrive unchanged, up to the broker's limit."""
    with Farm(Settings(max_frame_bytes=2048)) as farm:
        relay = Relay(farm.gloom.slave_endpoint, "relay", len, reactor=farm.gloom.clock)
        farm.add(relay)
        master = farm.gloom.master()
        number = b"1" * (2048 - len('{"action":"submit","id":1,"type":"relay","body":}'))
        for id, body in ((b"1", number), (b"0", b"1")):
            master.send(b'{"action":"submit","id":%s,"type":"relay","body":%s}' % (id, body))
        outcomes = [frame for frame in master.frames if b'"id"' in frame]
        assert outcomes == [
            b'{"id":1,"body":' + number + b"}",
            b'{"id":0,"error":"job_failed","reason":"no 0"}',
        ]
        assert relay.limits == [2048 - len('{"action":"respond","body":,"id":1}')] * 2


def test_a_refusal_by_the_broker_is_logged(farm: Farm) -> None:
    """A broker that refuses a request of the slave leaves an error in the log."""
    slave = farm.slave("echo", lambda body: body)
    assert slave.connection is not None
    with logged("gloom.client") as events:
        slave.connection.ask(Fail("no job is in hand"))
        farm.advance()
    assert ["invalid_state -> no job is in hand" in formatEvent(event) for event in events] == [True]
