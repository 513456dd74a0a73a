"""`gloom.client.aio.Master` and a real broker in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gloom.client.aio import Master, current_job
from gloom.errors import BodyError, JobFailed, RequestRefused, TransportError
from tests.support.aio import echo, master, run, slave, until
from tests.support.daemon import Daemon


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("broker")).start("--max-frame-bytes=65536")
    yield daemon
    daemon.kill()


# Answers


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**70, 0.5, "", "é\u2028\x00", [], {}, {"a": [1, {"b": None}]}])
def test_a_value_goes_to_the_slave_and_comes_back_as_it_was(broker: Daemon, value: object) -> None:
    """Bodies and answers are the Python values that JSON has, and arrive unchanged."""

    async def main() -> Any:
        async with slave(broker, "echo", echo), master(broker) as one:
            return await one.submit("echo", value)

    arrived = run(main())
    assert arrived == value
    assert type(arrived) is type(value)


def test_an_untyped_job_goes_to_any_slave(broker: Daemon) -> None:
    """The type None asks for whichever slave is free."""

    async def main() -> None:
        async with slave(broker, "anything", echo), master(broker) as one:
            assert await one.submit(None, 1) == 1

    run(main())


def test_priority_goes_before_age(broker: Daemon) -> None:
    """Larger priorities are served first, equal ones in the order of submission."""

    async def main() -> str:
        served = list[str]()

        async def note(name: str) -> None:
            served.append(name)

        async with master(broker) as one, asyncio.TaskGroup() as group:
            for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1), ("e", 5)):
                group.create_task(one.submit("note", name, priority=priority))
            await one.when_connected()
            with pytest.raises(RequestRefused, match="no_slaves"):  # behind the five in the broker
                await one.submit("nobody", 1, require_slave=True)
            async with slave(broker, "note", note):
                await until(lambda: len(served) == 5)
        return "".join(served)

    assert run(main()) == "beacd"


@pytest.mark.parametrize("id", ["mine", 7, -(2**70), "x" * 255])
def test_the_id_may_be_chosen(broker: Daemon, id: str | int) -> None:
    """A given id is the id that the slave sees."""

    async def own_id(body: Any) -> Any:
        return current_job().id

    async def main() -> Any:
        async with slave(broker, "own", own_id), master(broker) as one:
            return await one.submit("own", 1, id=id)

    assert run(main()) == id


def test_ten_thousand_jobs_are_in_flight_at_once(broker: Daemon) -> None:
    """One connection carries as many unanswered jobs as there is memory for."""

    async def main() -> None:
        async with master(broker) as one:
            answers = asyncio.gather(*(one.submit("echo", n) for n in range(10_000)))
            await until(lambda: one.unanswered == 10_000)
            async with slave(broker, "echo", echo, slots=100):
                assert await answers == list(range(10_000))
            assert one.unanswered == 0

    run(main(), 120)


def test_progress_and_the_receipt_come_before_the_answer(broker: Daemon) -> None:
    """In order, in the event loop, whatever thread the function runs in."""

    def stroll(steps: int) -> str:
        for step in range(steps):
            current_job().progress(step)
        return "there"

    async def main() -> list[Any]:
        told = list[Any]()
        async with slave(broker, "stroll", stroll, name="walker"), master(broker, receipts=True) as one:
            answer = await one.submit("stroll", 3, on_progress=told.append, on_receipt=told.append)
            return [*told, answer]

    *steps, receipt, answer = run(main())
    assert (steps, answer) == ([0, 1, 2], "there")
    assert (receipt["attempts"], receipt["slave"]) == (1, "walker")


def test_a_callback_that_raises_is_logged_and_no_more(broker: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """The job has nothing to do with it."""

    def refuse(value: Any) -> None:
        raise ZeroDivisionError(value)

    async def tell(body: Any) -> Any:
        current_job().progress(body)
        return body

    async def main() -> None:
        async with slave(broker, "tell", tell), master(broker) as one:
            assert await one.submit("tell", 5, on_progress=refuse) == 5

    run(main())
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


# Failures and refusals


def test_a_function_that_raises_is_a_failure_with_all_that_is_known(broker: Daemon) -> None:
    """JobFailed has the exception's name, its text, the slave's traceback and the attempts."""

    async def count_words(body: Any) -> int:
        return len(body.split())

    async def main() -> None:
        async with slave(broker, "words", count_words, name="worker:1"), master(broker) as one:
            await one.submit("words", 5, id="five")

    with pytest.raises(JobFailed) as raised:
        run(main())
    failed = raised.value
    assert (failed.id, failed.error, failed.kind) == ("five", "job_failed", "AttributeError")
    assert str(failed) == "AttributeError: 'int' object has no attribute 'split'"
    assert failed.traceback is not None
    assert "return len(body.split())" in failed.traceback
    assert [(attempt["slave"], attempt["ended"]) for attempt in failed.attempts] == [("worker:1", "failed")]


@pytest.mark.parametrize(
    ("terms", "error"), [({"expires": 0}, "expired"), ({"timeout": 0.05, "retries": 0}, "timeout")]
)
def test_the_times_of_a_job_end_it(broker: Daemon, terms: Any, error: str) -> None:
    """Both end in JobFailed, which says how."""

    async def forever(body: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with slave(broker, "forever", forever), master(broker) as one:
            await one.submit("forever" if error == "timeout" else "nobody", 1, **terms)

    with pytest.raises(JobFailed) as raised:
        run(main())
    assert raised.value.error == error


def test_an_id_in_flight_is_refused(broker: Daemon) -> None:
    """Whether this master or another has it; the first job is untouched."""

    async def main() -> None:
        async with master(broker) as mine, master(broker) as other:
            first = asyncio.create_task(mine.submit("echo", 1, id="x"))
            await mine.when_connected()
            await until(lambda: mine.unanswered == 1)
            for one in (mine, other):
                with pytest.raises(RequestRefused) as raised:
                    await one.submit("echo", 2, id="x")
                assert (raised.value.error, raised.value.reason, raised.value.id) == ("id_exists", "x", "x")
            async with slave(broker, "echo", echo):
                assert await first == 1

    run(main())


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"type": ""}, ValueError, "type must be 1 to 255 characters, got 0"),
        ({"priority": "high"}, TypeError, "priority must be an integer, got 'high'"),
        ({"timeout": 0}, ValueError, "timeout must be over 0, to 1e9 seconds, got 0"),
        ({"id": b"x"}, TypeError, "id must be a string of 1 to 255 characters or an integer, got b'x'"),
        ({"on_progress": 5}, TypeError, "on_progress must be a function, got 5"),
        ({"on_receipt": print}, ValueError, "on_receipt needs a master with receipts"),
        ({"prority": 5}, TypeError, "prority"),
        ({"body": float("nan")}, BodyError, "not JSON"),
        ({"body": object()}, BodyError, "not JSON"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    broker: Daemon, options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    """The others go on."""

    async def main() -> None:
        async with slave(broker, "echo", echo), master(broker) as one:
            given: dict[str, Any] = {"type": "echo", "body": 2} | options
            with pytest.raises(kind, match=told):
                await one.submit(**given)
            assert one.unanswered == 0
            assert await one.submit("echo", 3) == 3

    run(main())


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"id": "mine"}, TypeError, "map takes no id"),
        ({"prority": 5}, TypeError, "map takes no prority; its keywords are window, ordered, priority, timeout"),
        ({"window": 0}, ValueError, "window must be 1 or more, got 0"),
        ({"ordered": 1}, TypeError, "ordered must be True or False, got 1"),
        ({"bodies": 5}, TypeError, "not iterable"),
        ({"priority": "high"}, TypeError, "priority must be an integer, got 'high'"),
    ],
)
def test_map_refuses_at_the_call(broker: Daemon, options: dict[str, Any], kind: type[Exception], told: str) -> None:
    """What every job of it would be refused for is said once, and no body is read."""
    bodies = iter(range(3))

    async def main() -> None:
        async with master(broker) as one:
            one.map(**({"type": "echo", "bodies": bodies} | options))

    with pytest.raises(kind, match=told):
        run(main())
    assert next(bodies) == 0


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"address": 9998}, TypeError, "address must be a string, got 9998"),
        ({"address": "nowhere"}, ValueError, "an address must be HOST:PORT, .*unix:PATH, got 'nowhere'"),
        ({"address": "a:1,b:0"}, ValueError, "a port is 1 to 65535, got 'b:0'"),
        ({"address": "unix:"}, ValueError, "an address must be"),
        ({"token": 7777}, TypeError, "token must be a string, got int$"),
        ({"heartbeat_seconds": "5"}, TypeError, "heartbeat_seconds must be a number of seconds, got '5'"),
        ({"receipts": 1}, TypeError, "receipts must be True or False, got 1"),
        ({"hartbeat": 1}, TypeError, "hartbeat"),
    ],
)
def test_a_master_is_not_made_of_wrong_arguments(options: dict[str, Any], kind: type[Exception], told: str) -> None:
    """The constructor says so; nothing hangs later, and no error shows a token."""
    with pytest.raises(kind, match=told) as raised:
        Master(**({"address": "127.0.0.1:9998"} | options))
    assert "7777" not in str(raised.value)


# Sizes


def test_a_body_over_the_brokers_limit_is_refused_and_the_others_go_on(broker: Daemon) -> None:
    """It is not sent: the broker would end the connection."""

    async def main() -> None:
        async with slave(broker, "echo", echo), master(broker) as one:
            large = "x" * 65_000
            assert await one.submit("echo", large) == large
            with pytest.raises(RequestRefused) as raised:
                await one.submit("echo", "x" * 66_000)
            assert raised.value.error == "size_error"
            assert await one.submit("echo", 3) == 3

    run(main())


def test_megabytes_go_there_and_back(tmp_path: Path) -> None:
    """More than a socket holds, several at once, both ways."""
    daemon = Daemon(tmp_path).start()

    async def main() -> None:
        bodies = [letter * (8 << 20) for letter in "abc"]
        async with slave(daemon, "echo", echo, slots=3), master(daemon) as one:
            assert await asyncio.gather(*(one.submit("echo", body) for body in bodies)) == bodies

    try:
        run(main())
    finally:
        daemon.kill()


# Cancelling


def test_a_timeout_around_a_call_cancels_the_job(broker: Daemon) -> None:
    """A waiting job reaches no slave, and its id is free."""

    async def main() -> None:
        async with master(broker) as one:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.submit("echo", 1, id="late")
            assert one.unanswered == 0
            again = asyncio.create_task(one.submit("echo", 2, id="late"))
            async with slave(broker, "echo", echo):
                assert await again == 2

    run(main())


def test_cancelling_the_task_cancels_the_function(broker: Daemon) -> None:
    """The coroutine on the slave is cancelled, and the slot is free again."""

    async def main() -> list[str]:
        seen, began = list[str](), asyncio.Event()

        async def wait(body: Any) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async with slave(broker, ["wait", "echo"], wait), master(broker) as one:
            call = asyncio.create_task(one.submit("wait", 1))
            await began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: seen)
            began.clear()
            second = asyncio.create_task(one.submit("echo", 1))
            await began.wait()
            second.cancel()
            await until(lambda: len(seen) == 2)
        return seen

    assert run(main()) == ["cancelled", "cancelled"]


def test_a_call_that_is_cancelled_in_the_turn_of_its_outcome_loses_nothing(broker: Daemon) -> None:
    """Neither an error that nobody retrieves nor a job that stays."""

    async def fail(body: Any) -> None:
        raise ValueError(body)

    async def main() -> None:
        async with slave(broker, "fail", fail, slots=8), master(broker) as one:
            for pause in range(40):
                call = asyncio.create_task(one.submit("fail", 1))
                await asyncio.sleep(pause / 20_000)
                call.cancel()
                with pytest.raises((asyncio.CancelledError, JobFailed)):
                    await call
            assert one.unanswered == 0

    run(main())


# Many


def test_many_jobs_leave_together(broker: Daemon) -> None:
    """One future a body, in their order; each fails by itself."""

    async def half(n: Any) -> Any:
        return n / 2

    async def main() -> Any:
        async with slave(broker, "half", half, slots=4), master(broker) as one:
            futures = one.submit_many("half", [2, "x", {1}, 4])
            return await asyncio.gather(*futures, return_exceptions=True)

    first, failed, wrong, last = run(main())
    assert (first, last) == (1, 2)
    assert (type(failed), type(wrong)) == (JobFailed, BodyError)


def test_cancelling_one_of_many_cancels_its_job(broker: Daemon) -> None:
    """The rest are done."""

    async def main() -> None:
        async with master(broker) as one:
            await one.when_connected()
            futures = one.submit_many("echo", range(3))
            futures[1].cancel()
            async with slave(broker, "echo", echo):
                assert [await futures[0], await futures[2]] == [0, 2]
            assert one.unanswered == 0

    run(main())


def test_a_patient_submit_waits_for_room(tmp_path: Path) -> None:
    """A busy broker refuses `submit`, and `submit_patiently` and `map` try again."""
    daemon = Daemon(tmp_path).start("--max-jobs=2", "--master-share=1")

    async def main() -> None:
        async with master(daemon) as one:
            await one.when_connected()
            two = one.submit_many("echo", range(2))
            with pytest.raises(RequestRefused, match="busy"):
                await one.submit("echo", 3)
            patient = asyncio.create_task(one.submit_patiently("echo", 4))
            given_up = asyncio.create_task(one.submit_patiently("echo", 5))
            await until(lambda: one.unanswered == 4)
            given_up.cancel()
            async with slave(daemon, "echo", echo):
                assert await asyncio.gather(*two, patient) == [0, 1, 4]
                assert sorted([answer.value async for answer in one.map("echo", range(20))]) == list(range(20))
            assert one.unanswered == 0

    try:
        run(main())
    finally:
        daemon.kill()


# Life


def test_a_stop_fails_the_unanswered(broker: Daemon) -> None:
    """With an error that says so; later calls fail at once."""

    async def main() -> None:
        one = master(broker)
        async with one:
            call = asyncio.create_task(one.submit("nobody", 1))
            await until(lambda: one.unanswered)
        with pytest.raises(TransportError, match="this master was stopped before the answer came"):
            await call
        for late in (one.submit("echo", 1), one.when_connected()):
            with pytest.raises(TransportError, match="this master was stopped"):
                await late

    run(main())


def test_a_master_is_used_where_it_was_started(broker: Daemon) -> None:
    """Before the start, and from another loop, it says so; after a stop another loop may have it."""
    one = master(broker)

    async def early() -> None:
        with pytest.raises(RuntimeError, match="this master was not started: use `async with`"):
            await one.submit("echo", 1)
        await one.stop()

    async def twice() -> None:
        async with slave(broker, "echo", echo), one:
            one.start()
            assert await one.submit("echo", 1) == 1
            with pytest.raises(RuntimeError, match="this master runs in another event loop"):
                await asyncio.to_thread(asyncio.run, one.submit("echo", 2))

    run(early())
    run(twice())
    run(twice())
