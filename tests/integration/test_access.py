"""TLS and access rules: brokers as processes, and every kind of client."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as untyped
from twisted.internet.threads import deferToThread

from gloom.client import blocking
from gloom.client.deferred import Master, Slave
from gloom.client.tls import ClientTLS
from gloom.errors import RequestRefused, TransportError
from gloom.server.access import hash_token
from tests.support.authority import Authority
from tests.support.commands import Ended, run_gloom, running_gloom
from tests.support.daemon import Daemon

reactor: Any = untyped
StartDaemon = Callable[..., Daemon]

pytestmark = pytest.mark.deferred_timeout(60)

TOKENS = {"shop": "the shop's token", "farm": "the farm's token"}
ACCESS = "".join(
    f'[[identity]]\nname = "{name}"\ntoken_sha256 = "{hash_token(TOKENS[name])}"\nroles = ["{role}"]\ntypes = {types}\n'
    for name, role, types in (("shop", "master", '["up", "down-*"]'), ("farm", "slave", '["*"]'))
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls_options(authority: Authority, *more: str) -> list[str]:
    certificate, key = authority.issue("broker.test", "server")
    return [f"--tls-cert={certificate}", f"--tls-key={key}", *more]


@pytest.fixture
def shut_in(daemon: StartDaemon, tmp_path: Path) -> Daemon:
    """A broker with access rules."""
    file = tmp_path / "access.toml"
    file.write_text(ACCESS)
    return daemon(f"--access={file}")


@asynccontextmanager
async def served(broker: Daemon, type: str = "up", **options: Any) -> AsyncIterator[Slave]:
    """Have a slave of *type* that answers in upper case."""
    slave = Slave(f"127.0.0.1:{broker.slave_port}", type, str.upper, reactor=reactor, **options)
    slave.startService()
    try:
        await slave.when_connected(attempts=1)
        yield slave
    finally:
        await slave.stopService()


async def answer(broker: Daemon, body: str, type: str = "up", **options: Any) -> Any:
    """Submit a job with a Deferred master, and return its answer."""
    master = Master(f"127.0.0.1:{broker.master_port}", reactor=reactor, **options)
    master.startService()
    try:
        await master.when_connected(attempts=1)
        return await master.submit(type, body)
    finally:
        await master.stopService()


def blocking_answer(broker: Daemon, body: str, **options: Any) -> Any:
    with blocking.Master(f"127.0.0.1:{broker.master_port}", timeout=10, **options) as master:
        master.submit(type="up", body=body, timeout=10)
        return master.receive(timeout=10).body


async def command(broker: Daemon, *arguments: str, type: str = "up", **options: Any) -> Ended:
    """Run `gloom submit`."""
    address = f"127.0.0.1:{broker.master_port}"
    ended: Ended = await deferToThread(run_gloom, "submit", type, "abc", "--master", address, *arguments, **options)
    return ended


# TLS


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
async def test_all_clients_speak_tls(daemon: StartDaemon, authority: Authority, mutual: bool) -> None:
    """Every client speaks TLS on both ports, and shows a certificate where the broker requires one."""
    broker = daemon(*tls_options(authority, *([f"--tls-client-ca={authority.file}"] if mutual else [])))
    shown: dict[str, Any] = {}
    options = [f"--tls-ca={authority.file}"]
    if mutual:
        certificate, key = authority.issue("client.test", "client")
        shown = {"certificate": certificate, "key": key}
        options += [f"--tls-cert={certificate}", f"--tls-key={key}"]
    tls = ClientTLS(ca=authority.file, **shown)
    async with served(broker, tls=tls):
        assert await answer(broker, "deferred", tls=tls) == "DEFERRED"
        large = "x" * 1_000_000
        assert await deferToThread(blocking_answer, broker, large, tls=tls) == large.upper()
        ended = await command(broker, *options)
        assert (ended.stdout, ended.stderr, ended.returncode) == ("ABC\n", "", 0)
    work = (
        "work",
        "--slave",
        f"127.0.0.1:{broker.slave_port}",
        "-c",
        "1",
        *options,
        "--type",
        "up",
        "--",
        "tr",
        "a-z",
        "A-Z",
    )
    with running_gloom(*work) as worker:
        assert await answer(broker, "by a worker", tls=tls) == "BY A WORKER"
        worker.send_signal(signal.SIGTERM)
        assert await deferToThread(worker.wait, 20) == 0

    def serve() -> None:
        with blocking.Slave(f"127.0.0.1:{broker.slave_port}", timeout=10, tls=tls) as slave:
            slave.join("up", timeout=10)
            slave.respond(slave.job(timeout=20).body[::-1], timeout=10)

    serving = deferToThread(serve)
    assert await answer(broker, "abc", tls=tls) == "cba"
    await serving


async def test_a_client_without_a_certificate_is_not_let_in(daemon: StartDaemon, authority: Authority) -> None:
    """With mutual TLS, each client reports in one line that a certificate is required."""
    broker = daemon(*tls_options(authority, f"--tls-client-ca={authority.file}"))
    tls = ClientTLS(ca=authority.file)
    with pytest.raises(TransportError, match="certificate required"):
        await answer(broker, "x", tls=tls)
    with pytest.raises(TransportError, match=r"(?i)certificate.required"):
        await deferToThread(blocking_answer, broker, "x", tls=tls)
    ended = await command(broker, f"--tls-ca={authority.file}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"gloom: cannot reach the broker at 127.0.0.1:{broker.master_port}: ")
    assert ended.stderr.endswith("before the broker said hello: TLS: tlsv13 alert certificate required\n")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_broker_that_is_another_is_not_spoken_to(
    daemon: StartDaemon, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """Each client refuses a stranger's certificate, and one for another name."""
    broker = daemon(*tls_options(authority))
    said = {"authority": "TLS: certificate verify failed", "name": "TLS: its certificate is for another name"}[wrong]
    if wrong == "authority":
        tls = ClientTLS(ca=Authority(tmp_path, "stranger").file)
    else:
        tls = ClientTLS(ca=authority.file, server_name="other.test")
    with pytest.raises(TransportError, match=said):
        await answer(broker, "x", tls=tls)
    with pytest.raises(TransportError, match=r"(?i)certificate"):
        await deferToThread(blocking_answer, broker, "x", tls=tls)
    options = [f"--tls-ca={tls.ca}", *([f"--tls-server-name={tls.server_name}"] if tls.server_name else [])]
    ended = await command(broker, *options)
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"{said}\n")
    assert ended.stderr.count("\n") == 1


