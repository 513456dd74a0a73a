"""`gloom submit` and `gloom map` as a user runs them: real processes, pipes and signals."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.commands import SECONDS, Farm, pipe_of, run_gloom
from tests.support.terminals import read_to_end, read_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """One broker for all tests here, which do it no harm."""
    one = Farm(tmp_path_factory.mktemp("broker"), f"--max-frame-bytes={MIB}")
    yield one
    one.stop()


def answers_of(stdout: str) -> list[Any]:
    return [json.loads(line) for line in stdout.splitlines()]


# submit


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["Käse"], "Käse\n"),
        (['{"a": [1, 2]}'], '{"a":[1,2]}\n'),
        (["--", "-5"], "-5\n"),
    ],
)
def test_submit_prints_a_string_as_it_is_and_anything_else_as_json(
    farm: Farm, arguments: list[str], printed: str
) -> None:
    """A string is printed as it is, any other value as JSON, on standard output alone, with status 0."""
    ended = farm.gloom("submit", "echo", *arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, printed, "")


def test_submit_takes_its_body_from_standard_input_or_a_file(farm: Farm, tmp_path: Path) -> None:
    """Without BODY, or with -, the body is standard input; with @ it is a file."""
    (tmp_path / "body").write_text("of a file\n")
    bodies = [([], "of stdin\n"), (["-"], "of stdin\n"), ([f"@{tmp_path / 'body'}"], "of a file\n")]
    for arguments, body in bodies:
        assert farm.gloom("submit", "echo", *arguments, input="of stdin\n").stdout == body


def test_submit_text_sends_a_string_where_json_would_be_read(farm: Farm) -> None:
    """--text makes 5 the string "5"."""
    assert json.loads(farm.gloom("submit", "echo", "5", "--json").stdout)["answer"] == 5
    assert json.loads(farm.gloom("submit", "echo", "5", "--json", "--text").stdout)["answer"] == "5"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{w: 3}", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (" [1, 2", "Expecting ',' delimiter: line 1 column 7 (char 6)"),
        ('"{"', None),
        ("so {it} is", None),
        ("[]", None),
    ],
)
def test_submit_warns_of_a_body_that_was_meant_to_be_json(farm: Farm, body: str, why: str | None) -> None:
    """A body like JSON with a forgotten quote is sent as a string, with a warning on standard error."""
    ended = farm.gloom("submit", "echo", body)
    line = f"gloom: BODY looks like JSON but is not ({why}); sending it as a string (--text avoids this warning)\n"
    assert (ended.returncode, ended.stderr) == (0, "" if why is None else line)
    assert farm.gloom("submit", "echo", body, "--text").stderr == ""


def test_map_warns_once_of_lines_that_were_meant_to_be_json(farm: Farm) -> None:
    """A file in another format causes one warning, however many lines it has."""
    lines = '1\n\n{"a": 1}\n{b: 2}\n{c: 3}\n'
    ended = farm.gloom("map", "echo", "--ordered", input=lines)
    first, summary = ended.stderr.splitlines()
    assert first.startswith("gloom: line 4 looks like JSON but is not (Expecting property name")
    assert first.endswith("sending it and others like it as strings (--text avoids this warning)")
    assert "4" in summary
    assert ended.stdout.splitlines()[-1] == '{"line":5,"answer":"{c: 3}"}'
    assert "JSON" not in farm.gloom("map", "echo", "--text", input=lines).stderr


def test_submit_json_prints_the_outcome_with_its_id(farm: Farm) -> None:
    """With --json an answer and a failure have the same form, so that a script reads both in one place."""
    answered = farm.gloom("submit", "picky", "4", "--json", "--id", "mine")
    assert (answered.returncode, answered.stdout) == (0, '{"id":"mine","answer":4}\n')
    failed = farm.gloom("submit", "picky", "3", "--json", "--id", "mine")
    outcome = json.loads(failed.stdout)
    assert failed.returncode == 1
    assert (outcome["id"], outcome["error"], outcome["kind"], outcome["reason"]) == (
        "mine",
        "job_failed",
        "ValueError",
        "no\nthrees",
    )
    assert "threes" in outcome["traceback"]
    assert [attempt["ended"] for attempt in outcome["attempts"]] == ["failed"]


def test_submit_says_in_one_line_why_a_job_failed(farm: Farm) -> None:
    """A failed job is status 1 and one line; --traceback shows where in the slave's code."""
    ended = farm.gloom("submit", "picky", "3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "gloom: the job failed: ValueError: no threes\n"
    explained = farm.gloom("submit", "picky", "3", "--traceback").stderr
    assert 'raise ValueError("no\\nthrees")' in explained
    assert explained.endswith(ended.stderr)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("9" * 5000, "the answer cannot be read: cannot read the body: Exceeds the limit"),
        ("[1e999]", "the answer holds a number beyond the range of a double"),
    ],
)
def test_an_answer_that_python_cannot_print_is_an_error(farm: Farm, answer: str, complaint: str) -> None:
    """A value that Python cannot print exactly is an error; the other lines of a map are answered."""
    ended = farm.gloom("submit", "literal", "--text", input=answer)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"gloom: {complaint}")
    mapped = farm.gloom("map", "literal", "--text", input=f"{answer}\n5\n")
    printed = {line.pop("line"): line for line in answers_of(mapped.stdout)}
    assert printed[1]["error"] == "body_error"
    assert printed[1]["reason"][:20] in complaint
    assert printed[2] == {"answer": 5}


