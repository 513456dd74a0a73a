"""`gloom work` as a user runs it: real workers, a real broker, real signals."""

from __future__ import annotations

import os
import queue
import re
import select
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from gloom.client.blocking import Master
from gloom.errors import JobFailed
from tests.support.daemon import Daemon

GLOOM = Path(sysconfig.get_path("scripts")) / "gloom"
#: The directory of worker_functions.py, and the workers' current directory.
SUPPORT = Path(__file__).parents[1] / "support"
PATIENCE_SECONDS = 20.0


class WorkProcess:
    """
    One `gloom work`.

    Attributes:
        lines: The log lines read so far.
    """

    def __init__(self, *arguments: str, path: Path | None = None) -> None:
        self.lines: list[str] = []
        self._coming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(path), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [GLOOM, "work", *arguments],
            cwd=SUPPORT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Its own process group, as in a shell: a signal to the group is Ctrl-C at the terminal.
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """Return the next log line that contains *text*."""
        while (line := self._coming.get(timeout=PATIENCE_SECONDS)) is not None:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended without {text!r}: {self.lines}")

    def ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        while not self._coming.empty():
            line = self._coming.get()
            self.lines += [] if line is None else [line]
        return status

    def clean_up(self) -> None:
        self.process.kill()
        self.ended()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)


class Fifos:
    """FIFOs on which jobs report that they run and wait to go on; their names are the jobs' body."""

    def __init__(self, directory: Path) -> None:
        self.body = {name: str(directory / name) for name in ("arrived", "go")}
        for path in self.body.values():
            os.mkfifo(path)
        # Not blocking, and never at an end.
        self._arrived, self._go = (os.open(path, os.O_RDWR) for path in self.body.values())

    def wait_for(self, count: int) -> list[int]:
        """Wait until *count* jobs run, and return the ids of their processes."""
        said = b""
        while said.count(b"\n") < count:
            readable, _, _ = select.select([self._arrived], [], [], PATIENCE_SECONDS)
            assert readable, f"of {count} jobs these run: {said!r}"
            said += os.read(self._arrived, 4096)
        return [int(line) for line in said.split()]

    def release(self, count: int) -> None:
        os.write(self._go, b"\n" * count)

    def close(self) -> None:
        os.close(self._arrived)
        os.close(self._go)


class Watched:
    """A process that is no child, but whose end can be awaited."""

    def __init__(self, pid: int) -> None:
        self._pid_fd = os.pidfd_open(pid)

    def ended(self) -> bool:
        """Return whether the process ends within a few seconds."""
        readable, _, _ = select.select([self._pid_fd], [], [], PATIENCE_SECONDS)
        os.close(self._pid_fd)
        return bool(readable)


StartWork = Callable[..., WorkProcess]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One broker for all tests that leave it running: each test has its own workers and master."""
    one = Daemon(tmp_path_factory.mktemp("broker")).start()
    yield one
    one.kill()


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Iterator[StartWork]:
    """Start workers, of `broker` by default, and wait until they have joined."""
    started: list[WorkProcess] = []

    def start(*arguments: str, joined: bool = True, of: Daemon | None = None, path: Path | None = None) -> WorkProcess:
        port = (of or request.getfixturevalue("broker")).slave_port
        one = WorkProcess(f"--slave=127.0.0.1:{port}", *arguments, path=path)
        started.append(one)
        if joined:
            one.wait_for(" joined ")
        return one

    yield start
    for one in started:
        one.clean_up()


@pytest.fixture
def master(broker: Daemon) -> Iterator[Master]:
    with Master(("127.0.0.1", broker.master_port), timeout=PATIENCE_SECONDS) as one:
        yield one


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[Fifos]:
    one = Fifos(tmp_path)
    yield one
    one.close()


def answer(master: Master, type: str, body: object) -> object:
    master.submit(type=type, body=body)
    return master.receive().body


def failure(master: Master, type: str, body: object) -> JobFailed:
    """Return the reason of a job's failure."""
    master.submit(type=type, body=body)
    with pytest.raises(JobFailed) as failed:
        master.receive()
    return failed.value


