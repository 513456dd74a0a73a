"""Jobs that do `gloom work` harm, and places where it cannot work: real workers, a real broker, real forks."""

# ruff: noqa: F811 (pytest's fixtures are imported, and then named as parameters)

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from gloom.client.blocking import Master
from gloom.errors import JobFailed
from tests.integration.test_work import (  # noqa: F401
    PATIENCE_SECONDS,
    Fifos,
    StartWork,
    Watched,
    WorkProcess,
    answer,
    broker,
    failure,
    fifos,
    master,
    work,
)
from tests.support.daemon import Daemon

# Forks


def test_a_job_that_forks_has_its_own_answer_and_no_other_job_has_the_forks(work: StartWork, master: Master) -> None:
    """A function that forks and returns in both processes answers each job once, with the worker process's result."""
    worker = work("worker_functions:fork_and_both_return", "-c", "2")
    for id in range(40):
        master.submit(type="fork_and_both_return", id=id, body=id)
    answers = [master.receive() for _ in range(40)]
    assert {answer.id: answer.body for answer in answers} == {id: id for id in range(40)}
    worker.ctrl_c()
    assert worker.ended() == 0


@pytest.mark.parametrize(("way", "status"), [("exit 0", 0), ("exit 3", 3), ("_exit 4", 4), ("raise", 1), ("return", 0)])
def test_a_forked_process_ends_as_an_ordinary_one(work: StartWork, master: Master, way: str, status: int) -> None:
    """`if os.fork() == 0: ...; sys.exit(0)` works; an exception in the fork is shown, and does not fail the job."""
    worker = work("worker_functions:fork", "-c", "1")
    assert answer(master, "fork", way) == status
    if way == "raise":
        worker.wait_for("LookupError: in the fork")
        assert [line for line in worker.lines if line.startswith("  File ") and "/gloom/worker/" in line] == []


def test_what_waits_in_a_buffer_is_written_once(work: StartWork, master: Master) -> None:
    """Text without a newline that is buffered before a fork is printed once."""
    worker = work("worker_functions:say_and_fork", "-c", "1")
    answer(master, "say_and_fork", "once;")
    worker.ctrl_c()
    assert worker.ended() == 0
    assert worker.process.stdout is not None
    assert worker.process.stdout.read() == "once;"


def test_a_daemon_of_a_job_blocks_no_shutdown(work: StartWork, master: Master, fifos: Fifos) -> None:
    """A job that leaves a daemon by a double fork is answered; the worker stops, and the daemon lives on."""
    worker = work("worker_functions:fork_twice", "-c", "1")
    assert answer(master, "fork_twice", fifos.body) is None
    (daemon,) = fifos.wait_for(1)
    worker.ctrl_c()
    assert worker.ended() == 0
    os.kill(daemon, signal.SIGKILL)


def test_a_daemon_of_a_process_that_died_holds_no_slot(work: StartWork, master: Master, fifos: Fifos) -> None:
    """The death of the process ends the attempt, and the slot serves again, though a daemon keeps the pipes open."""
    worker = work("worker_functions:fork_and_die", "-c", "1")
    failed = failure(master, "fork_and_die", fifos.body)
    assert failed.reason == "the worker process ended with exit status 7 (4 attempts)"
    daemons = fifos.wait_for(len(failed.attempts))
    worker.ctrl_c()
    assert worker.ended() == 0
    for daemon in daemons:
        os.kill(daemon, signal.SIGKILL)


def test_a_process_that_a_program_leaves_holds_no_slot(work: StartWork, master: Master, fifos: Fifos) -> None:
    """With `gloom work -- PROGRAM`, the job ends with the program, even if another process keeps its output open."""
    script = f"(echo $BASHPID $$ > {fifos.body['arrived']}; read line < {fifos.body['go']}) & echo started"
    worker = work("--type", "start", "-c", "1", "--", "sh", "-c", script)
    assert answer(master, "start", None) == "started"
    fifos.wait_for(1)
    assert answer(master, "start", None) == "started"
    worker.ctrl_c()
    assert worker.ended() == 0