async def test_the_name_to_expect_may_be_said(daemon: StartDaemon, authority: Authority) -> None:
    """A client may name the expected certificate, so that it can connect to an address that is not in it."""
    broker = daemon(*tls_options(authority))
    tls = ClientTLS(ca=authority.file, server_name="broker.test")
    async with served(broker, tls=tls):
        assert await answer(broker, "x", tls=tls) == "X"
        assert await deferToThread(blocking_answer, broker, "x", tls=tls) == "X"
        environment = os.environ | {"GLOOM_TLS_CA": str(authority.file)}
        ended = await command(broker, "--tls-server-name=broker.test", env=environment)
        assert (ended.stdout, ended.stderr) == ("ABC\n", "")


def handshake(broker: Daemon, authority: Authority, newest: ssl.TLSVersion) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=authority.file)
    context.maximum_version = newest
    sock = socket.create_connection(("127.0.0.1", broker.master_port), 10)
    return context.wrap_socket(sock, server_hostname="broker.test")


def test_tls_1_2_is_refused(daemon: StartDaemon, authority: Authority) -> None:
    """A client without TLS 1.3 is refused in the handshake."""
    broker = daemon(*tls_options(authority))
    with pytest.raises(ssl.SSLError):
        handshake(broker, authority, ssl.TLSVersion.TLSv1_2)
    with handshake(broker, authority, ssl.TLSVersion.TLSv1_3) as sock:
        assert sock.version() == "TLSv1.3"


