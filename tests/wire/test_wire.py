"""The blocking client's socket: its address, bytes in any pieces, time limits, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic
from types import FrameType
from typing import Any

import pytest

from gloom.client.blocking import (
    Master,
    ProtocolError,
    RequestRefused,
    Slave,
    TimedOut,
    TransportError,
)
from gloom.client.blocking.address import parse_address
from gloom.client.blocking.connection import Connection
from gloom.client.blocking.wire import Wire
from gloom.wire.messages import PROTOCOL_VERSION, Hello
from tests.support.brokers import OK, Scripted, framed, greeted


@pytest.fixture
def broker() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.close()


# Where the broker is


def test_a_broker_is_found_by_host_and_port() -> None:
    """A tuple or a host:port string connects, with small messages sent at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for addr in (("127.0.0.1", port), f"127.0.0.1:{port}"):
            with Connection(addr):
                accepted, _ = server.accept()
                accepted.close()
        near = socket.create_connection(("127.0.0.1", port))
        with Master(near):
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_the_ports_of_2009_are_the_defaults() -> None:
    """Without an address a master and a slave look for the broker on this host."""
    assert Master.__init__.__defaults__ == (("127.0.0.1", 9998), None)
    assert Slave.__init__.__defaults__ == (("127.0.0.1", 9999), None)