# Harm


HARM: list[tuple[list[Any], str]] = [
    (["throw", "KeyboardInterrupt"], "KeyboardInterrupt"),
    (["throw", "GeneratorExit"], "GeneratorExit"),
    (["fail_without_text", None], "WithoutText"),
    (["leave", None], "SystemExit"),
    (["recurse", None], "RecursionError"),
    (["nested", 2000], "BodyError"),
    (["raw", "["], "BodyError"),
    (["characters", 17 << 20], "SizeError"),
    (["die", 3], "WorkerDied"),
    (["crash", None], "WorkerDied"),
    (["close_descriptors", 1000], "WorkerDied"),
    (["write_to_pipes", "hello, how are you?"], "WorkerDied"),
    (["fork_and_die", None], "WorkerDied"),
]


@pytest.mark.parametrize(("body", "kind"), HARM, ids=[f"{body[0]}-{kind}" for body, kind in HARM])
def test_a_job_harms_itself_only(work: StartWork, master: Master, fifos: Fifos, body: list[Any], kind: str) -> None:
    """A job that harms its process fails with a reason, and the job beside it is answered."""
    worker = work("worker_functions:harm", "-c", "2")
    master.submit(type="harm", id="beside", body=fifos.body)
    (beside,) = fifos.wait_for(1)
    master.submit(type="harm", id="harm", body=body, retries=0)
    with pytest.raises(JobFailed) as failed:
        master.receive()
    assert (failed.value.id, failed.value.kind) == ("harm", kind)
    assert failed.value.reason
    fifos.release(1)
    assert master.receive().body == beside
    assert answer(master, "harm", ["double", 21]) == 42
    worker.ctrl_c()
    assert worker.ended() == 0
    # The job's own traceback is expected.
    lines = [line for line in worker.lines if " of harm: Traceback" not in line]
    assert not any("Traceback" in line or "a bug" in line or "is gone" in line for line in lines)


# Starting


def test_a_first_process_that_is_killed_while_it_starts_is_started_again(
    work: StartWork, master: Master, tmp_path: Path, fifos: Fifos
) -> None:
    """If the first process is killed during its start, the worker logs it, starts another, and works."""
    (tmp_path / "slow.py").write_text(
        f"import worker_functions\nworker_functions.arrive_and_wait({fifos.body!r})\ndef serve(body): return body\n"
    )
    worker = work("slow:serve", "-c", "1", joined=False, path=tmp_path)
    (first,) = fifos.wait_for(1)
    os.kill(first, signal.SIGKILL)
    line = worker.wait_for("cannot start a worker process")
    assert line.endswith("WorkerDied: the worker process was killed by SIGKILL")
    fifos.wait_for(1)
    fifos.release(1)
    worker.wait_for(" joined ")
    assert answer(master, "serve", 1) == 1


def test_the_port_for_masters_is_named(broker: Daemon, work: StartWork) -> None:
    """A worker on the port for masters does not report that it joined: one line names the right option; status 1."""
    worker = WorkProcess(f"--slave=127.0.0.1:{broker.master_port}", "worker_functions:double")
    try:
        assert worker.ended() == 1
        assert worker.lines == [
            f"gloom: 127.0.0.1:{broker.master_port} is the broker's port for masters; "
            "a worker needs its slave port: --slave HOST:9999"
        ]
    finally:
        worker.clean_up()


@pytest.mark.parametrize(
    ("greeting", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is it a broker?"),
        (b"", "the connection ended before the broker said hello"),
    ],
)
def test_another_kind_of_server_is_told(greeting: bytes, complaint: str) -> None:
    """A server that is no broker is reported in one line; the worker retries, since a broker may replace it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(greeting)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        worker = WorkProcess(f"--slave=127.0.0.1:{port}", "worker_functions:double", "-c", "1")
        try:
            line = worker.wait_for(f"no broker at 127.0.0.1:{port}")
            assert complaint in line
            assert line.endswith("; trying again")
            worker.ctrl_c()
            assert worker.ended() == 0
        finally:
            worker.clean_up()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_SECONDS)
