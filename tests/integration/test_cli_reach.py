"""`gloom` and an unreachable broker: not started yet, or TLS on one side only. Real processes."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.commands import SECONDS, Farm, pipe_of, run_gloom, running_gloom
from tests.support.daemon import Daemon


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    one = Farm(tmp_path)
    yield one
    one.stop()


def test_map_waits_for_a_broker_that_is_not_there_yet(farm: Farm) -> None:
    """A map that starts before its broker waits, and finishes; it reports the wait once."""
    farm.broker.kill()
    with farm.running("map", "echo") as process:
        said = pipe_of(process.stderr).readline()
        assert said == (
            f"gloom: cannot reach the broker at {farm.address}: Connection refused; waiting for it (Ctrl-C gives up)\n"
        )
        farm.broker.start_again()
        stdout, stderr = process.communicate("5\n", timeout=SECONDS)
        assert process.returncode == 0
    assert json.loads(stdout) == {"line": 1, "answer": 5}
    assert stderr.startswith("gloom: 1 job in ")


def test_map_outlives_a_broker_that_dies_before_it_says_hello() -> None:
    """A connection that is reset right after it was made is retried, as a refused one is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with running_gloom("map", "echo", "--master", address) as process:
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
            connection.close()
            assert "waiting for it" in pipe_of(process.stderr).readline()
            with server.accept()[0]:  # the next try
                process.send_signal(signal.SIGINT)
                assert process.wait(SECONDS) == 130


def test_ctrl_c_ends_the_wait_for_a_broker() -> None:
    """Ctrl-C ends the wait with status 130 and without further output."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        with running_gloom("map", "echo", "--master", f"127.0.0.1:{taken.getsockname()[1]}") as process:
            assert "waiting for it" in pipe_of(process.stderr).readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130
            assert pipe_of(process.stderr).read() == ""


def test_map_does_not_wait_for_a_host_that_does_not_exist() -> None:
    """An unknown host name, likely a typing error, ends map at once."""
    ended = run_gloom("map", "echo", "--master", "no-such-host.invalid:9998")
    assert ended.returncode == 1
    assert ended.stderr.startswith("gloom: cannot reach the broker at no-such-host.invalid:9998: ")


# TLS on one side only


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def brokers(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Daemon]]:
    """A broker with TLS, and one without."""
    directory = tmp_path_factory.mktemp("brokers")
    certificate, key = authority.issue("broker.test", "server")
    both = {True: Daemon(directory).start(f"--tls-cert={certificate}", f"--tls-key={key}"), False: Daemon(directory)}
    both[False].start()
    yield both
    for one in both.values():
        with suppress(ProcessLookupError):
            one.kill()


@pytest.mark.parametrize("verb", ["submit", "map", "bench"])
@pytest.mark.parametrize("client_speaks_tls", [False, True], ids=["plain client", "TLS client"])
def test_tls_on_one_side_only_is_said(
    brokers: dict[bool, Daemon], authority: Authority, verb: str, client_speaks_tls: bool
) -> None:
    """One line says which side speaks TLS, and names the missing or the superfluous option."""
    broker = brokers[not client_speaks_tls]
    options = [f"--master=127.0.0.1:{broker.master_port}"] + [f"--tls-ca={authority.file}"] * client_speaks_tls
    more = {"submit": ["echo", "x"], "map": ["echo"], "bench": [f"--slave=127.0.0.1:{broker.slave_port}"]}[verb]
    ended = run_gloom(verb, *more, *options, input="x\n")
    assert ended.returncode == 1
    assert ended.stderr.endswith(
        "; the broker does not speak TLS here, and this client does: leave out --tls and --tls-...\n"
        if client_speaks_tls
        else "; perhaps the broker speaks TLS, and this client does not: --tls, or --tls-ca FILE\n"
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("client_speaks_tls", [False, True], ids=["plain client", "TLS client"])
def test_a_worker_with_tls_on_one_side_only_says_so(
    brokers: dict[bool, Daemon], authority: Authority, client_speaks_tls: bool
) -> None:
    """The worker retries, as after any refusal, and its log has the reason."""
    broker = brokers[not client_speaks_tls]
    options = [f"--tls-ca={authority.file}"] * client_speaks_tls
    address = f"127.0.0.1:{broker.slave_port}"
    with running_gloom("work", "math:sqrt", "-c", "1", "--slave", address, *options) as process:
        said = next(line for line in pipe_of(process.stderr) if "no broker" in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    assert ("the broker does not speak TLS here" if client_speaks_tls else "perhaps the broker speaks TLS") in said
