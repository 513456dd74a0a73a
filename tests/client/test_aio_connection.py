"""The connections of asyncio clients, and a broker whose words the test chooses; each in real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import gloom.client.aio.connection as connection_module
import gloom.client.aio.link as link_module
from gloom.client import backoff
from gloom.client.aio import ClientTLS, Master
from gloom.client.aio.address import places_of
from gloom.client.backoff import retry_delay_seconds
from gloom.errors import BodyError, JobFailed, ProtocolError, RequestRefused, SettingsError, TransportError
from gloom.wire.escapes import printable
from tests.support.aio import OK, WELCOME, Scripted, run, scripted, until
from tests.support.brokers import framed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again without long delays."""
    monkeypatch.setattr(backoff, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(backoff, "_LONGEST_DELAY_SECONDS", 0.002)


def test_no_twisted_is_imported() -> None:
    """Neither by the package nor by what it imports, also when it has connected and spoken TLS."""
    program = (
        "import asyncio, sys, gloom.client.aio as aio\n"
        "async def main():\n"
        "    async with aio.Master('127.0.0.1:1', tls=aio.ClientTLS()) as master:\n"
        "        try: await master.when_connected(attempts=1)\n"
        "        except Exception as error: print(error)\n"
        "    async with aio.Slave('127.0.0.1:1', 'a', print): pass\n"
        "asyncio.run(main())\n"
        "print(sorted(name for name in sys.modules if name.startswith(('twisted', 'zope.interface', 'OpenSSL'))))\n"
    )
    printed = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, check=True, text=True)
    assert printed.stdout == "cannot connect to 127.0.0.1:1: Connection refused\n[]\n"


# Addresses


def test_an_address_may_be_several() -> None:
    """With commas, in any of the three forms."""
    one, two, three = places_of("localhost:1, [::1]:2,unix:/run/gloom.sock")
    assert (one.host, one.port, two.host, two.port, three.path) == ("localhost", 1, "::1", 2, "/run/gloom.sock")


def test_an_unknown_name_is_a_failed_attempt() -> None:
    """It may be known later."""

    async def main() -> None:
        async with Master("no-such-host.invalid:9998") as one:
            with pytest.raises(TransportError, match=r"cannot connect to no-such-host.invalid:9998: "):
                await one.when_connected(attempts=1)

    run(main())


def test_a_name_that_cannot_be_a_host_is_a_failed_attempt() -> None:
    """Not the end of the client."""

    async def main() -> None:
        async with Master(f"{'x' * 70}.invalid:9998") as one:
            with pytest.raises(TransportError, match="cannot connect"):
                await one.when_connected(attempts=2)

    run(main())


def test_tls_at_a_unix_socket_needs_a_name() -> None:
    """Else any certificate would do; and wrong files are named by the constructor."""
    with pytest.raises(ValueError, match="needs server_name"):
        Master("unix:/run/x", tls=ClientTLS())
    with pytest.raises(SettingsError, match="tls ca: cannot read /no/such"):
        Master("localhost:1", tls=ClientTLS(ca="/no/such"))


