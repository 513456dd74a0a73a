"""What signals do, in memory: gloom.host.signals with a reactor that only notes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.logger import formatEvent

from gloom.host.signals import SignalService
from tests.support.logged import logged

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Reactor:
    """
    As much of a reactor as the service asks for.

    Attributes:
        hooks: What is to be called when it runs.
        calls: What signals have left for it to do.
        stops: How often it was told to stop.
    """

    def __init__(self) -> None:
        self.hooks: list[Callable[[], None]] = []
        self.calls: list[Callable[[], None]] = []
        self.stops = 0

    def callWhenRunning(self, hook: Callable[[], None]) -> None:
        self.hooks.append(hook)

    def callFromThread(self, function: Callable[..., None], *args: Any) -> None:
        self.calls.append(lambda: function(*args))

    def stop(self) -> None:
        self.stops += 1


class Signalled:
    """
    A started service.

    Attributes:
        done: The names of what signals have led to, "hurry" or "reload".
    """

    def __init__(self) -> None:
        self.reactor = Reactor()
        reactor = cast(Any, self.reactor)
        self.done: list[str] = []
        self.service = SignalService(
            reactor, reactor, lambda: self.done.append("hurry"), lambda: self.done.append("reload")
        )
        self.service.startService()

    def runs(self) -> None:
        for hook in self.reactor.hooks:
            hook()

    def get(self, *numbers: signal.Signals) -> list[str]:
        """Send this process *numbers*, give the reactor a turn, and return what is logged."""
        for number in numbers:
            os.kill(os.getpid(), number)
        with logged("gloom.host.signals") as events:
            calls, self.reactor.calls = self.reactor.calls, []
            for call in calls:
                call()
        return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    """The test's process keeps what it did on signals."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, what in before.items():
        signal.signal(number, what)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_stops_and_each_further_one_hurries(number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C: stop in order; again: end now. Each says so in one line."""
    signalled = Signalled()
    signalled.runs()
    assert signalled.get(number) == [f"info {number.name}: stopping"]
    assert (signalled.reactor.stops, signalled.done) == (1, [])
    assert signalled.get(number) == [f"warn {number.name} again: ending now"]
    signalled.get(number)
    assert (signalled.reactor.stops, signalled.done) == (1, ["hurry", "hurry"])


def test_two_in_one_turn_are_two() -> None:
    """A second signal before the reactor has acted on the first is not lost."""
    signalled = Signalled()
    signalled.runs()
    signalled.get(signal.SIGTERM, signal.SIGINT)
    assert (signalled.reactor.stops, signalled.done) == (1, ["hurry"])


def test_sighup_reloads_and_stops_nothing() -> None:
    """SIGHUP, which would end the process, reads files again, as often as it comes."""
    signalled = Signalled()
    signalled.runs()
    signalled.get(signal.SIGHUP)
    signalled.get(signal.SIGHUP)
    assert (signalled.reactor.stops, signalled.done) == (0, ["reload", "reload"])


def test_nothing_happens_inside_the_signal() -> None:
    """A signal may come in the midst of anything: the reactor does the rest in a turn of its own."""
    signalled = Signalled()
    signalled.runs()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.reactor.stops == 0
    assert len(signalled.reactor.calls) == 1


def test_a_signal_during_a_stop_that_nobody_signalled_hurries() -> None:
    """A broker that stops because it could not listen is not told to stop twice, which would be an error."""
    signalled = Signalled()
    signalled.runs()
    signalled.service.stopService()
    signalled.get(signal.SIGTERM)
    assert (signalled.reactor.stops, signalled.done) == (0, ["hurry"])


def test_signals_are_taken_over_when_the_reactor_runs() -> None:
    """Not before: the reactor sets its own at its start."""
    before = [signal.getsignal(number) for number in NUMBERS]
    signalled = Signalled()
    assert [signal.getsignal(number) for number in NUMBERS] == before
    signalled.runs()
    assert all(signal.getsignal(number) not in before for number in NUMBERS)