# Functions


def test_a_function_of_the_current_directory_answers_jobs_of_its_name(work: StartWork, master: Master) -> None:
    """`gloom work module:function` imports the module from the current directory, and serves the function's name."""
    worker = work("worker_functions:double")
    assert answer(master, "double", 21) == 42
    worker.ctrl_c()
    assert worker.ended() == 0
    joined, stopped = worker.lines  # no line for a successful job
    assert re.fullmatch(r"\d\d:\d\d:\d\d gloom work: joined double at 127.0.0.1:\d+ \(\d+ at once\)", joined)
    assert stopped.endswith(" gloom work: stopped")


def test_type_gives_a_function_another_name(work: StartWork, master: Master) -> None:
    """--type NAME serves that type instead."""
    work("worker_functions:Shop.price", "--type", "cost")
    assert answer(master, "cost", "pear") == 4


def test_what_a_job_prints_is_the_workers_output(work: StartWork, master: Master) -> None:
    """A function's print() goes at once to the worker's standard output."""
    worker = work("worker_functions:say")
    assert answer(master, "say", "hello") is None
    output = worker.process.stdout
    assert output is not None
    assert select.select([output], [], [], PATIENCE_SECONDS)[0]
    assert output.readline() == "hello\n"


def test_an_exception_fails_the_job_and_is_in_the_log(work: StartWork, master: Master) -> None:
    """The worker logs each failure's job, kind and reason, with one traceback a minute, and goes on."""
    worker = work("worker_functions:fail", "-c", "1")
    assert failure(master, "fail", "no such shelf").reason == "no such shelf"
    assert worker.wait_for("failed").endswith(" of fail failed: LookupError: no such shelf")
    assert failure(master, "fail", "nor this").reason == "nor this"
    worker.ctrl_c()
    assert worker.ended() == 0
    assert sum("Traceback" in line for line in worker.lines) == 1


def test_verbose_logs_the_traceback(work: StartWork, master: Master) -> None:
    """With --verbose the function's own part of the traceback is in the log, and nothing of the runner's."""
    worker = work("worker_functions:fail", "-v")
    failure(master, "fail", "no such shelf")
    worker.wait_for("Traceback (most recent call last)")
    worker.wait_for("LookupError")
    files = [line for line in worker.lines if line.startswith("  File ")]
    assert len(files) == 2
    assert all("worker_functions.py" in line for line in files)


def test_many_jobs_run_at_once(work: StartWork, master: Master, fifos: Fifos) -> None:
    """-c 3 runs three jobs at once, each in a process of its own."""
    work("worker_functions:arrive_and_wait", "-c", "3")
    for _ in range(3):
        master.submit(type="arrive_and_wait", body=fifos.body)
    pids = fifos.wait_for(3)
    fifos.release(3)
    assert len(set(pids)) == 3
    assert {master.receive().body for _ in range(3)} == set(pids)


