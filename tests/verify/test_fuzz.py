"""
Whatever a peer sends, the broker answers or closes, and no bug shows.

A small share of `verify.reliability.fuzz`: bytes of Hypothesis, which makes a failure small,
and of a seeded generator.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloom.broker.memory import MemoryBroker
from gloom.server.protocols import MasterProtocol
from gloom.testing import MemoryGloom
from gloom.wire.framereader import to_frame
from verify.reliability.fuzz import Fuzzer, fuzz_at_random, fuzz_messages, run
from verify.reliability.sessions import Session, Violation


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_every_frame_of_a_session_has_its_reply(data: bytes) -> None:
    """Valid messages, broken ones and raw bytes have one reply each; only accepted jobs have an outcome."""
    Session(data).run()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_a_decoder_raises_only_what_it_says(data: bytes) -> None:
    """On both sides of the wire, broken JSON of any kind is a typed error with a short reason."""
    fuzz_messages(data)


def test_a_thousand_inputs_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the number of inputs, and has status 0 if none failed."""
    assert fuzz_at_random(1000, seed=5) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("10")
    assert printed.endswith("passed: all held\n")


def test_a_bug_is_found_and_can_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker without the reply of one verb is found, and the printed bytes reproduce it."""
    monkeypatch.setitem(MasterProtocol.verbs, next(iter(MasterProtocol.verbs)), lambda protocol, request: None)
    fuzzer = Fuzzer(10**9)
    number = 0
    while not fuzzer.is_done:
        number += 1
        # The first byte asks for a session, the second one for no access rules; any bytes follow.
        fuzzer.one(b"\xff\x00" + bytes((n * number * 37 + n // 3) % 256 for n in range(900)))
    (failure,) = fuzzer.failures
    assert "has no reply" in failure
    with pytest.raises(Violation):
        run(bytes.fromhex(failure.rpartition(" ")[2]))


def test_the_generator_reaches_the_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions are not all refused at their start: jobs are answered, failed and cancelled in them."""
    done = Counter[str]()
    for verb in ("respond", "fail", "cancel", "progress"):
        monkeypatch.setattr(MemoryBroker, verb, counted(done, verb, getattr(MemoryBroker, verb)))
    chance = random.Random(2)
    for _ in range(30):
        Session(chance.randbytes(1000)).run()
    assert min(done[verb] for verb in ("respond", "fail", "cancel", "progress")) >= 5, done


def counted(done: Counter[str], verb: str, method: Callable[..., None]) -> Callable[..., None]:
    """Return *method*, counting how often it refuses nothing."""

    def call(*arguments: Any) -> None:
        method(*arguments)
        done[verb] += 1

    return call


def test_a_peer_is_told_to_go_while_much_is_on_its_way_to_it() -> None:
    """A double's transport forgets a paused producer, as a real one does (found by the fuzzer)."""
    gloom = MemoryGloom()
    master = gloom.master()
    piece = to_frame(b'{"action":"' + b"x" * 90 + b'"}')
    master.send_bytes(1000 * piece + to_frame(b"this closes"))
    assert master.lost
    assert len(master.take()) == 1001
