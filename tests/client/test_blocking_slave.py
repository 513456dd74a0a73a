"""Blocking slaves: taking jobs by hand, and serving with a function."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from gloom.client.blocking import (
    BodyError,
    JobFailed,
    RequestRefused,
    Slave,
    TimedOut,
    TryAgain,
)
from tests.support.brokers import LIMIT_BYTES, OK, UNREADABLE, Farm, Scripted


@pytest.fixture
def broker() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


# Slaves


async def test_a_slave_takes_jobs_one_at_a_time() -> None:
    """Joining, taking a job and responding say True, the job and True; iterating goes on so until the slave leaves."""
    async with Farm() as farm:

        def run() -> list[Any]:
            with farm.master() as master, farm.slave("sum") as slave:
                for n in range(3):
                    master.submit(n, "sum", [n, n], timeout=4)
                job = slave.job(timeout=4)
                assert job == {"action": "job", "id": 0, "type": "sum", "body": [0, 0]}
                assert slave.respond("zero", timeout=4) is True
                for job in slave:
                    assert slave.leave(timeout=4) is True
                    assert slave.respond(sum(job.body), timeout=4) is True
                answers = [master.receive(timeout=4).body for _ in range(2)]
                # The third job waits for a slave that joins again.
                assert slave.join("sum", timeout=4) is True
                assert next(iter(slave)).id == 2
                return answers

        assert await deferToThread(run) == ["zero", 2]


async def test_a_job_may_be_failed() -> None:
    """A slave that fails a job tells its master why; with retry the job comes again."""
    async with Farm() as farm:

        def run() -> JobFailed:
            with farm.master() as master, farm.slave("sum") as slave:
                master.submit("a", type="sum", timeout=4)
                assert slave.job(timeout=4).id == "a"
                assert slave.fail("not now", retry=True, timeout=4) is True
                assert slave.job(timeout=4).id == "a"
                assert slave.fail("too hot", "ValueError", "Traceback ...", timeout=4) is True
                with pytest.raises(JobFailed) as raised:
                    master.receive(timeout=4)
                return raised.value

        failed = await deferToThread(run)
        assert (failed.id, failed.reason, failed.kind, failed.traceback) == (
            "a",
            "too hot",
            "ValueError",
            "Traceback ...",
        )
        assert [attempt["ended"] for attempt in failed.attempts] == ["failed", "failed"]
        assert failed.attempts[0]["slave"] == f"{socket.gethostname()}:{os.getpid()}"


def test_a_job_that_comes_with_a_reply_is_kept(broker: Scripted) -> None:
    """A job may arrive while a slave waits for a reply, before or behind it; it is the next one taken."""
    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": None, "body": 1})
    slave.join(None)
    broker.says({"action": "job", "id": 2, "type": "sum", "body": 2}, OK)
    slave.leave()
    # It left, and these two are still to be done.
    assert [(job.id, job.type) for job in slave] == [(1, None), (2, "sum")]


async def test_a_slave_may_have_several_types() -> None:
    """It gets the jobs of each."""

    def run(farm: Farm) -> None:
        with farm.master() as master, farm.slave(["a", "b"]) as slave:
            for type in ("b", "c", "a"):
                master.submit(type, type=type, timeout=4)
            for type in ("b", "a"):
                assert slave.job(timeout=4).type == type
                slave.respond(timeout=4)

    async with Farm() as farm:
        await deferToThread(run, farm)


def test_progress_has_no_reply(broker: Scripted) -> None:
    """It is sent, and the next reply is that of the answer; one that is too large is refused and not sent."""
    slave = Slave(broker.near)
    broker.says({"ok": True, "version": 1, "server": "gloom/0", "max_frame": LIMIT_BYTES}, {"ok": True})
    slave.join("a")
    broker.heard()
    slave.progress({"done": 3})
    with pytest.raises(RequestRefused, match="size_error"):
        slave.progress("x" * LIMIT_BYTES)
    broker.says({"ok": True})
    assert slave.respond(1)
    assert broker.heard() == [{"action": "progress", "body": {"done": 3}}, {"action": "respond", "body": 1}]


async def test_a_response_without_a_job_is_refused() -> None:
    """Answering nothing is refused by the broker, with its reason."""
    async with Farm() as farm:

        def run() -> None:
            with farm.slave("sum") as slave, pytest.raises(RequestRefused, match="invalid_state -> no job is in hand"):
                slave.respond(1, timeout=4)

        await deferToThread(run)


def test_an_answer_that_json_cannot_carry_leaves_the_job_in_hand(broker: Scripted) -> None:
    """A response without a JSON form is an error before anything is sent."""
    with pytest.raises(BodyError, match="not JSON"):
        Slave(broker.near).respond(float("nan"))
    assert broker.heard() == []


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (lambda slave: slave.join(5), TypeError, "type must be a string, a list of strings or None, got 5"),
        (lambda slave: slave.join(b"t"), TypeError, "type must be a string, a list of strings or None, got b't'"),
        (lambda slave: slave.join([]), ValueError, "type must be one or a list of 1 to 1000, got 0"),
        (lambda slave: slave.join(["x" * 256]), ValueError, "type must be 1 to 255 characters, got 256"),
        (lambda slave: slave.fail(5), TypeError, "reason must be a string, got 5"),
        (lambda slave: slave.fail("r", "k" * 256), ValueError, "kind must be 1 to 255 characters, got 256"),
        (lambda slave: slave.fail("r", traceback=b"t"), TypeError, "traceback must be a string, got b't'"),
        (lambda slave: slave.fail("r", retry=1), TypeError, "retry must be True or False, got 1"),
        (lambda slave: slave.respond({1: 2}), BodyError, "keys of a dict must be strings, got int"),
        (lambda slave: slave.respond(1, timeout=-1), ValueError, "timeout must be 0 seconds or more"),
        (lambda slave: slave.progress(b""), BodyError, "got bytes"),
        (lambda slave: slave.serve("len"), TypeError, "function must be a function, got 'len'"),
    ],
    ids=range(12),
)
def test_a_wrong_argument_is_refused_at_the_call(
    broker: Scripted, call: Callable[[Any], object], kind: type[Exception], told: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(kind, match=told):
        call(Slave(broker.near))
    assert broker.heard() == []


def test_a_reason_that_utf8_cannot_encode_is_escaped(broker: Scripted) -> None:
    """Names of files hold lone surrogates; a slave that fails with one must not fail at that."""
    slave = Slave(broker.near)
    broker.says(OK, OK)
    slave.fail("no file caf\udce9", traceback="\udce9")
    *_, fail = broker.heard()
    assert (fail["reason"], fail["traceback"]) == ("no file caf\\udce9", "\\udce9")


def test_the_timeout_of_a_slave_is_that_of_each_call(broker: Scripted) -> None:
    """Unless the call has one of its own; a slave that serves waits for jobs as long as it takes."""
    slave = Slave(broker.near, timeout=0.01)
    for call in (lambda: slave.join("t"), slave.job, lambda: slave.respond(1), lambda: slave.fail("r"), slave.leave):
        with pytest.raises(TimedOut, match=r"within 0\.01 s"):
            call()
    broker.says(*[OK] * 5)
    Timer(0.1, broker.says, [{"action": "job", "id": 1, "type": "t", "body": 1}]).start()
    assert next(iter(slave)).id == 1
    Timer(0.1, broker.says, [{"action": "job", "id": 2, "type": "t", "body": 2}]).start()
    served: list[Any] = []

    def serve(body: Any) -> None:
        served.append(body)
        Timer(0.1, broker.far.close).start()

    slave.serve(serve)
    assert served == [2]


def test_a_job_that_cannot_be_read_is_failed_and_the_next_is_served(broker: Scripted) -> None:
    """A body too deep for anybody, and a frame that is no message: each costs its own job."""
    slave = Slave(broker.near)
    deep = b'{"action":"job","id":1,"type":"t","body":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    broken = b'{"action":"job","id":2,"type":5,"body":1}'
    broker.says(OK, OK, deep, OK, broken, OK, {"action": "job", "id": 3, "type": "t", "body": 3}, OK)
    slave.join("t")
    Timer(0.1, broker.far.shutdown, [socket.SHUT_WR]).start()
    slave.serve(lambda body: body + 1)
    *_, first, second, third = broker.heard()
    assert [(one["action"], one.get("kind")) for one in (first, second)] == [("fail", "BodyError")] * 2
    assert third == {"action": "respond", "body": 4}


# Serving


def outcomes(farm: Farm, type: str, *bodies: Any) -> list[Any]:
    """Submit jobs one after the other; return the answers, or the errors, that came."""
    ended: list[Any] = []
    with farm.master() as master:
        for body in bodies:
            ended += master.do_many([{"type": type, "body": body}], timeout=4, return_errors=True)
    return ended


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class SilentError(Exception):
    def __str__(self) -> str:
        return ""

    def __repr__(self) -> str:
        raise RuntimeError


class StubbornError(Exception):
    def __str__(self) -> str:
        raise SystemExit


UGLY_ERRORS: list[type[BaseException]] = [
    SilentError,
    StubbornError,
    type("", (Exception,), {}),
    type("N" * 300, (Exception,), {}),
    GeneratorExit,
    CancelledError,
]


async def test_any_exception_of_a_function_ends_its_job() -> None:
    """Its master hears of it, and the process serves on."""

    def work(body: int) -> str:
        if body < len(UGLY_ERRORS):
            raise UGLY_ERRORS[body]
        return "next"

    async with Farm() as farm:
        farm.serve("work", work)
        *failed, answered = await deferToThread(outcomes, farm, "work", *range(len(UGLY_ERRORS) + 1))
        assert [error.error for error in failed] == ["job_failed"] * len(UGLY_ERRORS)
        assert all(error.reason for error in failed)
        assert [error.kind for error in failed] == [kind.__name__[:255] or None for kind in UGLY_ERRORS]
        assert answered.body == "next"


def test_a_function_that_ends_the_program_gives_its_job_back(broker: Scripted) -> None:
    """As after Ctrl-C: it leaves, another slave gets the job, and SystemExit goes on its way."""
    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": "a", "body": 1})
    slave.join("a")
    broker.says(OK, OK)
    with pytest.raises(SystemExit):
        slave.serve(lambda _: sys.exit(3))
    *_, leave, fail = broker.heard()
    assert leave == {"action": "leave"}
    assert (fail["action"], fail["kind"], fail["retry"]) == ("fail", "SystemExit", True)


async def test_an_exception_of_a_function_reaches_the_master() -> None:
    """A function that raises fails its job with kind, reason and traceback, and the slave serves on."""
    async with Farm() as farm:

        def touchy(body: Any) -> Any:
            if body == "unprintable":
                raise UnprintableError
            if body == "surrogate":
                raise OSError("\ud800")
            if body == "long":
                raise ValueError("x" * 10**6)
            return 1 / body

        farm.serve("touchy", touchy)
        *failed, answered = await deferToThread(outcomes, farm, "touchy", 0, "unprintable", "surrogate", "long", 2)
        assert [(error.kind, error.reason[:20]) for error in failed] == [
            ("ZeroDivisionError", "division by zero"),
            ("UnprintableError", "UnprintableError, wh"),
            ("OSError", "\\ud800"),
            ("ValueError", "x" * 20),
        ]
        assert "return 1 / body" in failed[0].traceback
        assert failed[0].traceback.endswith("ZeroDivisionError: division by zero\n")
        assert answered.body == 0.5


async def test_an_answer_that_cannot_be_sent_fails_its_job() -> None:
    """An answer that is not JSON, or over the broker's limit, fails its job with a reason, and the slave serves on."""
    async with Farm() as farm:
        answers = {"object": object(), "large": "x" * LIMIT_BYTES, "good": 1}
        farm.serve("answers", answers.get)
        foreign, large, good = await deferToThread(outcomes, farm, "answers", "object", "large", "good")
        assert (foreign.kind, foreign.reason[:22]) == ("BodyError", "the answer is not JSON")
        assert large.kind == "SizeError"
        assert re.match("the answer is too large: a frame of .* bytes is over the broker's limit", large.reason)
        assert good.body == 1