def test_submit_says_why_the_broker_refused(farm: Farm) -> None:
    """A master connected to the port for slaves reports that mistake."""
    slaves = f"127.0.0.1:{farm.broker.slave_port}"
    ended = run_gloom("submit", "echo", "x", "--master", slaves)
    assert ended.returncode == 1
    assert ended.stderr.startswith("gloom: the job was refused: invalid_action: submit is for the master port")


def test_no_broker_is_said_at_once_and_in_one_line() -> None:
    """Without a broker, submit ends at once with one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_gloom("submit", "echo", input="x", env={**os.environ, "GLOOM_MASTER": address})
    assert ended.returncode == 1
    assert ended.stderr == f"gloom: cannot reach the broker at {address}: Connection refused\n"


def test_submit_gives_up_after_its_timeout(farm: Farm) -> None:
    """Without an answer in time the exit status is 124, and the job leaves the queue."""
    ended = farm.gloom("submit", "nobody-serves-this", "x", "--timeout", "0.2", "--id", "late")
    assert (ended.returncode, ended.stdout, ended.stderr) == (124, "", "gloom: no answer within 0.2 s\n")
    assert farm.gloom("submit", "echo", "x", "--id", "late").stdout == "x\n"


def test_submit_says_that_it_waits_and_ends_quietly_on_ctrl_c(farm: Farm) -> None:
    """On a terminal, submit says that its job waits for a slave; Ctrl-C is status 130 without a traceback."""
    ours, theirs = pty.openpty()
    with farm.running("submit", "nobody-serves-this", "x", stderr=theirs) as process:
        os.close(theirs)
        said = read_until(ours, b"waiting for an answer; does a slave serve 'nobody-serves-this'?", SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        said += read_to_end(ours)
    assert b"Traceback" not in said
    assert said.count(b"\n") == 1


def test_submit_shows_what_is_not_a_string_indented_on_a_terminal(farm: Farm) -> None:
    """An object is indented on a terminal, and is one line in a pipe."""
    ours, theirs = pty.openpty()
    with farm.running("submit", "echo", '{"a": [1]}', stdout=theirs) as process:
        os.close(theirs)
        assert read_to_end(ours).decode().splitlines() == ["{", '  "a": [', "    1", "  ]", "}"]
        assert process.wait(SECONDS) == 0


def test_submit_asks_for_the_body_on_a_terminal(farm: Farm) -> None:
    """On a terminal without BODY, submit says that it reads standard input."""
    ours, theirs = pty.openpty()
    with farm.running("submit", "echo", stdin=theirs) as process:
        os.close(theirs)
        assert pipe_of(process.stderr).readline() == "gloom: type the body, and end it with Ctrl-D\n"
        os.write(ours, b"typed\n\x04")
        assert pipe_of(process.stdout).read() == "typed\n"
    os.close(ours)


def test_a_closed_standard_output_is_status_141_and_no_traceback(farm: Farm) -> None:
    """`gloom submit ... | true` ends quietly with status 141, as a program ended by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    for verb in ("submit", "map"):
        ended = farm.gloom(verb, "echo", input="x", stdout=writing)
        assert (ended.returncode, ended.stderr) == (141, "")
    os.close(writing)


