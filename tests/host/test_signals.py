"""The effect of signals, in memory: gloom.host.signals with a reactor that only records."""

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
    The part of a reactor that the service uses.

    Attributes:
        hooks: The calls to make when it runs.
        calls: The calls that signals have scheduled.
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
        done: The actions of the signals, "hurry" or "reload".
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
        """Send this process *numbers*, run one turn of the reactor, and return the log lines."""
        for number in numbers:
            os.kill(os.getpid(), number)
        with logged("gloom.host.signals") as events:
            calls, self.reactor.calls = self.reactor.calls, []
            for call in calls:
                call()
        return [f"{event['log_level'].name} {formatEvent(event)}" for event in events]


@pytest.fixture(autouse=True)
def signals_are_given_back() -> Iterator[None]:
    """Restore the test process's own signal handlers."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, what in before.items():
        signal.signal(number, what)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_stops_and_each_further_one_hurries(number: signal.Signals) -> None:
    """The first SIGTERM or Ctrl-C stops in order, each further one ends at once. Each logs one line."""
    signalled = Signalled()
    signalled.runs()
    assert signalled.get(number) == [f"info {number.name}: stopping"]
    assert (signalled.reactor.stops, signalled.done) == (1, [])
    assert signalled.get(number) == [f"warn {number.name} again: ending now"]
    signalled.get(number)
    assert (signalled.reactor.stops, signalled.done) == (1, ["hurry", "hurry"])


def test_two_in_one_turn_are_two() -> None:
    """A second signal before the reactor has acted on the first counts."""
    signalled = Signalled()
    signalled.runs()
    signalled.get(signal.SIGTERM, signal.SIGINT)
    assert (signalled.reactor.stops, signalled.done) == (1, ["hurry"])


def test_sighup_reloads_and_stops_nothing() -> None:
    """SIGHUP reloads files at each signal, and does not end the process."""
    signalled = Signalled()
    signalled.runs()
    signalled.get(signal.SIGHUP)
    signalled.get(signal.SIGHUP)
    assert (signalled.reactor.stops, signalled.done) == (0, ["reload", "reload"])


def test_nothing_happens_inside_the_signal() -> None:
    """A signal may interrupt any code, so the reactor does the work in a later turn."""
    signalled = Signalled()
    signalled.runs()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signalled.reactor.stops == 0
    assert len(signalled.reactor.calls) == 1


def test_a_signal_during_a_stop_that_nobody_signalled_hurries() -> None:
    """During a stop without a signal, as after a failure to listen, a signal hurries, and starts no second stop."""
    signalled = Signalled()
    signalled.runs()
    signalled.service.stopService()
    signalled.get(signal.SIGTERM)
    assert (signalled.reactor.stops, signalled.done) == (0, ["hurry"])


def test_signals_are_taken_over_when_the_reactor_runs() -> None:
    """Signals are taken over when the reactor runs, since the reactor sets its own handlers at its start."""
    before = [signal.getsignal(number) for number in NUMBERS]
    signalled = Signalled()
    assert [signal.getsignal(number) for number in NUMBERS] == before
    signalled.runs()
    assert all(signal.getsignal(number) not in before for number in NUMBERS)