@pytest.mark.parametrize("alive", [0, 1])
def test_the_next_address_is_tried_at_once(alive: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a delay, at the start and when a connection has ended."""
    monkeypatch.setattr(backoff, "_FIRST_DELAY_SECONDS", 1000.0)
    monkeypatch.setattr(backoff, "_LONGEST_DELAY_SECONDS", 1000.0)
    monkeypatch.setattr(link_module, "_SHORT_SECONDS", 0.0)

    async def main() -> None:
        async with scripted() as first, scripted() as second:
            addresses = ["127.0.0.1:1", "127.0.0.1:1"]
            addresses[alive] = first.address
            async with Master(f"{','.join(addresses)},{second.address}") as one:
                call = asyncio.create_task(one.submit("a", 1, id="x"))
                far = await first.welcomed()
                assert "attach" not in await far.hears()
                far.says(OK)
                far.drop()
                far = await second.welcomed()
                assert (await far.hears())["attach"] is True
                far.says(OK, {"id": "x", "body": 2})
                assert await call == 2

    run(main())


def test_a_round_of_failures_counts_once() -> None:
    """An attempt is one of all addresses."""

    async def main() -> None:
        async with Master("127.0.0.1:1,127.0.0.1:2") as one:
            with pytest.raises(TransportError, match=r"cannot connect to 127.0.0.1:2: Connection refused"):
                await one.when_connected(attempts=1)

    run(main())


# Welcome


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 1213486160 bytes came, 65536 are allowed: is it a broker?"),
        (b"\x00\x00\x00\x02hi", "the broker sent what is not a message"),
        (b"\x00\x00\x00\x02{}", "a reply must have ok or error"),
        (b"", "the connection ended before the broker said hello: the broker closed it; perhaps the broker speaks TLS"),
    ],
)
def test_what_is_no_broker_is_left_at_once(data: bytes, words: str) -> None:
    """With words for it."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            waiting = asyncio.create_task(one.when_connected(attempts=1))
            far = await broker.connection()
            await far.hears()
            far.writer.write(data)
            far.close()
            with pytest.raises(TransportError) as raised:
                await waiting
            assert words in str(raised.value)

    run(main())


def test_a_refused_hello_is_the_cause() -> None:
    """A program may look at the code."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            waiting = asyncio.create_task(one.when_connected(attempts=1))
            far = await broker.connection()
            far.says({"error": "unauthorized", "reason": "the token is not known here"})
            with pytest.raises(TransportError, match="unauthorized -> the token is not known here") as raised:
                await waiting
            assert isinstance(raised.value.__cause__, RequestRefused)

    run(main())


def test_a_broker_that_never_answers_hello_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten seconds; here sooner."""
    monkeypatch.setattr(connection_module, "_HELLO_SECONDS", 0.1)

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            with pytest.raises(TransportError, match=r"the broker did not answer hello within 0.1 s"):
                await one.when_connected(attempts=1)

    run(main())


def test_after_a_long_turn_the_socket_is_read_before_hello_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The welcome was there in time."""
    monkeypatch.setattr(connection_module, "_HELLO_SECONDS", 0.1)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with Master(f"127.0.0.1:{listener.getsockname()[1]}") as one:
                await asyncio.sleep(0.02)
                far, _ = listener.accept()
                payload = b'{"ok":true,"version":1,"max_frame":1024}'
                far.sendall(len(payload).to_bytes(4, "big") + payload)
                # The loop stands still, as after SIGSTOP.
                time.sleep(0.2)
                await one.when_connected(attempts=1)
                far.close()

    run(main())


def test_hello_says_who_and_how() -> None:
    """Receipts only where they are asked for."""

    async def main() -> None:
        async with scripted() as broker:
            for receipts, kinds in ((False, ["progress", "quiet"]), (True, ["progress", "quiet", "receipt"])):
                async with Master(broker.address, name="me", heartbeat_seconds=9, token="t", receipts=receipts):
                    hello = await (await broker.connection()).welcomes()
                    assert hello["accept"] == kinds
                    assert (hello["name"], hello["heartbeat"], hello["token"]) == ("me", 9.0, "t")

    run(main())


# Reconnecting


def test_delays_grow_to_a_bound_and_are_jittered() -> None:
    """As those of the Deferred client."""
    delays = [[retry_delay_seconds(failures) for _ in range(100)] for failures in (0, 5, 10_000)]
    assert all(0.05 <= delay <= 0.1 for delay in delays[0])
    assert all(7.5 <= delay <= 15 for delay in delays[2])
    assert len({*delays[1]}) > 90


@pytest.mark.usefixtures("quick")
def test_what_is_unanswered_goes_out_again_in_order() -> None:
    """With attach where a broker may have it; what was cancelled does not."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            calls = [asyncio.create_task(one.submit("a", n, id=n)) for n in range(3)]
            far = await broker.welcomed()
            assert [(await far.hears())["id"] for _ in range(3)] == [0, 1, 2]
            far.says(OK, {"id": 0, "body": "first"})
            assert await calls[0] == "first"
            calls[1].cancel()
            assert await far.hears() == {"action": "cancel", "id": 1}
            far.drop()
            await until(lambda: one.connection is None)
            fresh = asyncio.create_task(one.submit("a", 3, id=3))
            far = await broker.welcomed()
            told = [await far.hears() for _ in range(2)]
            assert [(message["id"], message.get("attach", False)) for message in told] == [(2, True), (3, False)]
            far.says(OK, OK, {"id": 2, "body": "third"}, {"id": 3, "body": "fourth"})
            assert [await calls[2], await fresh] == ["third", "fourth"]

    run(main())


@pytest.mark.usefixtures("quick")
def test_what_a_draining_broker_gives_up_goes_to_the_next() -> None:
    """Refused and ended jobs both; without attach, since no broker has them."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            calls = [asyncio.create_task(one.submit("a", n, id=n)) for n in range(2)]
            far = await broker.welcomed()
            for _ in calls:
                await far.hears()
            far.says(OK, {"action": "quiet"}, {"id": 0, "error": "draining", "reason": "shutting down"})
            far.says({"error": "draining", "reason": "shutting down"})
            far.close()
            far = await broker.welcomed()
            told = [await far.hears() for _ in range(2)]
            assert [(message["id"], message.get("attach", False)) for message in told] == [(0, False), (1, False)]
            far.says(OK, OK, {"id": 0, "body": 0}, {"id": 1, "body": 1})
            assert await asyncio.gather(*calls) == [0, 1]

    run(main())


@pytest.mark.usefixtures("quick")
def test_a_job_is_given_up_after_four_unreadable_messages(caplog: pytest.LogCaptureFixture) -> None:
    """Each ends its connection; the series is logged once."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            call = asyncio.create_task(one.submit("a", 1, id="x"))
            for _ in range(4):
                far = await broker.welcomed()
                await far.hears()
                far.says(OK, b'{"body":')
            with pytest.raises(ProtocolError, match="job 'x': given up, because the broker sent what is not"):
                await call

    run(main())
    assert caplog.text.count("cannot read a message of the broker") == 1


def test_an_answer_that_cannot_be_read_fails_its_job_only() -> None:
    """The next one arrives; unknown kinds of message are ignored."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            calls = [asyncio.create_task(one.submit("a", n, id=n)) for n in range(3)]
            far = await broker.welcomed()
            for _ in calls:
                await far.hears()
            far.says(OK, OK, OK, {"action": "sing"}, {"id": 77, "body": 1})
            far.says(b'{"id":0,"body":%s}' % (b"9" * 5000), b'{"id":1,"error":5}', {"id": 2, "body": 3})
            for call in calls[:2]:
                with pytest.raises(BodyError):
                    await call
            assert await calls[2] == 3

    run(main())


def test_the_id_of_a_cancelled_job_waits_for_the_broker() -> None:
    """The crossed outcome is the old job's; the new job goes out when the broker has answered the cancel."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            old = asyncio.create_task(one.submit("a", "old", id="x"))
            far = await broker.welcomed()
            assert (await far.hears())["body"] == "old"
            far.says(OK)
            old.cancel()
            assert (await far.hears())["action"] == "cancel"
            new = asyncio.create_task(one.submit("a", "new", id="x"))
            await until(lambda: one.unanswered == 1)
            far.says({"id": "x", "body": "old answer"}, {"error": "unknown_job", "reason": "x"})
            assert (await far.hears())["body"] == "new"
            far.says(OK, {"id": "x", "body": "new answer"})
            assert await new == "new answer"
            # Cancelled in time: the outcome follows the reply.
            third = asyncio.create_task(one.submit("a", "third", id="x"))
            await far.hears()
            far.says(OK)
            third.cancel()
            assert (await far.hears())["action"] == "cancel"
            fourth = asyncio.create_task(one.submit("a", "fourth", id="x"))
            far.says(OK | {"state": "cancelled"}, {"id": "x", "error": "cancelled", "reason": ""})
            assert (await far.hears())["body"] == "fourth"
            far.says(OK, {"id": "x", "error": "expired", "reason": "late"})
            with pytest.raises(JobFailed, match="late"):
                await fourth

    run(main())


# Heartbeat


def test_pings_go_out_and_a_silent_broker_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """At a third of the heartbeat; after twice of it the connection ends."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address):
            far = await broker.welcomed(heartbeat=0.15)
            for _ in range(8):
                assert await far.hears() == {"action": "ping"}
                far.says(OK)
            await far.ends()
            await broker.connection()

    run(main())
    assert "the connection to the broker is dropped: it was silent for 0.3 s" in caplog.text


@pytest.mark.parametrize("agreed", [0.0, -1.0])
def test_no_heartbeat_no_pings(agreed: float) -> None:
    """Where the broker agrees on none."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address, heartbeat_seconds=0.01) as one:
            far = await broker.welcomed(heartbeat=agreed)
            await one.when_connected()
            await asyncio.sleep(0.05)
            call = asyncio.create_task(one.submit("a", 1, id="x"))
            assert (await far.hears())["action"] == "submit"
            far.says(OK, {"id": "x", "body": 1})
            await call

    run(main())


# Stopping


@pytest.mark.parametrize("when", ["connecting", "greeting", "connected", "pausing"])
def test_a_client_stops_at_once_in_every_state(when: str) -> None:
    """Nothing is left running, and waits fail; it may be started again."""

    async def main() -> None:
        async with scripted() as broker:
            one = Master("127.0.0.1:1" if when == "pausing" else broker.address)
            for _ in range(2):
                one.start()
                waiting = asyncio.create_task(one.when_connected())
                if when == "connected":
                    await broker.welcomed()
                    await waiting
                elif when == "greeting":
                    await broker.connection()
                elif when == "pausing":
                    with pytest.raises(TransportError):
                        await one.when_connected(attempts=1)
                else:
                    await asyncio.sleep(0)
                await one.stop()
                if when != "connected":
                    with pytest.raises(TransportError, match="this master was stopped"):
                        await waiting

    run(main())


def test_a_start_during_a_stop_is_a_mistake() -> None:
    """It says so."""

    async def main() -> None:
        async with scripted() as broker:
            one = Master(broker.address)
            one.start()
            await broker.welcomed()
            await one.when_connected()
            stopping = asyncio.create_task(one.stop())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="cannot be started now: winds down"):
                one.start()
            await stopping

    run(main())