async def test_a_function_may_ask_for_another_attempt() -> None:
    """TryAgain spends an attempt; the job comes back until it is done."""
    async with Farm() as farm:
        attempts: list[Any] = []

        def third_time(body: Any) -> int:
            attempts.append(body)
            if len(attempts) < 3:
                raise TryAgain("not yet")
            return len(attempts)

        farm.serve("stubborn", third_time)
        (answer,) = await deferToThread(outcomes, farm, "stubborn", "x")
        assert answer.body == 3
        assert attempts == ["x", "x", "x"]


def test_a_job_that_python_cannot_read_is_failed(broker: Scripted) -> None:
    """A body beyond Python's limits fails its job, and the slave serves on."""
    slave = Slave(broker.near)
    broker.says(OK, OK, b'{"action":"job","id":1,"type":"sum","body":' + UNREADABLE + b"}")
    slave.join("sum")
    broker.says(OK, {"action": "job", "id": 2, "type": "sum", "body": 2}, OK)
    broker.far.shutdown(socket.SHUT_WR)
    slave.serve(lambda body: body)
    _, _, failed, answered = broker.heard()
    assert (failed["action"], failed["kind"]) == ("fail", "BodyError")
    assert answered == {"action": "respond", "body": 2}


def test_a_refused_answer_is_raised(broker: Scripted) -> None:
    """A broker that does not want an answer for another reason than its size is heard."""
    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": "sum", "body": 1})
    slave.join("sum")
    broker.says({"error": "invalid_state", "reason": "no job is in hand"})
    with pytest.raises(RequestRefused, match="invalid_state"):
        slave.serve(lambda body: body)


