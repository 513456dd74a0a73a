"""Child processes, as their parent sees them: real ones."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import Fail
from gloom.worker.childprocess import Child, ChildError, Unusable, WorkerDied, spawn, start_child
from gloom.worker.pipe import Job

# Allows for starting interpreters on a busy machine.
pytestmark = [pytest.mark.deferred_timeout(20), pytest.mark.usefixtures("in_the_tests_directory")]


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[dict[str, str]]:
    paths = {name: str(tmp_path / name) for name in ("arrived", "go")}
    for path in paths.values():
        os.mkfifo(path)
    # Open at both ends, so that neither side blocks on the other.
    held = [os.open(path, os.O_RDWR) for path in paths.values()]
    yield paths
    for one in held:
        os.close(one)


@asynccontextmanager
async def ready_child(reactor: Any, *work: str) -> AsyncIterator[Child]:
    child = start_child(reactor, work)
    poll = SocketPoll(reactor, FlushTurn(reactor), FlushTurn(reactor))
    try:
        await child.ready
        child.read_by(poll)
        yield child
    finally:
        child.kill()
        if not child.ended.called:
            await child.ended
        poll.stop()


def function(name: str) -> list[str]:
    return ["function", f"worker_functions:{name}"]


def job(body: Any, max_answer_bytes: int = 1 << 25) -> Job:
    return Job("one", "type", max_answer_bytes, encode_body(body))


def run(child: Child, body: Any, max_answer_bytes: int = 1 << 25, **options: Any) -> Deferred[Any]:
    """Run a job; the Deferred fires with its answer, or fails with its failure."""
    ended: Deferred[Any] = Deferred()
    child.run(job(body, max_answer_bytes), lambda end: _fire(ended, end), **options)
    return ended


def _fire(ended: Deferred[Any], end: Raw | ChildError) -> None:
    # In a later turn, so that the test continues outside of the child's reading.
    from twisted.internet import reactor

    reactor.callLater(0, ended.errback if isinstance(end, ChildError) else ended.callback, end)


def _nobody_waits(end: Raw | ChildError) -> None:
    pytest.fail(f"an abandoned job has told of its end: {end!r}")


async def answer(child: Child, body: Any) -> Any:
    return msgspec.json.decode(await run(child, body))


async def failure(child: Child, body: Any) -> Fail:
    with pytest.raises(ChildError) as failed:
        await run(child, body)
    return failed.value.fail


async def test_a_child_answers_one_job_after_the_other(reactor: Any) -> None:
    """One process serves many jobs; it is busy while one runs."""
    async with ready_child(reactor, *function("double")) as child:
        assert not child.busy
        running = run(child, 1)
        assert child.busy
        assert bytes(await running) == b"2"
        assert not child.busy
        assert await answer(child, "a") == "aa"


async def test_a_plain_function_needs_no_twisted(reactor: Any) -> None:
    """A child imports Twisted only where its function's code does: it starts fast, and stays small."""
    async with ready_child(reactor, *function("has_twisted")) as child:
        assert await answer(child, None) is False


async def test_bodies_and_answers_may_be_larger_than_a_pipe(reactor: Any) -> None:
    """A body of megabytes goes there and back."""
    body = "x" * (5 << 20)
    async with ready_child(reactor, *function("echo")) as child:
        assert await answer(child, body) == body


async def test_a_function_tells_how_it_gets_on(reactor: Any) -> None:
    """Progress arrives in order, before the answer; progress over the broker's limit raises in the function."""
    heard: list[bytes] = []
    async with ready_child(reactor, *function("tell")) as child:
        answered = run(child, [1, {"a": None}], 1 << 20, on_progress=lambda body: heard.append(bytes(body)))
        assert decode_body(await answered).startswith("the progress has 2000002 bytes, the broker takes ")
        assert heard == [b"1", b'{"a":null}']
        assert await answer(child, [3]) == "no error"  # and no parent reads


async def test_a_thread_that_a_job_left_behind_tells_nobody(reactor: Any) -> None:
    """Progress that a left-over thread reports between jobs is dropped, and answers are intact."""
    async with ready_child(reactor, *function("leave_a_talker")) as child:
        for _ in range(3):
            assert await answer(child, None) is None


