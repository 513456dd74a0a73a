"""The common part of both ports that no message shows: names, counts, and dropping every peer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from gloom.server.peers import PeerFactory, PeerProtocol, address_name
from gloom.server.protocols import MasterProtocol, SlaveProtocol
from gloom.settings import Settings
from gloom.testing import MemoryGloom
from tests.support.wire import HELLO, OK, PING, respond, slave_of, submit


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (IPv4Address("TCP", "10.0.0.1", 9999), "10.0.0.1:9999"),
        (IPv6Address("TCP", "fe80::1", 9999), "[fe80::1]:9999"),
        (UNIXAddress(b"/run/gloom.sock"), "unix socket"),
        (UNIXAddress(None), "unix socket"),
        (SimpleNamespace(), "unix socket"),
    ],
    ids=str,
)
def test_an_address_is_written_as_a_person_would(address: object, name: str) -> None:
    """An address is written as host:port, with IPv6 in brackets; a unix socket has neither."""
    assert address_name(address) == name


def test_a_port_is_more_than_its_connections() -> None:
    """The base protocol without a port's behaviour cannot be used by mistake."""

    class Nothing(PeerProtocol):
        base, verbs = MasterProtocol.base, MasterProtocol.verbs

    protocol = Nothing(MemoryGloom().masters)
    with pytest.raises(NotImplementedError):
        protocol.enter()
    with pytest.raises(NotImplementedError):
        protocol.gone()


def test_a_master_that_waits_for_few_answers_has_each_at_once() -> None:
    """Outcomes for a master with many jobs in flight may be sent a moment later; frames for a slave never are."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    (of_master,), (of_slave,) = gloom.masters.peers, gloom.slaves.peers
    for id in range(15):
        master.send(submit(id))
    assert not of_master.can_wait()
    master.send(submit(15))
    assert of_master.can_wait() and not of_slave.can_wait()
    slave.send(respond())
    assert not of_master.can_wait()
    master.send(submit(16))
    assert of_master.can_wait()
    of_master.close()
    assert not of_master.can_wait()


def test_only_jobs_count_as_answers_that_are_due() -> None:
    """Only a job counts as a due answer: other requests have a reply alone. A failed or cancelled job is answered."""
    gloom = MemoryGloom()
    slave, master = slave_of(gloom), gloom.master()
    (of_master,) = gloom.masters.peers
    master.send(HELLO)
    for _ in range(20):
        master.send(PING)
    for id in range(16):
        master.send(submit(id))
    assert of_master.can_wait()
    master.send({"action": "cancel", "id": 15})
    assert not of_master.can_wait()
    master.send({"action": "submit_many", "jobs": [{"id": 16, "type": "t", "body": 1}, {"id": 1, "body": 1}]})
    assert of_master.can_wait()
    slave.drop()
    assert of_master.can_wait()  # its job is queued again
    for _ in range(3):
        slave_of(gloom).drop()
    assert not of_master.can_wait()


def test_twisted_logs_which_port_it_is() -> None:
    """Twisted's own log lines about a port name the port's role."""
    gloom = MemoryGloom()
    assert [factory.logPrefix() for factory in (gloom.masters, gloom.slaves)] == ["MasterProtocol", "SlaveProtocol"]


def test_connections_are_counted_over_both_ports() -> None:
    """The count follows the connections of both ports, and ends at zero. A refused connection does not count."""
    gloom = MemoryGloom(Settings(max_connections=2))
    around = gloom.masters.around
    peers = [gloom.master(), gloom.slave(), gloom.slave()]
    assert (around.connections, around.refused) == (2, 1)  # the broker refuses the third as one too many
    gloom.advance()
    assert (around.connections, len(gloom.masters.peers), len(gloom.slaves.peers)) == (2, 1, 1)
    assert (around.refused, peers[2].lost) == (0, True)
    for peer in peers[:2]:
        peer.drop()
    assert around.connections == 0


def test_one_that_was_refused_takes_no_place() -> None:
    """A refused connection takes no place: a client that retries is served as soon as there is room."""
    gloom = MemoryGloom(Settings(max_connections=1))
    first, refused = gloom.master(), gloom.master()
    refused.transport.stalled = True
    gloom.advance()
    first.drop()
    assert not refused.lost
    assert gloom.master().ask(submit(1)) == [OK]
    gloom.advance(1)
    assert refused.lost


def test_few_that_were_refused_may_linger() -> None:
    """
    At most 16 refused connections may linger, since each costs a descriptor.

    The next is told busy, and reset at once.
    """
    gloom = MemoryGloom(Settings(max_connections=1))
    good = gloom.master()
    lingering = [gloom.slave() for _ in range(16)]
    more = [gloom.slave() for _ in range(3)]
    assert [peer.lost for peer in lingering] == [False] * 16
    assert [peer.lost for peer in more] == [True] * 3
    assert gloom.masters.around.refused == 16
    gloom.advance()
    assert [message["error"] for message in lingering[0].take()] == ["busy"]
    assert gloom.masters.around.refused == 0
    assert good.ask(submit(1)) == [OK]


def test_everybody_can_be_dropped_at_once() -> None:
    """The broker can drop all connections of one port without a frame; those of the other port go on."""
    gloom = MemoryGloom()
    masters, slave = [gloom.master(), gloom.master()], slave_of(gloom)
    masters[0].ask(submit(1))
    slave.take()
    gloom.masters.abort()
    assert [master.lost for master in masters] == [True, True]
    assert not slave.lost
    assert gloom.master().ask(submit(2)) == [OK]


def test_a_port_without_connections_is_closed_at_once() -> None:
    """Closing fires when the last connection has ended, or at once where there is none."""
    gloom = MemoryGloom()
    factory: PeerFactory[SlaveProtocol] = gloom.slaves
    gloom.result(factory.close())
    slave, slow = slave_of(gloom), slave_of(gloom)
    slow.transport.stalled = True
    closed = factory.close()
    gloom.advance()
    assert slave.lost and not slow.lost
    assert not closed.called
    gloom.advance(1)
    assert slow.lost
    gloom.result(closed)
