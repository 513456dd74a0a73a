"""`twistd gloom` and its options as a user meets them: real processes, real sockets."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import gloom
from tests.support.daemon import STARTING_SECONDS, STOPPING_SECONDS, TWISTD, Daemon
from tests.support.peer import OK, Peer, do_jobs

TWISTD_FOREGROUND = [str(TWISTD), "--nodaemon", "--pidfile="]
TWIST = [sys.executable, "-m", "twisted", "--log-format=text"]
both_runners = pytest.mark.parametrize("runner", [TWISTD_FOREGROUND, TWIST], ids=["twistd", "twist"])

#: The kernel's text for a port in use, as the daemon prints it.
IN_USE = os.strerror(errno.EADDRINUSE)


def run(
    command: list[str], directory: Path, inherits: Sequence[int] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends."""
    return subprocess.run(
        command,
        cwd=directory,
        pass_fds=inherits,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=STARTING_SECONDS,
        check=False,
    )


@contextmanager
def bound_port() -> Iterator[int]:
    """A port of this host with another listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    """A port of this host without a listener, where port 0 will not do."""
    with bound_port() as port:
        return port


def assert_nobody_listens(port: int) -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def end_of_all() -> Iterator[tuple[int, Callable[[], None]]]:
    """Yield a descriptor to inherit, and a wait until every process that inherited it has ended."""
    reading, writing = os.pipe()

    def wait() -> None:
        os.close(writing)
        readable, _, _ = select.select([reading], [], [], STOPPING_SECONDS)
        assert readable, "a process has not ended"

    try:
        yield writing, wait
    finally:
        os.close(reading)


# Starting


def test_help_is_worth_reading(tmp_path: Path) -> None:
    """twistd gloom --help prints the options and how to stay in the foreground, status 0."""
    done = run([str(TWISTD), "gloom", "--help"], tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    for words in ("--master-port=", "--slave-port=", "--interface=", "--max-frame-bytes=", "loopback", "--nodaemon"):
        assert words in done.stdout


@both_runners
def test_version_is_gloom_s(runner: list[str], tmp_path: Path) -> None:
    """--version after gloom is gloom's version, status 0."""
    done = run([*runner, "gloom", "--version"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"gloom {gloom.__version__} (Twisted ")


def test_a_start_says_where_it_listens(daemon: Callable[..., Daemon]) -> None:
    """Each port has a line with its role, its address and that only this host reaches it; then gloom is up."""
    broker = daemon()
    broker.stop()
    log = "".join(broker.lines)
    note = "(this host only; --interface ADDR opens it to others)"
    assert f"masters on 127.0.0.1:{broker.master_port} {note}" in log
    assert f"slaves on 127.0.0.1:{broker.slave_port} {note}" in log
    assert f"gloom {gloom.__version__} is up" in log


def test_interface_opens_it_to_others(daemon: Callable[..., Daemon]) -> None:
    """With --interface 0.0.0.0 every address of the host serves, and the line says so."""
    broker = daemon("--interface=0.0.0.0")
    with Peer.tcp(broker.master_port, "127.0.0.2") as master, Peer.tcp(broker.slave_port, "127.0.0.3") as slave:
        do_jobs(master, slave)
    broker.stop()
    assert f"masters on 0.0.0.0:{broker.master_port}\n" in "".join(broker.lines)


def test_the_default_is_not_reachable_on_other_addresses(daemon: Callable[..., Daemon]) -> None:
    """Without --interface only 127.0.0.1 listens."""
    broker = daemon()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.2", broker.master_port)) != 0


def test_two_master_ports_serve_one_broker(daemon: Callable[..., Daemon]) -> None:
    """Masters on different ports share slaves, and job ids."""
    second = free_port()
    broker = daemon("--master-port=0", f"--master-port={second}")
    first = broker.master_port if broker.master_port != second else _first_port(broker)
    with Peer.tcp(first) as one, Peer.tcp(second) as other, Peer.tcp(broker.slave_port) as slave:
        do_jobs(one, slave)
        do_jobs(other, slave)
        assert one.ask({"action": "submit", "id": "same", "type": "t", "body": 1}) == OK
        assert other.ask({"action": "submit", "id": "same", "type": "t", "body": 1})["error"] == "id_exists"


def _first_port(broker: Daemon) -> int:
    (line,) = [line for line in broker.lines if "masters on" in line][:1]
    found = re.search(r":(\d+) ", line.partition("masters on")[2])
    assert found is not None
    return int(found[1])


def test_a_unix_socket_serves_and_goes(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """unix:PATH:mode=600 serves with that mode; the file is taken over after a crash, and gone after a stop."""
    path = tmp_path / "masters.sock"
    options = f"--master-port=unix:{path}:mode=600", "--slave-port=0"
    broker = daemon(*options)
    with Peer.unix(str(path)) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave)
    assert path.stat().st_mode & 0o777 == 0o600
    broker.kill()
    broker.start(*options)
    Peer.unix(str(path)).close()
    broker.stop()
    assert not path.exists()


def test_an_ipv6_port_serves(daemon: Callable[..., Daemon]) -> None:
    """tcp6: listens on IPv6, here on loopback alone, and the line has the address in brackets."""
    broker = daemon(r"--master-port=tcp6:0:interface=\:\:1", "--interface=::1")
    with Peer.tcp(broker.master_port, "::1") as master, Peer.tcp(broker.slave_port, "::1") as slave:
        do_jobs(master, slave)
    assert any(f"masters on [::1]:{broker.master_port} (this host only" in line for line in broker.lines)


def self_signed(directory: Path) -> Path:
    """Return a file with a key and a certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    path = directory / "localhost.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    return path


def test_a_tls_port_serves(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With gloom[tls] an ssl: endpoint serves over TLS; an error that closes arrives whole there too."""
    pem = self_signed(tmp_path)
    broker = daemon(f"--master-port=ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
    context = ssl.create_default_context(cafile=str(pem))
    plain = socket.create_connection(("127.0.0.1", broker.master_port))
    with Peer(context.wrap_socket(plain, server_hostname="localhost")) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave, 3)
        master.socket.sendall(b"\xff\xff\xff\xff")
        assert master.receive()["error"] == "size_error"
        assert master.receive() is None


def test_twist_runs_it_too(tmp_path: Path) -> None:
    """python -m twisted gloom serves and stops as twistd does."""
    command = [*TWIST, "gloom", "--master-port=0", "--slave-port=0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports: list[int] = []
            for line in process.stdout:
                ports += map(int, re.findall(r"(?:masters|slaves) on 127.0.0.1:(\d+)", line))
                if "is up" in line:
                    break
            with Peer.tcp(ports[0]) as master, Peer.tcp(ports[1]) as slave:
                do_jobs(master, slave)
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            assert process.wait(STOPPING_SECONDS) == 0
        finally:
            process.kill()
    assert "is down" in rest


def test_a_daemon_goes_to_the_background(tmp_path: Path) -> None:
    """Plain twistd gloom returns when it serves, with its process id and log in files, and ends on SIGTERM."""
    log = (tmp_path / "twistd.log").read_text
    with end_of_all() as (inherited, wait):
        done = run([str(TWISTD), "gloom", "--master-port=0", "--slave-port=0"], tmp_path, [inherited])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = int((tmp_path / "twistd.pid").read_text())
        try:
            master_port, slave_port = map(int, re.findall(r"(?:masters|slaves) on 127.0.0.1:(\d+)", log()))
            with Peer.tcp(master_port) as master, Peer.tcp(slave_port) as slave:
                do_jobs(master, slave)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait()
    assert "is down" in log()
    assert not (tmp_path / "twistd.pid").exists()


# Not starting


@both_runners
@pytest.mark.parametrize("role", ["masters", "slaves"])
def test_a_taken_port_is_one_line_and_nothing_half_started(runner: list[str], role: str, tmp_path: Path) -> None:
    """Standard error has one line with the port and the reason; the status is 1, and the other port is closed."""
    other = free_port()
    with bound_port() as taken:
        ports = {"masters": other, "slaves": other, role: taken}
        options = [f"--master-port={ports['masters']}", f"--slave-port={ports['slaves']}"]
        done = run([*runner, "gloom", *options], tmp_path)
    hint = f"(--{role.removesuffix('s')}-port chooses another)"
    assert done.stderr == f"gloom: cannot listen for {role} on 127.0.0.1:{taken}: {IN_USE} {hint}\n"
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert_nobody_listens(other)


def test_a_taken_port_is_told_to_who_starts_a_daemon(tmp_path: Path) -> None:
    """Plain twistd gloom waits for the outcome: a reason, status 1, the same reason in the log, no process left."""
    other = free_port()
    with bound_port() as taken, end_of_all() as (inherited, wait):
        options = [f"--master-port={other}", f"--slave-port={taken}"]
        done = run([str(TWISTD), "gloom", *options], tmp_path, [inherited])
        wait()
    reason = f"cannot listen for slaves on 127.0.0.1:{taken}: {IN_USE}"
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    log = (tmp_path / "twistd.log").read_text()
    assert reason in log
    assert "Traceback" not in log
    assert not (tmp_path / "twistd.pid").exists()
    assert_nobody_listens(other)


@both_runners
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--retries=many"], "twistd gloom: --retries must be a whole number, got 'many' (see twistd gloom --help)"),
        (["--bogus"], "twistd gloom: option --bogus not recognized (see twistd gloom --help)"),
        (
            ["--master-port=99999"],
            "twistd gloom: --master-port must be a port number or a Twisted endpoint description, "
            "got '99999': a port is 0 to 65535 (see twistd gloom --help)",
        ),
        (["--slave-port=unix:/absent/s.sock", "--master-port=0"], None),
        (["--interface=203.0.113.5"], None),
    ],
    ids=["number", "unknown", "port", "directory", "address"],
)
def test_a_wrong_option_is_one_line(runner: list[str], options: list[str], line: str | None, tmp_path: Path) -> None:
    """A bad value or a bad address: one line on standard error, status 1, no traceback."""
    done = run([*runner, "gloom", *options], tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert line is None or done.stderr == f"{line}\n"
    assert "Traceback" not in done.stdout + done.stderr


LATE = '''
"""An endpoint that turns out not to listen, once the reactor runs."""

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IStreamServerEndpoint)
class Late:
    def __init__(self, reactor):
        self.reactor = reactor

    def listen(self, factory):
        result = Deferred()
        error = CannotListenError("127.0.0.1", 1, "too late")
        self.reactor.callWhenRunning(self.reactor.callLater, 0, result.errback, error)
        return result


@implementer(IPlugin, IStreamServerEndpointStringParser)
class Parser:
    prefix = "late"

    def parseStreamServer(self, reactor, *arguments):
        return Late(reactor)


late = Parser()
'''


@both_runners
def test_listening_that_fails_late_ends_the_process_too(runner: list[str], tmp_path: Path) -> None:
    """If another package's endpoint fails after the start, the log has the reason, status is 1, and no port is left."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "late.py").write_text(LATE)
    other = free_port()
    command = [*runner, "gloom", f"--master-port={other}", "--slave-port=late:"]
    given = os.environ.get("PYTHONPATH")
    done = run(command, tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{given}" if given else str(tmp_path))
    assert done.returncode == 1
    assert "cannot listen for slaves on 127.0.0.1:1: too late" in done.stdout
    assert "is down" in done.stdout
    assert_nobody_listens(other)


# Running


def test_nothing_is_logged_per_job(daemon: Callable[..., Daemon]) -> None:
    """A hundred jobs, a refused request, and peers that connect and leave add no line to the log."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave, 100)
        assert master.ask({"action": "sing"})["error"] == "unknown_action"
    busy = len(_stopped(broker).lines)
    idle = len(_stopped(daemon()).lines)
    assert busy == idle


def _stopped(broker: Daemon) -> Daemon:
    broker.stop()
    return broker


def test_verbose_logs_what_is_refused(daemon: Callable[..., Daemon]) -> None:
    """With --verbose the log has each refused peer and the reason."""
    broker = daemon("--verbose")
    with Peer.tcp(broker.master_port) as master:
        address = "{}:{}".format(*master.socket.getsockname())
        master.ask({"action": "sing"})
    broker.stop()
    assert [line for line in broker.lines if f"{address}: unknown_action: " in line]


# Stopping


def test_sigterm_stops_cleanly_and_quickly_with_peers_connected(daemon: Callable[..., Daemon]) -> None:
    """On SIGTERM idle peers are disconnected, the status is 0, and the log has each step."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave)
        broker.process.send_signal(signal.SIGTERM)
        assert master.receive() is None
        master.close()
        assert slave.receive() is None
        slave.close()
        # Well below the time of a drain. The exact time is tested on a virtual clock.
        assert broker.process.wait(STOPPING_SECONDS) == 0
    broker.stop()
    log = "".join(broker.lines)
    assert "SIGTERM: stopping" in log
    assert "stopping: no more connections; 1 masters and 1 slaves are connected" in log
    assert "drained: no job was in hand" in log
    assert f"gloom {gloom.__version__} is down" in log
    assert "Traceback" not in log


def test_a_peer_that_neither_reads_nor_closes_does_not_hold_up_the_stop(daemon: Callable[..., Daemon]) -> None:
    """A connection that its peer leaves open is dropped after a while, far sooner than the limit of a drain."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master:
        master.ask({"action": "sing"})
        assert broker.stop() == 0


def test_the_ports_are_free_again_at_once(daemon: Callable[..., Daemon]) -> None:
    """A broker that was stopped with peers connected starts again on the same ports."""
    broker = daemon()
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave)
        broker.stop()
        broker.start_again()
    with Peer.tcp(broker.master_port) as master, Peer.tcp(broker.slave_port) as slave:
        do_jobs(master, slave)