async def test_a_failed_job_leaves_the_child_as_it_was(reactor: Any) -> None:
    """An exception fails its job; the next job runs in the same process."""
    async with ready_child(reactor, *function("fail")) as child:
        assert (await failure(child, "one")).reason == "one"
        assert (await failure(child, "two")).kind == "LookupError"


@pytest.mark.parametrize(
    ("name", "body", "how"),
    [
        ("die", 3, "the worker process ended with exit status 3"),
        ("crash", None, "the worker process was killed by SIGSEGV"),
    ],
)
async def test_a_dead_child_fails_its_job_with_another_try(reactor: Any, name: str, body: Any, how: str) -> None:
    """A process that ends during a job fails that job as WorkerDied, to be retried."""
    async with ready_child(reactor, *function(name)) as child:
        assert await failure(child, body) == Fail(how, kind="WorkerDied", retry=True)
        assert await failure(child, body) == Fail(how, kind="WorkerDied", retry=True)


async def test_a_job_for_a_child_that_has_just_died_is_tried_again(reactor: Any) -> None:
    """A job given to a process whose death is not yet known fails as one in progress does."""
    async with ready_child(reactor, *function("double")) as child:
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert await failure(child, 1) == Fail(
            "the worker process was killed by SIGKILL", kind="WorkerDied", retry=True
        )


async def test_an_unnamed_signal_is_told_by_its_number(reactor: Any) -> None:
    """A real-time signal has no name, so its number is reported."""
    async with ready_child(reactor, *function("pid")) as child:
        os.kill(child.pid, 40)
        assert await child.ended == "the worker process was killed by signal 40"


async def test_its_owner_hears_of_the_end_before_the_job_does(reactor: Any) -> None:
    """The owner learns of the end before the job does, so that it can first stop taking jobs."""
    heard: list[str] = []
    async with ready_child(reactor, *function("die")) as child:
        child.ended.addCallback(lambda _: heard.append("ended"))
        with pytest.raises(WorkerDied):
            await run(child, 0)
        heard.append("job")
    assert heard == ["ended", "job"]


async def test_a_function_that_is_not_there_makes_the_child_unusable(reactor: Any) -> None:
    """A child that cannot load its function reports the reason, and ends."""
    child = start_child(reactor, function("no_such_function"))
    with pytest.raises(Unusable) as unusable:
        await child.ready
    assert unusable.value.fail.kind == "CannotLoad"
    assert await child.ended == "the worker process ended with exit status 1"


async def test_a_module_with_a_reactor_of_its_own_is_refused(reactor: Any, tmp_path: Path) -> None:
    """A child runs Twisted's reactor on asyncio; a module that installs another gets an error at once."""
    (tmp_path / "own.py").write_text("from twisted.internet import pollreactor\npollreactor.install()\nserve = print\n")
    os.chdir(tmp_path)
    child = start_child(reactor, ["function", "own:serve"])
    with pytest.raises(Unusable, match="installs a reactor of its own, PollReactor; here it is asyncio's"):
        await child.ready
    await child.ended


async def test_a_child_that_dies_early_is_never_ready(reactor: Any) -> None:
    """A module that ends the process during its import is reported, and not waited for."""
    child = start_child(reactor, ["function"])  # it has no target, and ends with an IndexError
    with pytest.raises(ChildError):
        await child.ready
    await child.ended


async def test_an_abandoned_job_is_left_a_moment_to_end(reactor: Any, fifos: dict[str, str]) -> None:
    """An abandoned job may end by itself within a moment; then the same process is free again."""
    async with ready_child(reactor, *function("arrive_and_wait")) as child:
        child.run(job(fifos), _nobody_waits)
        free = child.when_free()
        child.abandon()
        assert child.busy
        assert not free.called
        Path(fifos["go"]).write_text("\n")
        await free
        assert not child.busy
        Path(fifos["go"]).write_text("\n")
        assert await answer(child, fifos) == child.pid


async def test_an_abandoned_job_that_does_not_end_is_killed(reactor: Any, fifos: dict[str, str]) -> None:
    """The process of an abandoned job is killed after a second."""
    clock = Clock()
    child = Child(clock)
    spawn(reactor, child, function("arrive_and_wait"))
    await child.ready
    child.run(job(fifos), _nobody_waits)
    child.abandon()
    clock.advance(0.9)
    os.kill(child.pid, 0)
    clock.advance(0.1)
    assert await child.ended == "the worker process was killed by SIGKILL"
    assert not clock.getDelayedCalls()


