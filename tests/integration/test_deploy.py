"""The commands of deploy/ as real processes, with stand-ins for systemd and docker."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import STARTING_SECONDS, STOPPING_SECONDS, TWISTD, Daemon
from tests.support.deployment import DEPLOY, dockerfile, exec_start, needs, setting
from tests.support.peer import Peer, do_jobs

UNIT = DEPLOY / "gloom.service"
SOCKETS_CONF = DEPLOY / "gloom.service.d" / "sockets.conf"


@contextmanager
def running(command: list[str], directory: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program; end it with the block if it has not ended by itself."""
    environment = {**os.environ, **environ}
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would receive the service's notifications."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(STARTING_SECONDS)
        yield one


def test_the_unit_s_command_talks_to_systemd(manager: socket.socket, tmp_path: Path) -> None:
    """ExecStart of gloom.service sends READY when it serves, pings and STOPPING, and logs in journald's format."""
    command = exec_start(UNIT, TWISTD, f"--master-port=unix:{tmp_path}/m", f"--slave-port=unix:{tmp_path}/s")
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "300000"}
    with running(command, tmp_path, **environ) as process:
        assert manager.recv(100) == f"READY=1\nMAINPID={process.pid}".encode()
        with Peer.unix(f"{tmp_path}/m") as master, Peer.unix(f"{tmp_path}/s") as slave:
            do_jobs(master, slave)
        assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=STOPPING_SECONDS)
        assert process.returncode == 0
    heard = manager.recv(100)
    while heard == b"WATCHDOG=1":
        heard = manager.recv(100)
    assert heard == b"STOPPING=1"
    assert f"<6>masters on {tmp_path}/m" in output.splitlines()
    # A warning on hosts with a low descriptor limit.
    assert all(re.match("<[46]>", line) for line in output.splitlines())


def test_a_unit_that_cannot_listen_never_says_ready(manager: socket.socket, tmp_path: Path) -> None:
    """systemd sees a failed start, status 1, and the journal has the reason as an error."""
    command = exec_start(UNIT, TWISTD, "--master-port=unix:/absent/m", f"--slave-port=unix:{tmp_path}/s")
    with running(command, tmp_path, NOTIFY_SOCKET=manager.getsockname()) as process:
        output, _ = process.communicate(timeout=STARTING_SECONDS)
        assert process.returncode == 1
    assert "<3>cannot listen for masters on /absent/m: No such file or directory" in output.splitlines()
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def free_address() -> str:
    """An address without a listener: systemd-socket-activate does not take port 0."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "{}:{}".format(*server.getsockname())


def activated(addresses: list[str]) -> list[str]:
    """Return a command that listens on *addresses*, and starts the unit's command at the first connection."""
    names = ":".join(setting(DEPLOY / f"gloom-{role}.socket", "FileDescriptorName") for role in ("master", "slave"))
    listen = [f"--listen={address}" for address in addresses]
    # It passes on only the variables that are named to it.
    variables = [f"--setenv={name}" for name in os.environ]
    command = exec_start(SOCKETS_CONF, TWISTD)
    return ["systemd-socket-activate", *listen, f"--fdname={names}", *variables, *command]


def wait_until_listening(process: subprocess.Popen[str], addresses: list[str]) -> None:
    assert process.stdout is not None
    for address in addresses:
        assert f"Listening on {address} " in process.stdout.readline()


@needs("systemd-socket-activate", "systemd")
def test_the_drop_in_s_command_serves_on_inherited_sockets(tmp_path: Path) -> None:
    """With sockets.conf the first connection starts gloom, which serves it and all later ones."""
    addresses = [free_address(), free_address()]
    master_port, slave_port = (int(address.rpartition(":")[2]) for address in addresses)
    with running(activated(addresses), tmp_path) as process:
        wait_until_listening(process, addresses)
        with Peer.tcp(master_port) as first, Peer.tcp(slave_port) as slave, Peer.tcp(master_port) as second:
            do_jobs(first, slave)
            do_jobs(second, slave)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=STOPPING_SECONDS)
        assert process.returncode == 0
    assert f"masters on {addresses[0]} (this host only" in output
    assert f"slaves on {addresses[1]} (this host only" in output


@needs("systemd-socket-activate", "systemd")
def test_a_socket_under_another_name_is_one_line(tmp_path: Path) -> None:
    """If FileDescriptorName= and the endpoint do not agree, one line names the missing socket."""
    addresses = [free_address(), free_address()]
    command = [word.replace("--fdname=gloom-master:", "--fdname=other:") for word in activated(addresses)]
    with running(command, tmp_path) as process:
        wait_until_listening(process, addresses)
        with socket.create_connection(("127.0.0.1", int(addresses[0].rpartition(":")[2]))):
            output, _ = process.communicate(timeout=STARTING_SECONDS)
        assert process.returncode == 1
    assert "no socket 'gloom-master' was inherited from systemd" in output.splitlines()[-1]


def test_the_image_s_health_check_tells_a_broker_that_answers(daemon: Callable[..., Daemon]) -> None:
    """HEALTHCHECK has status 0 while the broker answers, and another when it does not."""
    broker = daemon()
    _, flag, program = dockerfile("HEALTHCHECK")
    # The test need not wait for its four seconds.
    command = [sys.executable, flag, program.replace("9998), 4", f"{broker.master_port}), 1")]

    def status() -> int:
        return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=STARTING_SECONDS, check=False).returncode

    assert status() == 0
    broker.process.send_signal(signal.SIGSTOP)
    try:
        assert status() != 0
    finally:
        broker.process.send_signal(signal.SIGCONT)
    broker.stop()
    assert status() != 0