@pytest.mark.parametrize(
    ("text", "address"),
    [("farm.example:9998", ("farm.example", 9998)), ("[::1]:0", ("::1", 0)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    """Names, IPv4 and bracketed IPv6 addresses are understood."""
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", ":9998", "::1:9998", "[]:9998", "host:x", "host:65536"])
def test_what_is_no_address_is_refused_by_its_text(text: str) -> None:
    """A string that names no host and port is an error that shows it."""
    with pytest.raises(ValueError, match=re.escape(f"must be host:port or [host]:port, got {text!r}")):
        Connection(text)


@pytest.mark.parametrize("addr", [None, 9998, ["127.0.0.1", 9998], b"127.0.0.1:9998"])
def test_an_address_of_another_class_is_refused_by_its_name(addr: Any) -> None:
    """Anything but a tuple, a string, a socket or a connection is a TypeError that names its class."""
    with pytest.raises(TypeError, match=f"got {type(addr).__name__}$"):
        Master(addr)


def test_a_broker_that_is_not_there_is_named() -> None:
    """A refused connection says which address, and why."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransportError, match=f"^cannot connect to 127.0.0.1:{port}: Connection refused$"):
        Master(("127.0.0.1", port))


def test_an_ipv6_address_is_named_in_brackets() -> None:
    """An error about an IPv6 address shows it as it would be typed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransportError, match=re.escape(f"cannot connect to [::1]:{port}: ")):
        Master(f"[::1]:{port}")


def test_connecting_ends_after_its_timeout() -> None:
    """A host that does not answer is given up in time, and the error says after how long."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        # The backlog is full after these: the next one hears nothing.
        queued = [socket.socket() for _ in range(4)]
        try:
            for sock in queued:
                sock.setblocking(False)
                sock.connect_ex(address)
            with pytest.raises(TimedOut, match=r"no answer within 0.05 s$"):
                Master(address, timeout=0.05)
        finally:
            for sock in queued:
                sock.close()


def test_a_socket_is_taken_as_it_is(broker: Scripted) -> None:
    """A connected socket serves, whatever timeout it had."""
    broker.near.settimeout(0.001)
    master = Master(broker.near)
    assert broker.near.gettimeout() is None
    broker.says(OK, OK)
    assert master.submit("a") == "a"


def test_connections_may_share_a_socket(broker: Scripted) -> None:
    """A connection made from another one goes on where that one is, and says no second hello."""
    first = greeted(broker)
    broker.says({"id": "first", "body": 1}, OK)
    second = Master(first)
    second.submit("b")
    assert [message["action"] for message in broker.heard()] == ["submit"]
    assert second.receive().id == "first"


# Ending


def test_disconnecting_ends_a_connection_for_good(broker: Scripted) -> None:
    """After disconnect, close or a with block, the broker sees the end, and later calls name the cause."""
    with Master(broker.near) as master:
        master.close()
        master.disconnect()
    assert broker.far.recv(1) == b""
    with pytest.raises(TransportError, match="closed by this program"):
        master.submit()
    with pytest.raises(TransportError, match="closed by this program"):
        master.receive()


def test_a_broker_that_closes_is_a_transport_error(broker: Scripted) -> None:
    """When the broker closes, the waiting call and later calls raise a transport error."""
    master = greeted(broker)
    broker.far.close()
    for _ in range(2):
        with pytest.raises(TransportError, match=r"^the broker closed the connection$"):
            master.receive()


def test_what_came_before_the_end_is_still_received(broker: Scripted) -> None:
    """An outcome that the broker sent before it closed is not lost."""
    master = greeted(broker)
    broker.says({"id": "first", "body": 1})
    broker.far.close()
    assert master.receive() == {"id": "first", "body": 1}
    with pytest.raises(TransportError):
        master.receive()


def test_an_end_in_the_middle_of_a_frame_says_so(broker: Scripted) -> None:
    """A message that was cut off shows how much of it came."""
    master = greeted(broker)
    broker.far.sendall(framed({"id": "first", "body": "x" * 100})[:50])
    broker.far.close()
    with pytest.raises(TransportError, match="closed the connection in the middle of a frame, after 50 of 131 bytes"):
        master.receive()


def test_a_connection_that_is_reset_is_a_transport_error() -> None:
    """A broker that vanishes without a goodbye is an error with the system's words."""
    with socket.create_server(("127.0.0.1", 0)) as server, Slave(server.getsockname()) as slave:
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        with pytest.raises(TransportError, match="is lost: Connection reset by peer"):
            slave.job()


def test_a_socket_that_was_closed_elsewhere_is_a_transport_error(broker: Scripted) -> None:
    """A socket that the program itself has closed cannot be sent to."""
    master = Master(broker.near)
    broker.near.close()
    with pytest.raises(TransportError, match="is lost: Bad file descriptor"):
        master.submit()


def test_the_last_words_of_a_broker_that_has_closed_are_heard(broker: Scripted) -> None:
    """An error that the broker sent before it closed is raised, though the request could not be sent."""
    master = Master(broker.near)
    broker.says(OK, {"error": "size_error", "reason": "a frame of 70000 bytes is over the limit"})
    broker.far.close()
    with pytest.raises(RequestRefused, match="size_error -> a frame of 70000 bytes"):
        master.submit("a", body="x" * 70_000)
    with pytest.raises(TransportError, match="the broker closed the connection"):
        master.submit("b")


def test_what_is_not_the_protocol_ends_the_connection(broker: Scripted) -> None:
    """Bytes that make no sense are a ProtocolError once, and the connection is not used further."""
    master = greeted(broker)
    broker.far.sendall(framed(b"HTTP"))
    with pytest.raises(ProtocolError, match="not a message"):
        master.receive()
    with pytest.raises(TransportError, match="was closed, because the broker sent what is not a message"):
        master.receive()
    broker.heard()
    assert broker.far.recv(1) == b""


# Hello


def test_hello_goes_with_the_first_message(broker: Scripted) -> None:
    """The first request waits for no greeting: both leave together, hello first, with this process's name."""
    slave = Slave(broker.near)
    assert broker.heard() == []
    broker.says(OK, OK, OK)
    slave.join("sum")
    name = f"{socket.gethostname()}:{os.getpid()}"
    assert broker.heard() == [
        {"action": "hello", "version": 1, "name": name},
        {"action": "join", "type": "sum"},
    ]
    slave.leave()
    assert broker.heard() == [{"action": "leave"}]


def test_a_socket_on_which_hello_was_said_before_may_be_used(broker: Scripted) -> None:
    """A hello that is refused because there was one already changes nothing."""
    master = Master(broker.near)
    broker.says({"error": "invalid_state", "reason": "hello was said already on this connection"}, OK)
    assert master.submit("a") == "a"


def test_a_hello_that_is_refused_ends_the_connection(broker: Scripted) -> None:
    """A broker that does not want this client says why, and the request behind it is not left in doubt."""
    master = Master(broker.near)
    broker.says({"error": "unsupported_version", "reason": "version 1 is not spoken here"}, OK)
    with pytest.raises(RequestRefused, match="unsupported_version -> version 1 is not spoken here"):
        master.submit("a")
    with pytest.raises(TransportError, match="because hello was refused: unsupported_version"):
        master.receive()


def test_a_request_that_cannot_be_encoded_leaves_hello_to_the_next(broker: Scripted) -> None:
    """A first request that never was one does not disturb the order of requests and replies."""
    slave = Slave(broker.near)
    with pytest.raises(TypeError):
        slave.join(object())  # type: ignore[arg-type]
    broker.says(OK, OK)
    assert slave.join("sum")
    assert [message["action"] for message in broker.heard()] == ["hello", "join"]


def test_a_timeout_in_the_middle_of_a_frame_loses_nothing(broker: Scripted) -> None:
    """An answer that drips in byte by byte is whole at the end, however often its receiver gave up."""
    master = greeted(broker)
    data = framed({"id": "first", "body": [1, 2, 3]})
    for i in range(len(data) - 1):
        broker.far.sendall(data[i : i + 1])
        with pytest.raises(TimedOut):
            master.receive(timeout=0)
    broker.far.sendall(data[-1:])
    assert master.receive(timeout=0).body == [1, 2, 3]


def test_several_messages_in_one_piece_are_all_received(broker: Scripted) -> None:
    """A reply and outcomes that arrive together are each found in their place."""
    master = greeted(broker)
    broker.says({"id": "first", "body": 1}, {"action": "quiet"}, OK, {"id": 2, "body": 2}, {"id": 3, "body": 3})
    master.submit(2)
    assert [master.receive(timeout=0) for _ in range(3)] == [
        {"id": "first", "body": 1},
        {"id": 2, "body": 2},
        {"id": 3, "body": 3},
    ]


# Time


def test_a_timeout_covers_the_whole_call(broker: Scripted) -> None:
    """Messages that are not the awaited one do not prolong the wait; the error says how long it was."""
    master = greeted(broker)
    stop = monotonic() + 2
    chatter = Thread(target=lambda: _chatter(broker.far, stop))
    chatter.start()
    began = monotonic()
    with pytest.raises(TimedOut, match=r"^nothing came from the broker within 0.2 s$") as raised:
        master.receive(timeout=0.2)
    assert 0.2 <= monotonic() - began < 2
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, TransportError)
    master.disconnect()
    chatter.join()


def _chatter(far: socket.socket, stop: float) -> None:
    try:
        while monotonic() < stop:
            far.sendall(framed({"action": "quiet"}))
    except OSError:
        pass


def test_the_reply_to_a_call_that_timed_out_is_not_the_next_ones(broker: Scripted) -> None:
    """A late reply belongs to the call that gave up; its job's outcome still comes."""
    master = greeted(broker)
    with pytest.raises(TimedOut):
        master.submit("late", timeout=0)
    broker.says(OK, {"error": "id_exists", "reason": "next"}, {"id": "late", "body": 1})
    with pytest.raises(RequestRefused, match="id_exists -> next"):
        master.submit("next")
    assert master.receive().id == "late"


def test_a_request_that_was_sent_in_part_is_finished_by_the_next_call(broker: Scripted) -> None:
    """When sending times out, the rest goes out first later on, and nothing else gets between."""
    master = greeted(broker, max_frame=2**31)
    body = "x" * 4_000_000
    with pytest.raises(TimedOut):
        master.submit("large", body=body, timeout=0.01)
    with pytest.raises(TimedOut):
        master.submit("never sent", timeout=0.01)
    heard: list[Any] = []
    reader = Thread(target=lambda: heard.extend(broker.hears(2)))
    reader.start()
    broker.says(OK, OK)
    master.submit("small")
    reader.join()
    assert [message["id"] for message in heard] == ["large", "small"]
    assert heard[0]["body"] == body


def test_a_request_that_was_sent_in_part_is_finished_by_a_wait(broker: Scripted) -> None:
    """Waiting for its outcome sends the rest of it; it would wait for ever otherwise."""
    master = greeted(broker, max_frame=2**31)
    with pytest.raises(TimedOut):
        master.submit("large", body="x" * 4_000_000, timeout=0.01)
    heard: list[Any] = []
    reader = Thread(target=lambda: heard.extend(broker.hears(1)))
    reader.start()
    while reader.is_alive():
        with pytest.raises(TimedOut):
            master.receive(timeout=0.01)
    assert [message["id"] for message in heard] == ["large"]
    broker.says(OK, {"id": "large", "body": 1})
    assert master.receive(timeout=4).id == "large"


def test_a_broker_that_waits_to_be_read_does_not_block_a_large_request(broker: Scripted) -> None:
    """While a request cannot be sent, the client reads the broker's messages, so that neither side blocks."""
    master = greeted(broker, max_frame=2**31)
    answers = [{"id": n, "body": "y" * 100_000} for n in range(40)]
    heard: list[Any] = []

    def busy_broker() -> None:
        broker.says(*answers)
        heard.extend(broker.hears(1))
        broker.says(OK)

    far = Thread(target=busy_broker)
    far.start()
    master.submit("large", body="x" * 4_000_000, timeout=4)
    far.join()
    assert heard[0]["id"] == "large"
    assert [master.receive(timeout=0).id for _ in answers] == list(range(40))


# Ctrl-C


@contextmanager
def interrupt_soon() -> Iterator[None]:
    """Raise a KeyboardInterrupt while the body waits for its socket, and expect it to come out."""

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        # Asked again and again: on a busy machine the wait begins late.
        wire = frame.f_locals.get("self") if frame is not None else None
        if isinstance(wire, Wire) and wire._waiting:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.02)
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_wait_loses_nothing(broker: Scripted) -> None:
    """After Ctrl-C in a wait, in the middle of a frame even, the connection goes on where it was."""
    master = greeted(broker)
    data = framed({"id": "first", "body": 1})
    broker.far.sendall(data[:10])
    with interrupt_soon():
        master.receive()
    with interrupt_soon():
        master.submit("unanswered")
    broker.far.sendall(data[10:] + framed(OK, OK))
    assert master.submit("next") == "next"
    assert master.receive() == {"id": "first", "body": 1}


def test_an_interrupted_request_is_finished_by_the_next(broker: Scripted) -> None:
    """After Ctrl-C while a large job is sent, the rest of it goes out before anything else."""
    master = greeted(broker, max_frame=2**31)
    with interrupt_soon():
        next(master.do_many([{"id": "large", "body": "x" * 4_000_000}]))
    heard: list[Any] = []
    reader = Thread(target=lambda: heard.extend(broker.hears(2)))
    reader.start()
    broker.says(OK, OK)
    master.submit("small")
    reader.join()
    assert [message["id"] for message in heard] == ["large", "small"]


def test_an_interrupt_half_way_ends_the_connection(broker: Scripted) -> None:
    """Ctrl-C while a message is taken apart ends the connection, which could only go on out of step."""

    def interrupt(_event: object) -> bool:
        raise KeyboardInterrupt

    wire = Wire(broker.near, Hello(PROTOCOL_VERSION))
    wire.takers.append(interrupt)
    broker.says({"id": "a", "body": 1})
    with pytest.raises(KeyboardInterrupt):
        wire.pump(None)
    with pytest.raises(TransportError, match="a call was interrupted half-way"):
        wire.pump(None)
    assert broker.far.recv(1) == b""
