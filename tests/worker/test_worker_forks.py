"""Jobs that fork, and jobs that harm their process: real child processes, as their parent sees them."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from twisted.internet.defer import Deferred

from gloom.transport.polling import SocketPoll
from gloom.transport.sending import FlushTurn
from gloom.wire.bodies import encode_body
from gloom.wire.messages import Fail
from gloom.worker.childprocess import Child, ChildError, start_child
from gloom.worker.pipe import Job

# Allows for starting interpreters on a busy machine.
pytestmark = [pytest.mark.deferred_timeout(20), pytest.mark.usefixtures("in_the_tests_directory")]


class Fifos:
    """
    Where a process says that it is there, and waits for leave to go.

    Attributes:
        body: The body of a job that uses them.
    """

    def __init__(self, directory: Path) -> None:
        self.body = {name: str(directory / name) for name in ("arrived", "go")}
        for path in self.body.values():
            os.mkfifo(path)
        self._arrived, self._go = (os.open(path, os.O_RDWR) for path in self.body.values())
        self._watched: list[int] = []

    def arrived(self) -> int:
        """Wait until a process has arrived; return a descriptor that signals its end."""
        self._watched.append(os.pidfd_open(int(os.read(self._arrived, 100))))
        return self._watched[-1]

    def close(self) -> None:
        for process in self._watched:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
        os.close(self._arrived)
        os.close(self._go)


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[Fifos]:
    one = Fifos(tmp_path)
    yield one
    one.close()


def lives(process: int) -> bool:
    return not select.select([process], [], [], 0)[0]


@asynccontextmanager
async def ready_child(reactor: Any, target: str) -> AsyncIterator[Child]:
    child = start_child(reactor, ["function", f"worker_functions:{target}"])
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


def run(reactor: Any, child: Child, body: Any) -> Deferred[Any]:
    """Run a job; the Deferred fires with its answer, or fails with its failure."""
    ended: Deferred[Any] = Deferred()

    def on_end(end: Raw | ChildError) -> None:
        # In a later turn, so that the test continues outside of the child's reading.
        reactor.callLater(0, ended.errback if isinstance(end, ChildError) else ended.callback, end)

    child.run(Job("one", "type", 1 << 25, encode_body(body)), on_end)
    return ended


async def answer(reactor: Any, child: Child, body: Any) -> Any:
    return msgspec.json.decode(await run(reactor, child, body))


async def failure(reactor: Any, child: Child, body: Any) -> Fail:
    with pytest.raises(ChildError) as failed:
        await run(reactor, child, body)
    return failed.value.fail


WAYS = {
    "return": 0,
    "exit": 0,
    "exit 0": 0,
    "exit 3": 3,
    "exit text": 1,
    "_exit 4": 4,
    "exec": 5,
    "raise": 1,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("function", ["fork", "fork_in_a_coroutine", "fork_without_python"])
async def test_a_forked_process_ends_as_its_code_says(reactor: Any, function: str, way: str) -> None:
    """A forked process answers no job, and ends with its own code's exit status."""
    async with ready_child(reactor, function) as child:
        assert await answer(reactor, child, way) == WAYS[way]
        assert await answer(reactor, child, "exit 3") == 3
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"


async def test_a_fork_beside_twisteds_reactor_ends_too(reactor: Any) -> None:
    """In a forked process the loop of the worker process does not go on."""
    async with ready_child(reactor, "fork_after_twisted") as child:
        for way in ("return", "exit 3", "raise"):
            assert await answer(reactor, child, way) == WAYS[way]


async def test_a_fork_in_a_thread_ends_with_it(reactor: Any) -> None:
    """A new process forked in a thread has only that thread, and ends with it."""
    async with ready_child(reactor, "fork_in_a_thread") as child:
        assert await answer(reactor, child, "return") == 0
        assert await answer(reactor, child, "_exit 4") == 4


