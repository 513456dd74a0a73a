"""The load generator and the relay, compiled and run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading

import pytest

from bench import largeframes
from bench.wire.measure import SHAPES, Load, measure
from bench.wire.programs import compiled
from bench.wire.systems import SYSTEMS

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")


class a_broker_that_says:  # noqa: N801 (reads as a sentence)
    """A broker of one slave, which gets ok, and one master, which gets *payload* twice, or a closed connection."""

    def __init__(self, payload: bytes | None) -> None:
        self._frame = b"" if payload is None else (len(payload).to_bytes(4, "big") + payload) * 2
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_error: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        slave, master = (self._listener.accept()[0] for _ in range(2))
        with slave, master:
            slave.sendall(b'\0\0\0\x0b{"ok":true}')
            master.recv(1 << 16)
            master.sendall(self._frame)
            if self._frame:
                master.recv(1)


@pytest.mark.parametrize("name", ["relay", "gloom", "gloom-slots"])
@pytest.mark.parametrize("rate", [0, 2000])
def test_all_jobs_are_answered_and_their_cost_is_taken(name: str, rate: float) -> None:
    """In a closed loop and at an offered rate, every job is answered, and the percentiles are in order."""
    result = measure(SYSTEMS[name], Load(SHAPES["A"], jobs=300, rate=rate))
    assert result.jobs == 300
    assert 0 < result.p50_us <= result.p99_us <= result.p99_9_us <= result.max_us
    assert 0 < result.cpu_us < 1e5
    assert result.peak_bytes > 0


def test_other_jobs_stay_queued() -> None:
    """Queued jobs of another type are not answered; the load generator would fail if one were."""
    assert measure(SYSTEMS["gloom"], Load(SHAPES["B"], jobs=50, fill=2500)).jobs == 50


def test_large_bodies_come_back() -> None:
    """Large bodies, which take many reads and partial writes, come back unchanged."""
    assert measure(SYSTEMS["relay"], Load(SHAPES["A"], jobs=40, body_bytes=1_000_000)).jobs == 40


@pytest.mark.parametrize(
    ("says", "complaint"),
    [
        (b'{"error":"busy","reason":"full"}', "what came to master 0 is no answer: "),
        (b'{"id":"0-0","body":"wrong"}', "what came to master 0 is no body of one of its jobs: "),
        (b'{"ok":true}', "what came to master 0 accepts more than was submitted: "),
        (None, "0 lost its connection: "),
    ],
)
def test_anything_unexpected_ends_it_with_a_line(says: bytes | None, complaint: str) -> None:
    """A broker that refuses, answers wrongly or disconnects ends the measurement with one line."""
    with a_broker_that_says(says) as port:
        command = [str(compiled("load")), "--port", str(port), "--masters", "1", "--slaves", "1", "--jobs", "1"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("load: gloom: ")
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("window", [1, 16])
def test_the_jobs_whose_instructions_are_counted_are_all_answered(window: int) -> None:
    """The fixed series ends only when each of its jobs is answered, with one job in flight or with many."""
    command = [sys.executable, "-m", "bench.instructions", "32", str(window)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_large_frames_are_measured() -> None:
    """The measurement of large frames reports a time and a peak of memory, here of a broker that maps over 1 MiB."""
    cpu, wall, peak, _ = largeframes.measured(largeframes.MIB, 2 * largeframes.MIB, 5)
    assert cpu >= 0 and wall > 0 and peak > 0