def test_a_wait_may_be_given_up() -> None:
    """By a timeout; the client goes on."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await one.when_connected()
            await broker.welcomed()
            await one.when_connected()
            with pytest.raises(ValueError, match="attempts must be 1 or more, got 0"):
                await one.when_connected(attempts=0)

    run(main())


def test_an_error_of_the_client_itself_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is logged, and calls fail."""

    def bug(self: Any, connection: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Master, "connected", bug)

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            call = asyncio.create_task(one.submit("a", 1))
            await broker.welcomed()
            with pytest.raises(TransportError, match="was stopped before the answer came"):
                await call

    run(main())
    assert "ZeroDivisionError" in caplog.text


# Bytes


def test_a_full_transport_holds_jobs_back() -> None:
    """What is not sent yet stays a job: it can be cancelled without a word to the broker."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            far = await broker.welcomed(max_frame=1 << 26)
            await one.when_connected()
            assert one.connection is not None
            far.writer.transport.pause_reading()  # type: ignore[attr-defined]
            large = [asyncio.create_task(one.submit("a", "x" * (4 << 20), id=n)) for n in range(4)]
            await until(lambda: one.unanswered == 4)
            assert one.connection.is_full
            await asyncio.sleep(0.05)
            large[3].cancel()
            await asyncio.sleep(0)
            later = one.submit_many("a", ["small", "smaller"])
            far.writer.transport.resume_reading()  # type: ignore[attr-defined]
            heard = [await far.hears() for _ in range(5)]
            assert [len(message["body"]) for message in heard] == [4 << 20] * 3 + [5, 7]
            far.says(*[OK] * 5, *({"id": message["id"], "body": 1} for message in heard))
            assert await asyncio.gather(*large[:3], *later) == [1] * 5

    run(main())


def test_frames_come_in_any_pieces() -> None:
    """One byte at a time, and many in one piece."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            call = asyncio.create_task(one.submit("a", 1, id="x"))
            far = await broker.connection()
            await far.hears()
            for byte in framed(WELCOME):
                far.writer.write(bytes([byte]))
                await far.writer.drain()
                await asyncio.sleep(0)
            await far.hears()
            for byte in framed(OK, {"id": "x", "body": "y" * 100}):
                far.writer.write(bytes([byte]))
                await far.writer.drain()
                await asyncio.sleep(0)
            assert await call == "y" * 100

    run(main())