@pytest.mark.parametrize("verb", ["submit", "map"])
def test_a_full_disk_is_said(farm: Farm, verb: str) -> None:
    """A failed write of the answer is an error."""
    with Path("/dev/full").open("wb") as full:
        ended = farm.gloom(verb, "echo", input="x", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "gloom: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("verb", "redirection", "complaint"),
    [
        ("submit", "<&-", "Invalid value for BODY: standard input is closed"),
        ("submit", ">&-", "gloom: standard output is closed"),
        ("map", "<&-", "gloom: standard input is closed"),
        ("map", ">&-", "gloom: standard output is closed"),
    ],
)
def test_a_standard_stream_that_is_not_there_is_said(farm: Farm, verb: str, redirection: str, complaint: str) -> None:
    """With a closed standard stream there is one error line, no traceback, and no answer in another file."""
    ended = subprocess.run(
        f"echo 1 | {sys.executable} -m gloom {verb} echo --master {farm.address} {redirection}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode != 0
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_standard_error_the_answers_are_what_they_were(farm: Farm) -> None:
    """With `2>&-` the messages are lost, and do not mix with the answers."""
    ended = subprocess.run(
        f'printf "1\\n3\\n" | {sys.executable} -m gloom map picky --master {farm.address} 2>&-',
        shell=True,
        capture_output=True,
        timeout=SECONDS,
    )
    assert [line.get("answer") for line in answers_of(ended.stdout.decode())] == [1, None]


# map


def test_map_prints_a_line_of_json_for_each_job(farm: Farm) -> None:
    """Each line of output has its input line's number, empty lines counted, and its answer or failure."""
    lines = b'1\n\n{"a": 2}\n3\ntext\n\xff\n"last"'
    ended = farm.gloom("map", "picky", input=lines)
    printed = {line.pop("line"): line for line in answers_of(ended.stdout)}
    assert printed == {
        1: {"answer": 1},
        3: {"answer": {"a": 2}},
        4: {"error": "job_failed", "reason": "no\nthrees", "kind": "ValueError"},
        5: {"answer": "text"},
        6: {"error": "body_error", "reason": "not UTF-8: invalid start byte at byte 0"},
        7: {"answer": "last"},
    }
    assert ended.returncode == 1
    assert ended.stderr.startswith("gloom: 6 jobs in ")
    assert ", 2 failed, " in ended.stderr


@pytest.mark.parametrize("arguments", [[], ["--ordered"], ["--ordered", "--window", "3"]])
def test_map_answers_each_line_once_in_order_if_asked(farm: Farm, arguments: list[str]) -> None:
    """Answers are printed on arrival, or with --ordered in line order, though eight slaves answer in another order."""
    ended = farm.gloom("map", "shuffled", "-q", *arguments, input="".join(f"{n}\n" for n in range(32)))
    answers = [line["answer"] for line in answers_of(ended.stdout)]
    assert sorted(answers) == list(range(32))
    assert (answers == list(range(32))) is ("--ordered" in arguments)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_map_raw_prints_answers_alone(farm: Farm) -> None:
    """With --raw strings are printed as they are, other values as JSON, and failures on standard error."""
    ended = farm.gloom("map", "picky", "--raw", "--ordered", "-q", input='one\n3\n{"a":1}\n')
    assert ended.stdout == 'one\n{"a":1}\n'
    assert ended.stderr == "gloom: line 2: ValueError: no threes\n"
    assert ended.returncode == 1


def test_map_text_makes_every_line_a_string(farm: Farm) -> None:
    """--text keeps 1 from becoming a number."""
    assert answers_of(farm.gloom("map", "echo", "--text", input="1\n").stdout) == [{"line": 1, "answer": "1"}]


def test_map_answers_while_its_input_is_still_being_written(farm: Farm) -> None:
    """A slow producer's line is answered before its next line is written."""
    with farm.running("map", "echo") as process:
        stdin, stdout = pipe_of(process.stdin), pipe_of(process.stdout)
        for number in (1, 2, 3):
            stdin.write(f'"job {number}"\n')
            stdin.flush()
            assert json.loads(stdout.readline()) == {"line": number, "answer": f"job {number}"}
        stdin.write('"no end of line"')
        stdin.close()
        assert json.loads(stdout.readline()) == {"line": 4, "answer": "no end of line"}
        assert process.wait(SECONDS) == 0


def test_map_reads_regular_files_and_empty_ones(farm: Farm, tmp_path: Path) -> None:
    """Regular files, which no reactor can poll, are read and written like pipes."""
    lines, answers = tmp_path / "lines", tmp_path / "answers"
    lines.write_text("".join(f"{n}\n" for n in range(2000)))
    with lines.open() as stdin, answers.open("w") as stdout:
        ended = farm.gloom("map", "echo", stdin=stdin, stdout=stdout)
    assert ended.returncode == 0
    assert sorted(line["answer"] for line in answers_of(answers.read_text())) == list(range(2000))
    nothing = farm.gloom("map", "echo", stdin=subprocess.DEVNULL)
    assert (nothing.returncode, nothing.stdout) == (0, "")


@pytest.mark.parametrize("verb", ["submit", "map"])
def test_an_input_that_cannot_be_read_is_said(farm: Farm, tmp_path: Path, verb: str) -> None:
    """An unreadable input is an error, not an end of file."""
    with (tmp_path / "written").open("w") as write_only:
        ended = farm.gloom(verb, "echo", stdin=write_only)
    assert ended.returncode != 0
    assert ended.stderr.endswith("cannot read standard input: Bad file descriptor\n")
    assert "Traceback" not in ended.stderr


def test_map_takes_long_lines_up_to_the_brokers_limit(farm: Farm) -> None:
    """A line over the limit fails alone: the lines before and after it are answered."""
    almost, over, far_over = (json.dumps("x" * size) for size in (MIB - 9000, MIB - 50, 3 * MIB))
    ended = farm.gloom("map", "echo", input="\n".join((almost, over, far_over, '"short"')))
    printed = {line.pop("line"): line for line in answers_of(ended.stdout)}
    assert [len(printed[number].get("answer", "")) for number in (1, 2, 3, 4)] == [MIB - 9000, 0, 0, 5]
    assert printed[2]["error"] == printed[3]["error"] == "size_error"
    assert f"the line has {3 * MIB + 2} bytes" in printed[3]["reason"]
    assert ended.returncode == 1


def test_map_stops_when_the_broker_refuses_every_job(farm: Farm) -> None:
    """If the broker refuses every job, as on the port for slaves, map stops with one line."""
    slaves = f"127.0.0.1:{farm.broker.slave_port}"
    ended = run_gloom("map", "echo", "--master", slaves, input="1\n2\n3\n")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("gloom: the broker refuses the jobs: invalid_action")
    assert ended.stderr.count("\n") == 1


def test_map_ends_quietly_when_its_reader_does(farm: Farm) -> None:
    """`gloom map ... | head -1` prints one line and nothing else, though its input has no end."""
    with farm.running("map", "echo", stdin=subprocess.PIPE) as process:
        stdin, stdout = pipe_of(process.stdin), pipe_of(process.stdout)
        stdin.write("1\n")
        stdin.flush()
        assert stdout.readline() == '{"line":1,"answer":1}\n'
        stdout.close()
        stdin.write("2\n")
        stdin.flush()
        assert process.wait(SECONDS) == 141
        assert pipe_of(process.stderr).read() == ""
        stdin.close()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_map_ends_on_a_signal_and_says_how_far_it_was(farm: Farm, number: signal.Signals, status: int) -> None:
    """After a signal, answered lines are printed and counted, and there is no traceback."""
    with farm.running("map", "echo") as process:
        stdin = pipe_of(process.stdin)
        stdin.write("1\n")
        stdin.flush()
        assert pipe_of(process.stdout).readline()
        process.send_signal(number)
        assert process.wait(SECONDS) == status
        assert pipe_of(process.stderr).read().startswith("gloom: 1 job in ")


def test_map_waits_for_a_slow_reader(farm: Farm) -> None:
    """While no program reads the answers, map reads no lines, so memory is bounded; later all answers are printed."""
    line = json.dumps("x" * 1000) + "\n"
    total = 10_000
    with farm.running("map", "echo", "-q") as process:
        stdin, stdout = pipe_of(process.stdin), pipe_of(process.stdout)
        stdin.write(line)
        stdin.flush()
        assert stdout.readline()
        os.set_blocking(stdin.fileno(), False)
        data = memoryview((line * (total - 1)).encode())
        written = write_until_nobody_reads(stdin.fileno(), data)
        assert written < len(data) // 2
        os.set_blocking(stdin.fileno(), True)
        feeding = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=stdin.fileno())
        stdin.close()
        thread = Thread(target=feeding.communicate, args=(bytes(data[written:]),))
        thread.start()
        assert sum(1 for _ in stdout) == total - 1
        thread.join()
        assert process.wait(SECONDS) == 0