def certificate_names(broker: Daemon, authority: Authority) -> list[str]:
    context = ssl.create_default_context(cafile=authority.file)
    plain = socket.create_connection(("127.0.0.1", broker.master_port), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        shown: Any = sock.getpeercert()
        return [value for _, value in shown["subjectAltName"]]


def test_sighup_serves_the_new_certificate(daemon: StartDaemon, authority: Authority) -> None:
    """After SIGHUP new connections see the new certificate, without a restart."""
    broker = daemon(*tls_options(authority))
    assert "broker.test" in certificate_names(broker, authority)
    authority.issue("new.test", "server")
    os.kill(broker.pid, signal.SIGHUP)
    limit = time.monotonic() + 10
    while "new.test" not in certificate_names(broker, authority):
        assert time.monotonic() < limit
    assert broker.running


# Access rules


async def test_those_who_have_a_token_are_let_in(shut_in: Daemon, tmp_path: Path) -> None:
    """Each client may present a token; the command line takes it from a file or the environment."""
    file = tmp_path / "token"
    file.write_text(TOKENS["shop"] + "\n")
    environment = os.environ | {"GLOOM_TOKEN": TOKENS["shop"]}
    async with served(shut_in, token=TOKENS["farm"]):
        assert await answer(shut_in, "x", token=TOKENS["shop"]) == "X"
        assert await deferToThread(blocking_answer, shut_in, "x", token=TOKENS["shop"]) == "X"
        assert (await command(shut_in, f"--token-file={file}")).stdout == "ABC\n"
        assert (await command(shut_in, env=environment)).stdout == "ABC\n"


@pytest.mark.parametrize(
    ("token", "complaint"),
    [
        (None, "unauthorized -> hello needs a token here, or a client certificate that is known"),
        ("a wrong one", "unauthorized -> the token is not known here"),
        (TOKENS["farm"], "forbidden -> farm may not be a master"),
    ],
)
async def test_who_is_not_let_in_hears_why(shut_in: Daemon, token: str | None, complaint: str) -> None:
    """A refused client reports the reason in one line. Neither that line nor the broker's log shows the token."""
    with pytest.raises(TransportError) as raised:
        await answer(shut_in, "x", token=token)
    assert str(raised.value) == complaint
    assert isinstance(raised.value.__cause__, RequestRefused)
    with pytest.raises(RequestRefused) as refused:
        await deferToThread(blocking_answer, shut_in, "x", token=token)
    assert str(refused.value) == complaint
    ended = await command(shut_in, env=os.environ | ({} if token is None else {"GLOOM_TOKEN": token}))
    assert ended.stderr == f"gloom: the broker at 127.0.0.1:{shut_in.master_port} refuses: {complaint}\n"
    assert ended.returncode == 1
    shut_in.stop()
    assert token is None or token not in "".join(shut_in.lines)


async def test_types_are_for_those_who_may_have_them(shut_in: Daemon) -> None:
    """A job of a type that no pattern matches is refused, and the connection goes on."""
    async with served(shut_in, "down-stairs", token=TOKENS["farm"]):
        assert await answer(shut_in, "x", "down-stairs", token=TOKENS["shop"]) == "X"
        with pytest.raises(RequestRefused, match="shop may not have jobs of the type sideways"):
            await answer(shut_in, "x", "sideways", token=TOKENS["shop"])


async def test_a_slave_that_is_not_let_in_comes_back_when_it_is(shut_in: Daemon, tmp_path: Path) -> None:
    """A refused slave retries, since the operator may add its token to the file."""
    worker = Slave(f"127.0.0.1:{shut_in.slave_port}", "up", str.upper, reactor=reactor, token="new")
    worker.startService()
    with pytest.raises(TransportError, match="the token is not known here"):
        await worker.when_connected(attempts=1)
    access = ACCESS.replace(hash_token(TOKENS["farm"]), hash_token("new"))
    (tmp_path / "access.toml").write_text(access)
    os.kill(shut_in.pid, signal.SIGHUP)
    await worker.when_connected()
    await worker.stopService()


def test_a_client_of_2009_is_told_that_it_needs_a_token(shut_in: Daemon) -> None:
    """A client of 2009 sends no hello: its first request is answered unauthorized, and the connection closed."""
    with socket.create_connection(("127.0.0.1", shut_in.master_port), 10) as sock:
        payload = b'{"action":"submit","id":1,"type":"up","body":1}'
        sock.sendall(len(payload).to_bytes(4, "big") + payload)
        said = b""
        while data := sock.recv(4096):
            said += data
        assert b'"error":"unauthorized"' in said


async def test_a_certificate_says_who_one_is(daemon: StartDaemon, authority: Authority, tmp_path: Path) -> None:
    """With mutual TLS an identity may be a name on a certificate, without a token."""
    file = tmp_path / "access.toml"
    file.write_text(
        '[[identity]]\nname = "all"\ncertificate = "client.test"\nroles = ["master", "slave"]\ntypes = ["*"]\n'
    )
    broker = daemon(*tls_options(authority, f"--tls-client-ca={authority.file}", f"--access={file}"))
    certificate, key = authority.issue("client.test", "client")
    tls = ClientTLS(ca=authority.file, certificate=certificate, key=key)
    other, other_key = authority.issue("other.test", "other")
    async with served(broker, tls=tls):
        assert await answer(broker, "x", tls=tls) == "X"
        with pytest.raises(TransportError, match="unauthorized"):
            await answer(broker, "x", tls=ClientTLS(ca=authority.file, certificate=other, key=other_key))