def test_what_is_asked_in_one_turn_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do the jobs of the tasks that an answer wakes."""

    async def main() -> None:
        async with scripted() as broker, Master(broker.address) as one:
            far = await broker.welcomed()
            await one.when_connected()
            connection: Any = one.connection
            writes = list[bytes]()
            write = connection._transport.write

            class Counting:
                def __getattr__(self, name: str) -> Any:
                    return getattr(transport, name)

                def write(self, data: bytes) -> None:
                    writes.append(data)
                    write(data)

            transport, connection._transport = connection._transport, Counting()

            async def twice(n: int) -> None:
                await one.submit("a", n)
                await one.submit("a", n)

            calls = asyncio.gather(*(twice(n) for n in range(10)))
            for _ in range(2):
                heard = [await far.hears() for _ in range(10)]
                far.says(*[OK] * 10, *({"id": message["id"], "body": 1} for message in heard))
            await calls
            assert len(writes) == 2

    run(main())


def test_no_peer_forges_a_line_of_the_log() -> None:
    """Characters that print nothing are escaped."""
    assert printable("a\nb\x1b") == "a\\nb\\x1b"
    assert printable("plain") == "plain"


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    """The file is named after ``unix:``."""

    async def main() -> None:
        broker = Scripted()
        server = await asyncio.start_unix_server(broker.accepted, tmp_path / "masters.sock")
        async with Master(f"unix:{tmp_path}/masters.sock") as one:
            call = asyncio.create_task(one.submit("a", 1, id="x"))
            far = await broker.welcomed()
            await far.hears()
            far.says(OK, {"id": "x", "body": 2})
            assert await call == 2
        far.drop()
        server.close()
        async with Master(f"unix:{tmp_path}/none.sock") as one:
            with pytest.raises(TransportError, match=r"none.sock: No such file or directory"):
                await one.when_connected(attempts=1)

    run(main())
