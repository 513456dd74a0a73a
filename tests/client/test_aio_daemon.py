"""asyncio clients and a broker that is killed, drains, asks for tokens or speaks TLS."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gloom.client.aio import ClientTLS, Master, Slave
from gloom.errors import RequestRefused, TransportError
from tests.support.aio import echo, master, run, slave, until
from tests.support.authority import Authority
from tests.support.daemon import Daemon

ACCESS = """
[[identity]]
name = "shop"
token_sha256 = "{shop}"
roles = ["master"]
types = ["up"]

[[identity]]
name = "farm"
token_sha256 = "{farm}"
roles = ["slave"]
types = ["*"]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start brokers with options."""
    started = list[Daemon]()

    def start(*options: str) -> Daemon:
        one = Daemon(tmp_path)
        started.append(one)
        return one.start(*options)

    yield start
    for one in started:
        if one.running:
            one.kill()


def test_a_broker_that_is_killed_costs_time_and_no_answer(daemon: Callable[..., Daemon]) -> None:
    """The master submits again, the slave joins again, and every job of a map is answered once."""
    broker = daemon()

    async def main() -> None:
        async def slow(n: int) -> int:
            await asyncio.sleep(0.005)
            return n

        async with slave(broker, "slow", slow, slots=5), master(broker) as one:
            seen = list[int]()
            async for answer in one.map("slow", range(200), window=20):
                seen.append(answer.result())
                if len(seen) in (30, 100):
                    await asyncio.to_thread(broker.kill)
                    await asyncio.to_thread(broker.start_again)
            assert sorted(seen) == list(range(200))

    run(main(), 60)


def test_a_broker_that_drains_costs_time_and_no_answer(daemon: Callable[..., Daemon]) -> None:
    """Its jobs in hand are finished, and the waiting ones go to the next broker."""
    broker = daemon()

    async def main() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()
        runs = list[str]()

        async def wait(body: str) -> str:
            runs.append(body)
            began.set()
            await go_on.wait()
            return body

        async with slave(broker, "wait", wait), master(broker) as one:
            in_hand = asyncio.create_task(one.submit("wait", "in hand"))
            await began.wait()
            waiting = asyncio.create_task(one.submit("wait", "waiting"))
            await until(lambda: one.unanswered == 2)
            stopping = asyncio.create_task(asyncio.to_thread(broker.stop))
            await asyncio.sleep(0.2)
            go_on.set()
            assert await in_hand == "in hand"
            await stopping
            await asyncio.to_thread(broker.start_again)
            assert await waiting == "waiting"
            assert runs == ["in hand", "waiting"]

    run(main(), 60)


def test_a_second_broker_takes_over(daemon: Callable[..., Daemon]) -> None:
    """Where the first one of the addresses is gone."""
    first, second = daemon(), daemon()

    async def main() -> None:
        masters = f"127.0.0.1:{first.master_port},127.0.0.1:{second.master_port}"
        slaves = f"127.0.0.1:{first.slave_port},127.0.0.1:{second.slave_port}"
        async with Slave(slaves, "echo", echo), Master(masters) as one:
            assert await one.submit("echo", 1) == 1
            await asyncio.to_thread(first.kill)
            assert await one.submit("echo", 2) == 2

    run(main())


def test_the_times_of_a_program_do_not_depend_on_the_first_connection(daemon: Callable[..., Daemon]) -> None:
    """Calls may come before the broker does."""
    broker = daemon()
    broker.kill()

    async def main() -> None:
        async with slave(broker, "echo", echo), master(broker) as one:
            call = asyncio.create_task(one.submit("echo", 1))
            with pytest.raises(TransportError, match="Connection refused"):
                await one.when_connected(attempts=1)
            await asyncio.to_thread(broker.start_again)
            assert await call == 1

    run(main())


def test_tokens_tell_who_may_do_what(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A wrong one is refused at the connection, a type at the call."""
    access = tmp_path / "access.toml"
    hashes = {name: hashlib.sha256(f"{name}-token".encode()).hexdigest() for name in ("shop", "farm")}
    access.write_text(ACCESS.format(**hashes))
    broker = daemon(f"--access={access}")

    async def main() -> None:
        for token in (None, "shop-tokem", "farm-token"):
            async with master(broker, token=token) as one:
                with pytest.raises(TransportError) as raised:
                    await one.when_connected(attempts=1)
                cause: Any = raised.value.__cause__
                assert isinstance(cause, RequestRefused)
                assert cause.error == ("forbidden" if token == "farm-token" else "unauthorized")
                assert "token-" not in str(cause)
        async with slave(broker, "up", echo, token="farm-token"), master(broker, token="shop-token") as one:
            assert await one.submit("up", 1) == 1
            with pytest.raises(RequestRefused, match="forbidden"):
                await one.submit("down", 1)

    run(main())


def test_tls_in_every_combination(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Jobs go over TLS; a client that does not fit says why."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("broker", "broker")
    mine = authority.issue("client", "client")
    broker = daemon(f"--tls-cert={certificate}", f"--tls-key={key}", f"--tls-client-ca={authority.file}")
    plain = daemon()
    good = ClientTLS(ca=authority.file, certificate=mine[0], key=mine[1])
    wrong = [
        (broker, ClientTLS(ca=other.file, certificate=mine[0], key=mine[1]), "TLS: self-signed|TLS: unable to get"),
        (broker, ClientTLS(ca=authority.file, server_name="x", certificate=mine[0], key=mine[1]), "TLS: Hostname mism"),
        (broker, ClientTLS(ca=authority.file), "TLS: .*certificate required"),
        (broker, None, "perhaps the broker speaks TLS, and this client does not"),
        (plain, good, "TLS: "),
    ]

    async def main() -> None:
        large = "x" * (3 << 20)
        async with slave(broker, "echo", echo, tls=good), master(broker, tls=good) as one:
            assert await one.submit("echo", large) == large
            assert [answer.index async for answer in one.map("echo", range(100), ordered=True)] == list(range(100))
        for daemon_, tls, words in wrong:
            async with master(daemon_, tls=tls) as one:
                with pytest.raises(TransportError, match=words):
                    await one.when_connected(attempts=1)

    run(main())