async def test_serving_ends_with_the_broker() -> None:
    """A slave that serves returns when the broker closes the connection."""
    async with Farm() as farm:
        served: list[Any] = []
        farm.serve("list", served.append)
        await deferToThread(outcomes, farm, "list", 1, 2)
        await farm.stop()  # waits for the slave's thread
        assert served == [1, 2]


def test_a_function_may_end_the_serving(broker: Scripted) -> None:
    """A function that makes its slave leave is answered once more, and then serving returns."""
    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": "sum", "body": 1})
    slave.join("sum")
    broker.says(OK, OK)
    slave.serve(lambda _body: slave.leave())
    assert [message["action"] for message in broker.heard()] == ["hello", "join", "leave", "respond"]


def test_an_interrupted_function_gives_its_job_back(broker: Scripted) -> None:
    """Ctrl-C in a function leaves first, so that the job goes to another slave, and then returns."""

    def interrupted(_body: Any) -> None:
        raise KeyboardInterrupt

    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": "sum", "body": 1})
    slave.join("sum")
    broker.says(OK, OK, OK)
    slave.serve(interrupted)
    messages = broker.heard()
    assert [message["action"] for message in messages] == ["hello", "join", "leave", "fail", "leave"]
    assert messages[3]["retry"] is True


def test_an_interrupted_wait_finishes_the_job_on_its_way(broker: Scripted) -> None:
    """Ctrl-C between jobs leaves; a job that the broker sent before it heard that is done before serving returns."""
    slave = Slave(broker.near)
    broker.says(OK, OK, {"action": "job", "id": 1, "type": "sum", "body": 1})
    slave.join("sum")

    def interrupt(_signal: int, _frame: object) -> None:
        # The answer of job 1, a job, the leave, the answer of job 2.
        broker.says(OK, {"action": "job", "id": 2, "type": "sum", "body": 2}, OK, OK)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        slave.serve(lambda body: body)
    finally:
        signal.signal(signal.SIGALRM, before)
    messages = [(message["action"], message.get("body")) for message in broker.heard()]
    assert messages == [("hello", None), ("join", None), ("respond", 1), ("leave", None), ("respond", 2)]


SLAVE_SCRIPT = """
import sys
from gloom.client.blocking import Slave

with Slave(sys.argv[1]) as slave:
    slave.join("double")
    slave.serve(lambda n: 2 * n)
print("served")
"""


async def test_ctrl_c_stops_a_slave_script_without_a_traceback(tmp_path: Path) -> None:
    """A script that serves ends by itself on SIGINT, quietly and with exit status 0."""
    async with Farm() as farm:
        script = tmp_path / "slave.py"
        script.write_text(SLAVE_SCRIPT)

        def run() -> tuple[list[Any], int, str, str]:
            command = [sys.executable, str(script), f"127.0.0.1:{farm.slave_port}"]
            # It closes the pipes too when this fails: else a later test fails for an open file.
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                try:
                    # Once it has answered, it is inside serve.
                    answers = outcomes(farm, "double", 21)
                    process.send_signal(signal.SIGINT)
                    out, err = process.communicate(timeout=20)
                finally:
                    process.kill()
            return [job.body for job in answers], process.returncode, out, err

        assert await deferToThread(run) == ([42], 0, "served\n", "")