async def test_a_module_that_forks_when_it_is_imported(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process forked during the import ends after it; the worker's process answers jobs."""
    (tmp_path / "forking.py").write_text(
        "import os\npid = os.fork()\ndef wait(_body): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    )
    monkeypatch.chdir(tmp_path)
    child = start_child(reactor, ["function", "forking:wait"])
    await child.ready
    assert await answer(reactor, child, None) == 0
    child.end()
    await child.ended


async def test_multiprocessing_works_in_a_job(reactor: Any) -> None:
    """The forks of multiprocessing answer their pool, and end when the pool closes."""
    async with ready_child(reactor, "processes_of_multiprocessing") as child:
        assert await answer(reactor, child, [1, 2]) == [2, 4]
        assert await answer(reactor, child, [3]) == [6]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_forked_process_heeds_signals(reactor: Any, number: signal.Signals) -> None:
    """A signal ends a forked process; the worker's own process ignores it, and leaves it to its parent."""
    async with ready_child(reactor, "fork_and_signal") as child:
        status = await answer(reactor, child, number)
        assert status == (1 if number == signal.SIGINT else -number)


async def test_functions_at_exit_are_called_once(reactor: Any, tmp_path: Path) -> None:
    """A forked process calls its own exit functions, and not those of the worker process."""
    path = tmp_path / "notes"
    async with ready_child(reactor, "fork_at_exit") as child:
        assert await answer(reactor, child, str(path)) == "fork's;"
        child.end()
        await child.ended
    assert path.read_text() == "fork's;parent's;"


async def test_a_daemon_holds_no_job(reactor: Any, fifos: Fifos) -> None:
    """A forked daemon lives on; its job is answered, and the worker process ends on request."""
    async with ready_child(reactor, "fork_twice") as child:
        assert await answer(reactor, child, fifos.body) is None
        daemon = fifos.arrived()
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"
        assert lives(daemon)


async def test_the_end_of_the_process_is_the_end_of_the_attempt(reactor: Any, fifos: Fifos) -> None:
    """If the process dies, its job fails, even while a daemon keeps the pipes open."""
    async with ready_child(reactor, "fork_and_die") as child:
        assert await failure(reactor, child, fifos.body) == Fail(
            "the worker process ended with exit status 7", kind="WorkerDied", retry=True
        )
        assert lives(fifos.arrived())


async def test_a_child_has_no_descriptors_of_others(reactor: Any) -> None:
    """A child starts with its standard streams and two pipes, and no other descriptor."""
    async with ready_child(reactor, "descriptors") as other, ready_child(reactor, "descriptors") as child:
        assert other.pid != child.pid
        found = await answer(reactor, child, None)
        assert len([one for one in found if int(one.split()[0]) > 2]) == 2
        assert len([one for one in found if "pipe:" in one and int(one.split()[0]) > 2]) == 2


# Jobs that harm their process


async def test_a_job_may_close_low_descriptors(reactor: Any) -> None:
    """A job may close descriptors 0 to 9: the answer pipe is not among them."""
    async with ready_child(reactor, "close_descriptors") as child:
        assert await answer(reactor, child, 10) == "closed"
        assert await answer(reactor, child, 10) == "closed"


async def test_a_job_that_closes_all_descriptors_fails_alone(reactor: Any) -> None:
    """A job that closes all descriptors cannot report anything: its process ends, and its attempt with it."""
    async with ready_child(reactor, "close_descriptors") as child:
        failed = await failure(reactor, child, 1000)
        assert (failed.kind, failed.retry) == ("WorkerDied", True)


GARBAGE = {
    "text": "hello, how are you?\n",
    "nothing": "\0\0\0\0",
    "a number cut off": "\0\0\0\x03abc",
    "another kind": "\0\0\0\x09?\0\0\0\0\0\0\0\x01",
    "ready again": "\0\0\0\x09r\0\0\0\0\0\0\0\x01",
    "a failure without words": "\0\0\0\x0bf\0\0\0\0\0\0\0\x01{}",
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_a_job_that_writes_to_its_parents_pipe_fails_alone(reactor: Any, what: str) -> None:
    """Bytes that the worker's code cannot have written end the process, and the failure says so."""
    async with ready_child(reactor, "write_to_pipes") as child:
        failed = await failure(reactor, child, GARBAGE[what])
        assert (failed.kind, failed.retry) == ("WorkerDied", True)
        assert failed.reason.startswith("the worker process wrote a ")
        assert failed.reason.endswith(" into its pipe to its parent, and was killed")


async def test_the_outcome_of_another_job_is_ignored(reactor: Any) -> None:
    """An outcome with another job's number, or without a job, is ignored."""
    false_answer = "\0\0\0\x0aa\0\0\0\0\0\0\0\x091"
    async with ready_child(reactor, "write_to_pipes") as child:
        assert await answer(reactor, child, false_answer) is None
        assert await answer(reactor, child, false_answer * 3) is None


@pytest.mark.parametrize(
    "name", ["KeyboardInterrupt", "GeneratorExit", "SystemExit", "RecursionError", "MemoryError", "StopIteration"]
)
async def test_any_exception_fails_its_job_only(reactor: Any, name: str) -> None:
    """Exceptions outside of Exception fail the job too, and the process goes on."""
    async with ready_child(reactor, "throw") as child:
        process_id = child.pid
        for _ in range(2):
            assert (await failure(reactor, child, name)).kind == name
        assert child.pid == process_id
        assert not child.ended.called


async def test_an_exception_that_cannot_be_told_fails_its_job_only(reactor: Any) -> None:
    """An exception whose text and notes raise fails its job, even where those are no Exception."""
    async with ready_child(reactor, "throw") as child:
        assert (await failure(reactor, child, "WithoutAnything")).reason.endswith(": KeyboardInterrupt")
        assert (await failure(reactor, child, "KeyboardInterrupt")).reason == "KeyboardInterrupt()"


async def test_endless_recursion_fails_its_job_only(reactor: Any) -> None:
    """A function with endless recursion fails its job only."""
    async with ready_child(reactor, "recurse") as child:
        assert (await failure(reactor, child, None)).kind == "RecursionError"
        assert (await failure(reactor, child, None)).kind == "RecursionError"


async def test_an_answer_too_deep_fails_its_job_only(reactor: Any) -> None:
    """An answer with too many levels fails its job, and the next job is answered."""
    async with ready_child(reactor, "nested") as child:
        for depth in (2000, 100_000):
            assert (await failure(reactor, child, depth)).kind == "BodyError"
        assert await answer(reactor, child, 3) == [[[1]]]


@pytest.mark.parametrize("text", ["", "[", "1 2", "[" * 3000 + "]" * 3000])
async def test_ready_made_json_is_looked_at(reactor: Any, text: str) -> None:
    """A job that returns invalid ready-made JSON fails; the broker would drop the worker for it, with all its jobs."""
    async with ready_child(reactor, "raw") as child:
        failed = await failure(reactor, child, text)
        assert failed.kind == "BodyError"
        assert failed.reason.startswith("the answer is ")
        assert await answer(reactor, child, " [1.0]") == [1.0]


async def test_a_job_may_move_and_take_signals(reactor: Any) -> None:
    """A job may change the directory and the signal handlers; the next job runs there, and the process still ends."""
    async with ready_child(reactor, "move_away") as child:
        assert await answer(reactor, child, None) is None
        assert await answer(reactor, child, None) is None
        child.end()
        assert await child.ended == "the worker process ended with exit status 0"


async def test_a_stopped_process_can_be_ended(reactor: Any) -> None:
    """A process stopped by SIGSTOP can be ended: the parent does not wait for it."""
    async with ready_child(reactor, "double") as child:
        os.kill(child.pid, signal.SIGSTOP)
        running = run(reactor, child, 1)
        child.kill()
        with pytest.raises(ChildError, match="was killed by SIGKILL"):
            await running
