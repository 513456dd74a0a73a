"""`gloom.client.aio.Slave` and a real broker in a process of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gloom.client.aio import Slave, current_job
from gloom.errors import BodyError, JobFailed, TryAgain
from tests.support.aio import OK, echo, master, run, scripted, slave, until
from tests.support.daemon import Daemon


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("broker")).start("--max-frame-bytes=65536")
    yield daemon
    daemon.kill()


def plain(body: Any) -> Any:
    return threading.current_thread() is not threading.main_thread()


async def coroutine(body: Any) -> Any:
    return threading.current_thread() is threading.main_thread()


class Called:
    async def __call__(self, body: Any) -> Any:
        return await coroutine(body)


@pytest.mark.parametrize(
    "function",
    [plain, coroutine, Called(), functools.partial(coroutine), functools.partial(Called()), lambda b: echo(True)],
)
def test_plain_functions_run_in_a_thread_and_coroutines_in_the_loop(broker: Daemon, function: Any) -> None:
    """Whatever kind of callable it is; a plain function may return a coroutine."""

    async def main() -> Any:
        async with slave(broker, "kind", function), master(broker) as one:
            return await one.submit("kind", 1)

    assert run(main()) is True


@pytest.mark.parametrize("is_async", [True, False])
def test_slots_bound_the_jobs_in_hand(broker: Daemon, is_async: bool) -> None:
    """So many at once, and no more; a plain function gets so many threads."""

    async def main() -> None:
        at_once, most = 0, 0
        lock, enough, all_there = threading.Lock(), threading.Barrier(3), asyncio.Event()

        def enter(change: int) -> None:
            nonlocal at_once, most
            with lock:
                at_once += change
                most = max(most, at_once)

        async def wait(body: Any) -> None:
            enter(1)
            if at_once == 3:
                all_there.set()
            await all_there.wait()
            enter(-1)

        def block(body: Any) -> None:
            enter(1)
            enough.wait(10)
            enter(-1)

        async with slave(broker, "slots", wait if is_async else block, slots=3), master(broker) as one:
            await asyncio.gather(*(one.submit("slots", n) for n in range(9)))
        assert most == 3

    run(main())


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ValueError("no"), "ValueError", "no"),
        (SystemExit(3), "SystemExit", "3"),
        (asyncio.CancelledError("own"), "CancelledError", "own"),
        (TimeoutError(), "TimeoutError", "TimeoutError()"),
        (BodyError("mine"), "BodyError", "mine"),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
def test_any_exception_fails_the_job_and_not_the_slave(
    broker: Daemon, error: BaseException, kind: str, reason: str, is_async: bool
) -> None:
    """Also one that ends a program, or one that looks like a cancellation."""

    async def wait(body: Any) -> Any:
        if body:
            raise error
        return "well"

    def block(body: Any) -> Any:
        if body:
            raise error
        return "well"

    async def main() -> None:
        async with slave(broker, "raise", wait if is_async else block), master(broker) as one:
            with pytest.raises(JobFailed) as raised:
                await one.submit("raise", True)
            assert (raised.value.kind, raised.value.reason) == (kind, reason)
            assert await one.submit("raise", False) == "well"

    run(main())


def test_a_stop_iteration_fails_the_job(broker: Daemon) -> None:
    """A future does not take one, and the job must not hang."""

    def stop(body: Any) -> Any:
        return next(iter(()))

    async def main() -> None:
        async with slave(broker, "stop", stop), master(broker) as one:
            await one.submit("stop", 1)

    with pytest.raises(JobFailed) as raised:
        run(main())
    assert raised.value.kind == "StopIteration"


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [(b"bytes", "BodyError", "the answer is not JSON"), ("x" * 66_000, "SizeError", "the answer makes a frame of")],
)
def test_an_answer_that_cannot_be_sent_fails_the_job(broker: Daemon, answer: Any, kind: str, reason: str) -> None:
    """The master is told why."""

    async def wrong(body: Any) -> Any:
        return answer

    async def main() -> None:
        async with slave(broker, "wrong", wrong), master(broker) as one:
            await one.submit("wrong", 1)

    with pytest.raises(JobFailed) as raised:
        run(main())
    assert raised.value.kind == kind
    assert raised.value.reason.startswith(reason)


def test_try_again_gives_the_job_to_a_slave_once_more(broker: Daemon) -> None:
    """Until the attempts are spent."""
    attempts = list[int]()

    async def third(body: Any) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise TryAgain("not yet")
        return "done"

    async def main() -> Any:
        async with slave(broker, "third", third), master(broker) as one:
            return await one.submit("third", 1)

    assert run(main()) == "done"


def test_progress_of_a_wrong_kind_is_said_to_the_function(broker: Daemon) -> None:
    """In its own thread, where it can be mended."""

    def tell(body: Any) -> Any:
        with pytest.raises(BodyError, match="not JSON"):
            current_job().progress({1})
        with pytest.raises(BodyError, match="the progress makes a frame of"):
            current_job().progress("x" * 66_000)
        return current_job().type

    async def main() -> Any:
        async with slave(broker, ["tell", "say"], tell), master(broker) as one:
            return await one.submit("tell", 1)

    assert run(main()) == "tell"


def test_there_is_no_current_job_outside_of_one() -> None:
    """The error says so."""
    with pytest.raises(LookupError, match="there is no current job"):
        current_job()


def test_a_function_in_a_thread_keeps_its_slot_to_its_end(broker: Daemon) -> None:
    """It cannot be cancelled: the next job comes when it has returned."""

    async def main() -> None:
        began, go_on = threading.Event(), threading.Event()
        over = list[Any]()

        def block(body: Any) -> Any:
            began.set()
            if body == "long":
                go_on.wait(10)
            over.append(body)
            return body

        async with slave(broker, "block", block), master(broker) as one:
            call = asyncio.create_task(one.submit("block", "long"))
            await until(began.is_set)
            call.cancel()
            short = asyncio.create_task(one.submit("block", "short"))
            await asyncio.sleep(0.05)
            assert over == []
            go_on.set()
            assert await short == "short"
        assert over == ["long", "short"]

    run(main())


# Stopping


@pytest.mark.parametrize("is_async", [True, False])
def test_a_stop_finishes_the_jobs_in_hand(broker: Daemon, is_async: bool) -> None:
    """They are answered, the slave takes no more, and no attempt is spent."""

    async def main() -> None:
        began, go_on = threading.Event(), threading.Event()

        async def wait(body: Any) -> Any:
            began.set()
            await until(go_on.is_set)
            return body

        def block(body: Any) -> Any:
            began.set()
            go_on.wait(10)
            return body

        one = slave(broker, "finish", wait if is_async else block)
        async with master(broker, receipts=True) as boss:
            one.start()
            first = asyncio.create_task(boss.submit("finish", 1))
            await until(began.is_set)
            stopping = asyncio.create_task(one.stop())
            second_stop = asyncio.create_task(one.stop())
            attempts = list[Any]()
            second = asyncio.create_task(boss.submit("finish", 2, on_receipt=attempts.append))
            await asyncio.sleep(0.05)
            assert not stopping.done()
            go_on.set()
            assert await first == 1
            await asyncio.gather(stopping, second_stop)
            async with slave(broker, "finish", echo):
                assert await second == 2
            assert attempts[0]["attempts"] == 1

    run(main())


def test_after_its_time_a_stop_leaves_the_jobs_to_others(broker: Daemon) -> None:
    """Their coroutines are cancelled."""

    async def main() -> None:
        cancelled, began = list[Any](), asyncio.Event()

        async def wait(body: Any) -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(body)

        async with master(broker) as boss:
            async with slave(broker, "long", wait, finish_seconds=0.05):
                call = asyncio.create_task(boss.submit("long", 1))
                await began.wait()
            assert cancelled == [1]
            async with slave(broker, "long", echo):
                assert await call == 1

    run(main())


def test_a_stop_that_is_cancelled_ends_at_once(broker: Daemon) -> None:
    """The broker gives the job to another slave."""

    async def main() -> None:
        began = asyncio.Event()

        async def wait(body: Any) -> None:
            began.set()
            await asyncio.Event().wait()

        one = slave(broker, "cut", wait)
        one.start()
        async with master(broker) as boss:
            call = asyncio.create_task(boss.submit("cut", 1))
            await began.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.stop()
            async with slave(broker, "cut", echo):
                assert await call == 1

    run(main())


def test_serving_for_ever_ends_with_its_task(broker: Daemon) -> None:
    """Cancelled, it finishes its jobs and disconnects."""

    async def main() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def wait(body: Any) -> Any:
            began.set()
            await go_on.wait()
            return body

        one = slave(broker, "serve", wait)
        serving = asyncio.create_task(one.serve_forever())
        async with master(broker) as boss:
            call = asyncio.create_task(boss.submit("serve", 1))
            await began.wait()
            serving.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert await call == 1
        async with one:
            assert one.state.name == "RUNNING"

    run(main())


def test_a_job_of_a_loop_that_ends_goes_to_another_slave(broker: Daemon) -> None:
    """A program that ends without a stop fails no job."""
    began = threading.Event()

    async def wait(body: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async def ends() -> None:
        slave(broker, "gone", wait).start()
        await until(began.is_set)

    async def main() -> None:
        async with master(broker) as boss:
            call = asyncio.create_task(boss.submit("gone", 1))
            await asyncio.to_thread(asyncio.run, ends())
            async with slave(broker, "gone", echo):
                assert await call == 1

    run(main())


def test_a_task_that_is_cancelled_from_outside_gives_its_job_back(broker: Daemon) -> None:
    """As a program does that ends its tasks: another attempt is made, and the job does not fail."""

    async def main() -> None:
        attempts = list[int]()

        async def cut(body: Any) -> Any:
            attempts.append(1)
            if len(attempts) == 1:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(10)
            return body

        async with slave(broker, "outside", cut), master(broker) as one:
            assert await one.submit("outside", 1) == 1
        assert len(attempts) == 2

    run(main())


# What a broker may do


def test_joins_again_and_leaves_in_words() -> None:
    """The join has the types and slots, a stop says leave, and quiet changes nothing."""

    async def main() -> None:
        async with scripted() as broker:
            one = Slave(broker.address, ["a", "b"], echo, slots=2, name="me", token="t", heartbeat_seconds=5)
            one.start()
            far = await broker.connection()
            assert await far.welcomes() == {
                "action": "hello",
                "version": 1,
                "name": "me",
                "heartbeat": 5.0,
                "accept": ["cancel", "quiet"],
                "token": "t",
            }
            join = {"action": "join", "types": ["a", "b"], "slots": 2}
            assert await far.hears() == join
            far.says(OK)
            far.drop()
            far = await broker.welcomed()
            assert await far.hears() == join
            far.says(OK, {"action": "quiet"}, {"action": "job", "id": 1, "type": "a", "body": 5})
            assert await far.hears() == {"action": "respond", "id": 1, "body": 5}
            far.says(OK)
            stopping = asyncio.create_task(one.stop())
            assert await far.hears() == {"action": "leave"}
            far.says({"action": "job", "id": 2, "type": "b", "body": 6}, OK)  # it crossed the leave
            assert await far.hears() == {"action": "respond", "id": 2, "body": 6}
            await stopping

    run(main())


def test_a_broker_that_gives_too_many_jobs_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that a broker sends grows without bound."""

    async def forever(body: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with scripted() as broker, Slave(broker.address, "a", forever, slots=2, finish_seconds=0):
            far = await broker.welcomed()
            await far.hears()
            far.says(OK, *({"action": "job", "id": n, "type": "a", "body": n} for n in range(3)))
            await far.ends()
            await broker.welcomed()

    run(main())
    assert "it gave more than 2 jobs at once" in caplog.text


def test_a_job_that_cannot_be_read_is_failed_and_the_next_is_done() -> None:
    """One job fails, not the connection."""

    async def main() -> None:
        async with scripted() as broker, Slave(broker.address, "a", echo, finish_seconds=0):
            far = await broker.welcomed()
            await far.hears()
            far.says(OK, b'{"action":"job","id":1,"type":5,"body":1}')
            failed = await far.hears()
            assert (failed["action"], failed["id"], failed["kind"]) == ("fail", 1, "BodyError")
            far.says(OK, {"action": "job", "id": 2, "type": "a", "body": 6})
            assert await far.hears() == {"action": "respond", "id": 2, "body": 6}

    run(main())


def test_a_cancel_before_the_function_began_lets_go_of_the_job() -> None:
    """Job and cancel in one piece: the slot must be free all the same."""

    async def main() -> None:
        async with scripted() as broker, Slave(broker.address, "a", echo, finish_seconds=0):
            far = await broker.welcomed()
            await far.hears()
            far.says(OK, {"action": "job", "id": 1, "type": "a", "body": 1}, {"action": "cancel", "id": 1})
            failed = await far.hears()
            assert (failed["action"], failed["id"], failed["kind"]) == ("fail", 1, "Cancelled")
            far.says(OK, {"action": "job", "id": 2, "type": "a", "body": 6})
            assert await far.hears() == {"action": "respond", "id": 2, "body": 6}

    run(main())


def test_a_refused_join_is_logged(broker: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """The address was the master port, for example."""

    async def main() -> None:
        async with Slave(f"127.0.0.1:{broker.master_port}", "a", echo):
            await until(lambda: "the broker refused: invalid_action" in caplog.text)

    run(main())


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"type": []}, ValueError, "type must be one or a list of 1 to 1000, got 0"),
        ({"function": 5}, TypeError, "function must be a function, got 5"),
        ({"slots": 0}, ValueError, "slots must be 1 to 1000, got 0"),
        ({"finish_seconds": -1}, ValueError, "finish_seconds must be 0 to 1e9 seconds, got -1"),
    ],
)
def test_a_slave_is_not_made_of_wrong_arguments(options: dict[str, Any], kind: type[Exception], told: str) -> None:
    """The constructor says so."""
    given: dict[str, Any] = {"address": "127.0.0.1:9999", "type": "a", "function": echo}
    with pytest.raises(kind, match=told):
        Slave(**(given | options))