def test_a_killed_process_costs_its_job_one_attempt(work: StartWork, master: Master, fifos: Fifos) -> None:
    """The death of a process costs only its own job an attempt: the job is retried, and the worker goes on."""
    worker = work("worker_functions:arrive_and_wait", "-c", "1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    (first,) = fifos.wait_for(1)
    os.kill(first, signal.SIGKILL)
    line = worker.wait_for("WorkerDied")
    assert "asks for another try" in line
    assert line.endswith("the worker process was killed by SIGKILL")
    (second,) = fifos.wait_for(1)
    fifos.release(1)
    assert second != first
    assert master.receive().body == second


def test_try_again_gives_the_job_to_a_worker_once_more(work: StartWork, master: Master, tmp_path: Path) -> None:
    """gloom.errors.TryAgain spends one attempt."""
    work("worker_functions:try_again")
    assert answer(master, "try_again", str(tmp_path / "mark")) == "at last"


def test_a_module_that_breaks_later_is_imported_again_and_again(
    work: StartWork, master: Master, tmp_path: Path
) -> None:
    """A worker whose module breaks later reports it, and serves again once the module imports."""
    module = tmp_path / "fragile.py"
    whole = "import os\ndef serve(body): return os._exit(7) if body == 'die' else body\n"
    module.write_text(whole)
    worker = work("fragile:serve", "-c", "1", path=tmp_path)
    module.write_text("1 / 0\n")
    master.submit(type="serve", body="die")
    line = worker.wait_for("cannot start a worker process")
    assert line.endswith("ZeroDivisionError: division by zero")
    module.write_text(whole.replace("'die'", "'never'"))
    assert master.receive().body == "die"


# Stopping


def test_ctrl_c_finishes_the_job_in_hand(work: StartWork, master: Master, fifos: Fifos) -> None:
    """On Ctrl-C, SIGINT to every process, the running job is finished and its answer arrives; the status is 0."""
    # One slot: a second, idle one might rightly take the job below before its leave arrives.
    worker = work("worker_functions:arrive_and_wait", "-c", "1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    (pid,) = fifos.wait_for(1)
    worker.ctrl_c()
    worker.wait_for("stopping; jobs in hand: 1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    fifos.release(1)
    assert master.receive().body == pid
    assert worker.ended() == 0
    # No job was taken after the signal.
    work("worker_functions:arrive_and_wait", "-c", "1")
    assert fifos.wait_for(1) != [pid]
    fifos.release(1)
    master.receive()


def test_sigterm_to_all_processes_finishes_the_job_in_hand(work: StartWork, master: Master, fifos: Fifos) -> None:
    """On a service manager's SIGTERM to all processes, children included, the running job is finished."""
    worker = work("worker_functions:arrive_and_wait", "-c", "1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    (pid,) = fifos.wait_for(1)
    os.kill(pid, signal.SIGTERM)
    worker.process.terminate()
    worker.wait_for("stopping")
    fifos.release(1)
    assert master.receive().body == pid
    assert worker.ended() == 0


def test_a_second_ctrl_c_ends_at_once(work: StartWork, master: Master, fifos: Fifos) -> None:
    """A second signal ends worker and job; the status names the signal, and another worker gets the job."""
    worker = work("worker_functions:arrive_and_wait", "-c", "1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    (pid,) = fifos.wait_for(1)
    child = Watched(pid)
    worker.ctrl_c()
    worker.wait_for("stopping")
    worker.ctrl_c()
    assert worker.ended() == 128 + signal.SIGINT
    assert child.ended()
    work("worker_functions:arrive_and_wait", "-c", "1")
    (second,) = fifos.wait_for(1)
    fifos.release(1)
    assert master.receive().body == second


def test_a_job_that_takes_too_long_is_ended(work: StartWork, master: Master, fifos: Fifos) -> None:
    """After --finish-seconds the running job is given back, and the exit status is 1."""
    worker = work("worker_functions:arrive_and_wait", "-c", "1", "--finish-seconds", "0.1")
    master.submit(type="arrive_and_wait", body=fifos.body)
    child = Watched(*fifos.wait_for(1))
    worker.ctrl_c()
    assert worker.ended() == 1
    assert "jobs that took too long and were ended: 1" in worker.lines[-1]
    assert child.ended()


def test_no_process_outlives_a_killed_worker(work: StartWork, master: Master, fifos: Fifos) -> None:
    """After a SIGKILL of the worker, its children end, busy or idle."""
    worker = work("worker_functions:arrive_and_wait", "-c", "2")
    for _ in range(2):
        master.submit(type="arrive_and_wait", body=fifos.body)
    children = [Watched(pid) for pid in fifos.wait_for(2)]
    fifos.release(1)
    master.receive()
    worker.process.kill()
    assert all(child.ended() for child in children)


def test_what_a_job_has_started_ends_with_the_worker(work: StartWork, master: Master, fifos: Fifos) -> None:
    """A program that a job leaves running is ended when the worker stops."""
    worker = work("worker_functions:leave_a_process", "-c", "1")
    answer(master, "leave_a_process", fifos.body)
    program = Watched(*fifos.wait_for(1))
    worker.ctrl_c()
    assert worker.ended() == 0
    assert program.ended()


# A restarted broker


def test_a_worker_joins_again_after_a_restart_of_the_broker(work: StartWork, daemon: Callable[..., Daemon]) -> None:
    """The worker logs once that its broker is missing or lost, waits, and joins again with its job type."""
    broker = daemon()
    broker.kill()
    worker = work("worker_functions:double", "-c", "2", of=broker, joined=False)
    worker.wait_for(f"no broker at 127.0.0.1:{broker.slave_port}: Connection was refused")
    broker.start_again()
    assert worker.wait_for("joined").endswith(f" at 127.0.0.1:{broker.slave_port} (2 at once)")
    broker.kill()
    worker.wait_for(f"the broker at 127.0.0.1:{broker.slave_port} is gone; trying again")
    broker.start_again()
    assert worker.wait_for("joined").endswith(" again (2 at once)")
    with Master(("127.0.0.1", broker.master_port), timeout=PATIENCE_SECONDS) as master:
        assert answer(master, "double", 21) == 42
    worker.ctrl_c()
    assert worker.ended() == 0
    assert len(worker.lines) == 5


# Programs


def test_a_program_gets_the_text_and_its_output_is_the_answer(work: StartWork, master: Master) -> None:
    """A string is the input of `gloom work -- program` as text; its output without the last newline is the answer."""
    work("--type", "count", "--", "wc", "-w")
    assert answer(master, "count", "how many words are these") == "5"


def test_a_program_on_json(work: StartWork, master: Master) -> None:
    """With --json the program reads the body as JSON, and prints its answer as JSON."""
    work("--type", "same", "--json", "--", "cat")
    body = {"big": 12345678901234567890123, "text": "a\n", "list": [None, True]}
    assert answer(master, "same", body) == body


def test_a_program_that_fails_fails_its_job(work: StartWork, master: Master) -> None:
    """An exit status other than 0 fails the job, with the last lines of standard error."""
    worker = work("--type", "check", "--", "sh", "-c", "echo the shelf is empty >&2; exit 3")
    assert failure(master, "check", "x").reason == "exit status 3: the shelf is empty"
    worker.wait_for("the shelf is empty")
    worker.wait_for("failed: ExitStatus: exit status 3: the shelf is empty")


def test_no_program_outlives_a_killed_worker(work: StartWork, master: Master, fifos: Fifos) -> None:
    """After a SIGKILL of the worker, the program of a running job ends too."""
    script = f"echo $$ > {fifos.body['arrived']}; read line < {fifos.body['go']}"
    worker = work("--type", "wait", "-c", "1", "--", "sh", "-c", script)
    master.submit(type="wait", body=None)
    program = Watched(*fifos.wait_for(1))
    worker.process.kill()
    assert program.ended()


# Unusable functions


def test_a_function_that_is_not_there_is_one_line(work: StartWork) -> None:
    """A wrong MODULE:FUNCTION ends the worker at once with one line and status 1."""
    worker = work("worker_functions:no_such_function", "-c", "2", joined=False)
    assert worker.ended() == 1
    assert worker.lines == [
        "gloom: cannot work with worker_functions:no_such_function: module 'worker_functions' has no 'no_such_function'"
    ]


def test_a_module_that_fails_shows_where(work: StartWork, tmp_path: Path) -> None:
    """An error in the user's module ends the worker with the user's part of the traceback."""
    module = tmp_path / "fragile.py"
    module.write_text("1 / 0\n")
    worker = work("fragile:serve", joined=False, path=tmp_path)
    assert worker.ended() == 1
    first, second, where, *_, last = worker.lines
    assert first == "gloom: cannot work with fragile:serve: "
    assert second == "Traceback (most recent call last):"
    assert where == f'  File "{module}", line 1, in <module>'
    assert last == "ZeroDivisionError: division by zero"