def test_map_draws_a_bar_on_a_terminal_alone(farm: Farm, tmp_path: Path) -> None:
    """A terminal shows jobs, failures, speed and time left; a log file gets one line at the end."""
    (tmp_path / "lines").write_text("".join(f"{n}\n" for n in range(3000)))
    ours, theirs = pty.openpty()
    with (
        (tmp_path / "lines").open() as stdin,
        farm.running("map", "picky", stdin=stdin, stdout=subprocess.DEVNULL, stderr=theirs) as process,
    ):
        os.close(theirs)
        said = read_to_end(ours).decode()
        assert process.wait(SECONDS) == 1
    assert "jobs/s" in said.partition("gloom: ")[0]
    assert "left" in said
    assert "gloom: 3,000 jobs in " in said.splitlines()[-1]


def test_map_keeps_its_memory_flat(farm: Farm) -> None:
    """Over many lines, memory stays as after the first thousands."""
    warm, total = 3_000, 13_000
    with farm.running("map", "echo", "-q", stdin=subprocess.PIPE) as process:
        feeding = subprocess.Popen(["seq", str(total)], stdout=pipe_of(process.stdin).fileno())
        pipe_of(process.stdin).close()
        stdout = pipe_of(process.stdout)
        for _ in range(warm):
            stdout.readline()
        before = resident_bytes(process.pid)
        for _ in range(total - warm - 1):
            stdout.readline()
        grown = resident_bytes(process.pid) - before
        assert stdout.readline()
        assert feeding.wait(SECONDS) == 0
        assert process.wait(SECONDS) == 0
    assert grown < MIB  # a hundred bytes a line


# System calls of the tests


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def write_until_nobody_reads(descriptor: int, data: memoryview) -> int:
    """Write until the pipe accepts nothing for half a second; return the number of bytes written."""
    written = 0
    while written < len(data) and select.select([], [descriptor], [], 0.5)[1]:
        written += os.write(descriptor, data[written:])
    return written