async def test_a_child_whose_answer_cannot_be_taken_is_killed(reactor: Any, logged_errors: Any) -> None:
    """An exception in gloom's own code is logged and ends one process; the others are still read."""
    async with ready_child(reactor, *function("echo")) as child:
        child.run(job(1), lambda _: 1 / 0)
        assert await child.ended == "the worker process was killed by SIGKILL"
    assert len(logged_errors(ZeroDivisionError)) == 1


async def test_an_idle_child_ends_by_itself_when_it_is_asked(reactor: Any) -> None:
    """An idle process that is asked to stop ends normally, with status 0."""
    async with ready_child(reactor, *function("double")) as child:
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"
        child.end()
        child.kill()


async def test_a_child_that_does_not_end_is_killed(reactor: Any) -> None:
    """A process that threads of a function keep alive is killed after five seconds."""
    clock = Clock()
    child = Child(clock)
    spawn(reactor, child, function("never_ends"))
    await child.ready
    await run(child, None)
    child.end()
    clock.advance(5)
    assert await child.ended == "the worker process was killed by SIGKILL"


async def test_what_a_job_has_started_ends_with_the_child(reactor: Any, fifos: dict[str, str]) -> None:
    """When a child ends, programs that its jobs left in its process group are killed."""
    async with ready_child(reactor, *function("leave_a_process")) as child:
        await run(child, fifos)
        with Path(fifos["arrived"]).open() as arrived:
            program = os.pidfd_open(int(arrived.readline()))
        child.end()
        await child.ended
    assert _has_ended(program)


async def test_a_daemon_that_a_job_has_started_keeps_nobody(reactor: Any, fifos: dict[str, str]) -> None:
    """A program that has left the child's session lives on, and does not delay the child's end."""
    async with ready_child(reactor, *function("leave_a_daemon")) as child:
        await run(child, fifos)
        with Path(fifos["arrived"]).open() as arrived:
            daemon = os.pidfd_open(int(arrived.readline()))
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    assert _has_ended(daemon)


def _has_ended(pid_fd: int) -> bool:
    readable, _, _ = select.select([pid_fd], [], [], 5)
    os.close(pid_fd)
    return bool(readable)


async def test_stop_signals_are_the_parents_business(reactor: Any) -> None:
    """SIGINT, SIGTERM and SIGHUP do not interrupt a job; programs that the job starts get them as usual."""
    async with ready_child(reactor, *function("signals_are_left_alone")) as child:
        assert await answer(child, None) == "SIGTERM"


async def test_a_signal_while_it_starts_does_no_harm(reactor: Any) -> None:
    """Ctrl-C just after a worker's start does not break children that are still in the terminal's group."""
    child = start_child(reactor, function("double"))
    os.kill(child.pid, signal.SIGINT)
    await child.ready
    assert await answer(child, 1) == 2
    child.end()
    await child.ended


@pytest.mark.parametrize(
    ("name", "body", "result"),
    [
        ("returns_deferred", 1, 2),
        ("on_both", 1, 4),
        ("runs_a_program", "hello", "hello\n"),
        ("on_asyncio", 1, 2),
        ("signals_with_a_reactor", 1, 2),
    ],
)
async def test_functions_may_use_asyncio_and_twisted(reactor: Any, name: str, body: Any, result: Any) -> None:
    """With timers, threads and processes of Twisted's reactor, coroutines and Deferreds answer, job after job."""
    async with ready_child(reactor, *function(name)) as child:
        assert await answer(child, body) == result
        assert await answer(child, body) == result
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"


@pytest.mark.parametrize(("work", "body", "result"), [("text", "banana", "bbnbnb"), ("json", ["banana"], ["bbnbnb"])])
async def test_a_program_answers_in_a_child(reactor: Any, work: str, body: Any, result: Any) -> None:
    """The kinds of work that are programs run in children too, and end like them."""
    async with ready_child(reactor, work, "tr", "a", "b") as child:
        assert await answer(child, body) == result
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"


async def test_standard_input_is_empty(reactor: Any) -> None:
    """A job reads an empty standard input, not the worker's terminal."""
    async with ready_child(reactor, *function("sys.stdin.read")) as child:
        assert await answer(child, 1) == ""
