"""Access rules, message for message, in memory: docs/protocol.md, section 1.8."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import formatEvent

from gloom.server.access import Access, Identity, hash_token
from gloom.settings import Settings
from gloom.testing import MemoryGloom, RawPeer
from gloom.wire.framereader import to_frame
from tests.support.certificates import Shown, certificate_of
from tests.support.logged import logged
from tests.support.wire import (
    HELLO,
    LEAVE,
    OK,
    PING,
    answer,
    cancel,
    extended,
    job,
    join,
    join_types,
    respond,
    served,
    submit,
)


def identity(name: str, roles: str, *types: str, certificate: str | None = None) -> Identity:
    """Return an identity with the token "NAME-token", or with a certificate."""
    token = hash_token(f"{name}-token") if certificate is None else None
    return Identity(name, frozenset(roles.split()), types, token, certificate)


ACCESS = Access(
    [
        identity("all", "master slave", "*"),
        identity("shop", "master", "t", "u-*"),
        identity("mail", "master", "mail"),
        identity("farm", "slave", "t", "u-*"),
        identity("old shop", "master", "t", certificate="shop.example.org"),
        identity("old farm", "slave", "*", certificate="farm.example.org"),
    ]
)

NO_TOKEN = {
    "error": "unauthorized",
    "reason": "this broker asks for a hello with a token, or for a client certificate, first",
}


def forbidden(reason: str) -> list[dict[str, Any]]:
    return [{"error": "forbidden", "reason": reason}]


@pytest.fixture
def gloom() -> MemoryGloom:
    return MemoryGloom(Settings(verbose=True), ACCESS)


def master_of(gloom: MemoryGloom, name: str, **hello: Any) -> RawPeer:
    return extended(gloom.master(), token=f"{name}-token", **hello)


def slave_of(gloom: MemoryGloom, name: str) -> RawPeer:
    return extended(gloom.slave(), token=f"{name}-token")


# Tokens


def test_a_known_token_opens_the_door(gloom: MemoryGloom) -> None:
    """A master and a slave that show their tokens work as they would without access rules."""
    master, slave = master_of(gloom, "shop"), slave_of(gloom, "farm")
    assert master.ask(submit(1)) == [OK]
    assert slave.ask(join()) == [OK, job(1)]
    assert slave.ask(respond()) == [OK]
    assert master.take() == [answer(1)]
    assert master.ask(PING) == [OK]


@pytest.mark.parametrize("message", [submit(1), submit(1, None)], ids=["typed", "untyped"])
def test_a_base_master_is_not_let_in(gloom: MemoryGloom, message: dict[str, Any]) -> None:
    """Without hello and without a certificate nothing is queued, and the connection ends."""
    master = gloom.master()
    assert master.ask(message) == [NO_TOKEN]
    assert master.lost
    assert slave_of(gloom, "all").ask(join()) == [OK]


@pytest.mark.parametrize("message", [join(), join(None), respond()], ids=["join", "join null", "respond"])
def test_a_base_slave_is_not_let_in(gloom: MemoryGloom, message: dict[str, Any]) -> None:
    """It gets no job, whatever it says first."""
    slave = gloom.slave()
    assert slave.ask(message) == [NO_TOKEN]
    master_of(gloom, "all").ask(submit(1))
    assert slave.lost and slave.take() == []


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({}, "hello needs a token here, or a client certificate that is known"),
        ({"token": None}, "hello needs a token here, or a client certificate that is known"),
        ({"token": ""}, "the token is not known here"),
        ({"token": "shop-Token"}, "the token is not known here"),
        ({"token": "shop-token "}, "the token is not known here"),
        ({"token": hash_token("shop-token")}, "the token is not known here"),
        ({"token": "ü" * 1000}, "the token is not known here"),
    ],
    ids=range(7),
)
def test_a_wrong_token_is_no_token(gloom: MemoryGloom, hello: dict[str, Any], reason: str) -> None:
    """No token, a wrong one, or the hash of a right one: unauthorized, and the connection ends."""
    for peer in (gloom.master(), gloom.slave()):
        assert peer.ask(HELLO | hello) == [{"error": "unauthorized", "reason": reason}]
        assert peer.lost


@pytest.mark.parametrize(
    "payload",
    [
        PING,
        cancel(1),
        {"action": "explode"},
        {"action": "submit"},
        {"action": 5},
        {},
        {"version": 1, "token": "shop-token"},
        b"",
        b"nonsense",
        b"[1,2]",
        b'{"action":"hello","version":1,"token":"shop-token"',
        b'{"action":"hello","version":1,"token":"shop-token","more":"\xff"}',
        b'{"action":"hello","version":1,"token":"shop-token","more":' + b"[" * 901 + b"]" * 901 + b"}",
    ],
    ids=range(13),
)
def test_a_stranger_may_say_hello_and_nothing_else(gloom: MemoryGloom, payload: dict[str, Any] | bytes) -> None:
    """Whatever else a peer that is not known says is unauthorized, and the connection ends: nothing else is read."""
    for peer in (gloom.master(), gloom.slave()):
        assert peer.ask(payload) == [NO_TOKEN]
        assert peer.lost


def test_a_wrong_hello_may_be_said_again(gloom: MemoryGloom) -> None:
    """A hello of another version, or with a field that is wrong, lets nobody in, and a right one still does."""
    master = gloom.master()
    for wrong, error in (
        ({"version": 2, "token": "shop-token"}, "unsupported_version"),
        ({"token": 5}, "invalid_type"),
        ({"version": None}, "invalid_type"),
        ({"token": "farm-token"}, "forbidden"),
    ):
        assert [reply["error"] for reply in master.ask(HELLO | wrong)] == [error]
    assert extended(master, token="shop-token").ask(submit(1)) == [OK]


@pytest.mark.parametrize(
    "hello", [HELLO | {"version": 2}, HELLO | {"token": "farm-token"}, HELLO | {"token": 5}], ids=range(3)
)
def test_a_stranger_has_eight_requests(gloom: MemoryGloom, hello: dict[str, Any]) -> None:
    """However many requests of a stranger come in one write, eight are answered, and the connection ends."""
    master = gloom.master()
    master.send_bytes(2000 * to_frame(json.dumps(hello).encode()))
    replies = master.take()
    assert len(replies) == 9
    assert replies[-1] == {"error": "unauthorized", "reason": "8 requests did not say who this is"}
    assert master.lost


def test_a_known_peer_has_any_number_of_requests(gloom: MemoryGloom) -> None:
    """The bounds apply to strangers: a known peer may send long frames, and many."""
    master = master_of(gloom, "shop")
    assert [master.ask(PING) for _ in range(100)] == [[OK]] * 100
    assert master.ask(submit(1, body="x" * 100_000)) == [OK]


def test_a_stranger_has_short_frames(gloom: MemoryGloom) -> None:
    """A peer that is not known may not have the broker read 16 MiB; without access rules there are no strangers."""
    hello = HELLO | {"token": "shop-token", "more": "x" * 65_536}
    (reply,) = gloom.master().ask(hello)
    assert reply["error"] == "size_error" and reply["reason"].endswith("is over the limit of 65536")
    assert MemoryGloom().master().ask(hello)[0]["ok"] is True


def test_a_stranger_has_half_a_minute(gloom: MemoryGloom) -> None:
    """A peer that is not identified within 30 s is dropped, whatever it sent; an identified one is not."""
    silent, talking, known = gloom.master(), gloom.slave(), master_of(gloom, "shop")
    with logged() as events:
        for _ in range(2):
            gloom.advance(15)
            talking.send(HELLO | {"version": 2})
    assert silent.lost and talking.lost and not known.lost
    dropped = [formatEvent(event) for event in events if "dropped" in formatEvent(event)]
    assert dropped == [f"127.0.0.1:{port}: dropped: it did not say who it is within 30 s" for port in (50000, 50000)]
    gloom.advance(1000)
    assert not known.lost


def test_no_token_is_logged_or_told(gloom: MemoryGloom) -> None:
    """Right or wrong, a token is in no line of the log and in no message, with --verbose too."""
    peers = [gloom.master(), gloom.slave(), gloom.master(), gloom.master()]
    with logged() as events:
        for peer, token in zip(peers, ("shop-token", "shop-token", "guess-s3cret", ["s3cret"]), strict=True):
            peer.send(HELLO | {"token": token})
    assert len(events) >= 4  # three refusals, one of them also as a warning
    said = [formatEvent(event) for event in events] + [frame.decode() for peer in peers for frame in peer.frames]
    assert [text for text in said if "shop-token" in text or "s3cret" in text] == []


def test_an_open_broker_ignores_tokens() -> None:
    """Without access rules any token is as good as none, and everybody may have everything."""
    gloom = MemoryGloom()
    assert extended(gloom.master(), token="whatever").ask(submit(1, None)) == [OK]
    assert gloom.slave().ask(join(None)) == [OK, job(1, None)]


# Roles


def test_a_role_is_a_port(gloom: MemoryGloom) -> None:
    """A token of the other role is forbidden, the connection stays open for a better one."""
    master, slave = gloom.master(), gloom.slave()
    assert master.ask(HELLO | {"token": "farm-token"}) == forbidden("farm may not be a master")
    assert slave.ask(HELLO | {"token": "shop-token"}) == forbidden("shop may not be a slave")
    assert not master.lost and not slave.lost
    assert extended(master, token="shop-token").ask(submit(1)) == [OK]
    assert slave.ask(join()) == [NO_TOKEN]


def test_a_wrong_role_is_still_a_stranger(gloom: MemoryGloom) -> None:
    """It has its half minute in all, and not one from each try."""
    master = gloom.master()
    gloom.advance(20)
    master.ask(HELLO | {"token": "farm-token"})
    gloom.advance(10)
    assert master.lost


# Types


@pytest.mark.parametrize(
    ("type", "allowed"),
    [
        ("t", True),
        ("u-", True),
        ("u-1", True),
        ("u-é/*\n", True),
        ("T", False),
        ("tt", False),
        ("u", False),
        ("", None),
    ],
)
def test_patterns_decide_which_types(gloom: MemoryGloom, type: str, allowed: bool | None) -> None:
    """A type must match a pattern of the identity, whole and in its case, to be submitted or joined."""
    for peer, message, name in (
        (master_of(gloom, "shop"), submit(1, type), "shop"),
        (slave_of(gloom, "farm"), join(type), "farm"),
    ):
        replies = peer.ask(message)
        if allowed is None:
            assert replies[0]["error"] == "invalid_type"
        elif allowed:
            assert replies[0] == OK
        else:
            assert replies == forbidden(f"{name} may not have jobs of the type {type}")
        assert peer.ask(PING) == [OK]


def test_untyped_jobs_need_the_pattern_of_all(gloom: MemoryGloom) -> None:
    """Without the pattern * neither untyped jobs nor a join with null is allowed."""
    assert master_of(gloom, "shop").ask(submit(1, None)) == forbidden("shop may not have untyped jobs")
    assert slave_of(gloom, "farm").ask(join(None)) == forbidden("farm may not have untyped jobs")
    assert master_of(gloom, "all").ask(submit(1, None)) == [OK]
    assert slave_of(gloom, "all").ask(join(None)) == [OK, job(1, None)]


def test_a_slave_of_some_types_is_given_no_untyped_jobs(gloom: MemoryGloom) -> None:
    """An untyped job waits for a slave that may have any; others are served past it."""
    master, slave = master_of(gloom, "all"), slave_of(gloom, "farm")
    slave.ask(join_types("t", "u-1"))
    master.ask(submit("untyped", None, priority=9))
    master.ask(submit("typed"))
    assert served(slave) == ["typed"]
    assert master.take() == [answer("typed")]
    assert master.ask(submit("more", None, require_slave=True))[0]["error"] == "no_slaves"
    anybody = slave_of(gloom, "all")
    assert anybody.ask(join()) == [OK, job("untyped", None)]


def test_of_several_types_all_must_be_allowed(gloom: MemoryGloom) -> None:
    """A join with one forbidden type joins none, and earlier joined types stay."""
    slave = slave_of(gloom, "farm")
    slave.ask(join("u-1"))
    assert slave.ask(join_types("t", "mail")) == forbidden("farm may not have jobs of the type mail")
    master = master_of(gloom, "all")
    master.ask(submit(1))
    master.ask(submit(2, "u-1"))
    assert slave.take() == [job(2, "u-1")]


def test_a_forbidden_job_of_many_does_not_spoil_the_others(gloom: MemoryGloom) -> None:
    """It is told in its place, and counted like any other refusal."""
    (reply,) = master_of(gloom, "shop").ask({"action": "submit_many", "jobs": [submit(1), submit(2, "v"), submit(3)]})
    assert reply["jobs"] == [OK, *forbidden("shop may not have jobs of the type v"), OK]
    assert gloom.masters.refusals.count == 1


def test_a_long_type_is_cut_in_the_reason(gloom: MemoryGloom) -> None:
    """The reason quotes a forbidden type, up to 100 characters of it."""
    (reply,) = master_of(gloom, "shop").ask(submit(1, "x" * 255))
    assert reply["reason"] == "shop may not have jobs of the type " + "x" * 100 + "..."


def test_another_types_job_cannot_be_attached_to(gloom: MemoryGloom) -> None:
    """A master cannot attach to or cancel a job of a forbidden type, whichever type it names."""
    owner, thief, slave = master_of(gloom, "shop"), master_of(gloom, "mail"), slave_of(gloom, "farm")
    owner.ask(submit(1))
    assert thief.ask(submit(1, "t", attach=True)) == forbidden("mail may not have jobs of the type t")
    assert thief.ask(submit(1, "mail", attach=True)) == [{"error": "id_exists", "reason": "1"}]
    assert thief.ask(cancel(1))[0]["error"] == "unknown_job"
    slave.send(join())
    slave.send(respond())
    assert owner.take() == [answer(1)]
    assert thief.take() == []


def test_leaving_and_joining_again_is_checked_again(gloom: MemoryGloom) -> None:
    """Every join is looked at, not only the first."""
    slave = slave_of(gloom, "farm")
    assert slave.ask(join()) == slave.ask(LEAVE) == slave.ask(join("u-2")) == [OK]
    assert slave.ask(join("mail"))[0]["error"] == "forbidden"


# Certificates


def shows(peer: RawPeer, shown: Shown | None) -> RawPeer:
    """Return *peer*, which has completed its TLS handshake with the certificate *shown*, or with none."""
    far = peer.transport._other
    far.getPeerCertificate = lambda: shown
    far.protocol.handshakeCompleted()
    return peer


def test_a_certificate_lets_base_peers_in(gloom: MemoryGloom) -> None:
    """A client of 2009 behind TLS works, when its certificate is known; it may say hello, without a token."""
    master = shows(gloom.master(), certificate_of("shop.example.org"))
    slave = shows(gloom.slave(), certificate_of("whoever", "farm.example.org"))
    assert master.ask(submit(1)) == [OK]
    assert slave.ask(join()) == [OK, job(1)]
    assert extended(master).ask(PING) == [OK]
    assert master.ask(submit(2, "mail")) == forbidden("old shop may not have jobs of the type mail")
    gloom.advance(1000)
    assert not master.lost and not slave.lost


@pytest.mark.parametrize("shown", [None, certificate_of("stranger.example.org")], ids=["none", "unknown"])
def test_an_unknown_certificate_is_none(gloom: MemoryGloom, shown: Shown | None) -> None:
    """A peer without a certificate, or with an unknown one, needs a token."""
    assert shows(gloom.master(), shown).ask(submit(1)) == [NO_TOKEN]
    assert extended(shows(gloom.master(), shown), token="shop-token").ask(submit(1)) == [OK]


@pytest.mark.parametrize("message", [join(), HELLO], ids=["base", "hello"])
def test_a_certificate_of_the_other_role(gloom: MemoryGloom, message: dict[str, Any]) -> None:
    """It is forbidden on this port, at either level, and the half minute runs on."""
    slave = shows(gloom.slave(), certificate_of("shop.example.org"))
    assert slave.ask(message) == forbidden("old shop may not be a slave")
    gloom.advance(30)
    assert slave.lost


def test_a_token_counts_before_a_certificate(gloom: MemoryGloom) -> None:
    """With both, the token identifies the peer; a wrong token is refused, whatever the certificate."""
    master = shows(gloom.master(), certificate_of("shop.example.org"))
    assert extended(master, token="mail-token").ask(submit(1, "mail")) == [OK]
    assert master.ask(submit(2)) == forbidden("mail may not have jobs of the type t")
    other = shows(gloom.master(), certificate_of("shop.example.org"))
    assert other.ask(HELLO | {"token": "no"}) == [{"error": "unauthorized", "reason": "the token is not known here"}]
    assert other.lost


def test_an_open_broker_ignores_certificates() -> None:
    """Without access rules a certificate makes no difference."""
    gloom = MemoryGloom()
    assert shows(gloom.master(), certificate_of("whoever")).ask(submit(1)) == [OK]


# Reloading


def test_new_rules_are_for_new_connections(gloom: MemoryGloom) -> None:
    """A connection keeps its identity's rules; new connections get the new rules."""
    before = master_of(gloom, "shop")
    gloom.masters.around.access = Access([identity("mail", "master", "t")])
    assert gloom.master().ask(HELLO | {"token": "shop-token"})[0]["error"] == "unauthorized"
    assert master_of(gloom, "mail").ask(submit(1)) == [OK]
    assert before.ask(submit(2)) == [OK]


# Counting


def test_refusals_are_counted_and_do_not_fill_the_log() -> None:
    """However many strangers knock, there is one line in 10 s, which says how many there were."""
    gloom = MemoryGloom(access=ACCESS)
    lines: list[str] = []
    for _ in range(3):
        with logged() as events:
            for _ in range(100):
                gloom.master().send(HELLO | {"token": "guess"})
            gloom.advance(10)
        lines += map(formatEvent, events)
    ports = ["50000", "50100", "50200"]
    news = [1, 100, 100]
    assert lines == [
        f"127.0.0.1:{port}: unauthorized: the token is not known here"
        f" ({new} since the last such line, {100 * n + 1} in all)"
        for n, (port, new) in enumerate(zip(ports, news, strict=True))
    ]
    assert gloom.masters.refusals.count == 300


def test_other_mistakes_are_no_refused_credentials(gloom: MemoryGloom) -> None:
    """Only unauthorized and forbidden are counted."""
    master = master_of(gloom, "shop")
    master.ask(submit(1))
    master.ask(submit(1))
    master.ask({"action": "explode"})
    assert gloom.masters.refusals.count == 0
    master.ask(submit(2, "mail"))
    assert gloom.masters.refusals.count == 1
