"""
Guards that pytest-twisted lacks: a time limit inside the reactor, lost errors, left-over timers and sockets.

Signals have their default dispositions, and a test that measures has the processors to itself.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from twisted.internet import defer
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.support.default_signals import restore_default_signals

# A hanging test fails after this time. Tests that wait for processes on a busy machine need some time themselves.
DEFERRED_TIMEOUT_SECONDS = 30.0


# Tests do not fail for a slow machine. A failing example is printed without its blob.
hypothesis.settings.register_profile("gloom", deadline=None, print_blob=False)


def pytest_configure() -> None:
    restore_default_signals()
    hypothesis.settings.load_profile("gloom")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Run a test marked ``alone`` while no other process of pytest-xdist runs a test."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _turn(item.config, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(config: pytest.Config, alone: bool) -> Iterator[None]:
    """
    Hold the lock that tests share, exclusively for a test that must run alone.

    Another lock is taken first, so that no later test overtakes one that waits to run alone.
    """
    directory = Path(config._tmp_path_factory.getbasetemp()).parent  # type: ignore[attr-defined]
    with (directory / "queue.lock").open("w") as queue, (directory / "running.lock").open("w") as running:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Unlock explicitly: a child that a test has forked holds the file open too.
            fcntl.flock(running, fcntl.LOCK_UN)


class DeferredTimeout(AssertionError):
    """The failure of a time limit. Not pytest.fail(): that raises a BaseException, which must not pass the reactor."""


def _limited(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        def late(_result: object, _seconds: float) -> None:
            raise DeferredTimeout(f"the test's Deferred did not fire within {seconds} s")

        return defer.maybeDeferred(function, *args, **kwargs).addTimeout(seconds, reactor, onTimeoutCancel=late)

    run.__dict__.pop("_pytest_twisted_mark", None)
    return run


def _collect_and_freeze() -> None:
    # Each test ends with a collection (below); objects alive at this point will not become garbage.
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    _collect_and_freeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Freeze the reports and caches of a finished module: otherwise each collection takes longer, up to 70 ms."""
    yield
    _collect_and_freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    marker = pyfuncitem.get_closest_marker("deferred_timeout")
    seconds = marker.args[0] if marker else DEFERRED_TIMEOUT_SECONDS
    hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    if hypothesis is not None:
        # One limit for all parameters of a test.
        if not hasattr(hypothesis.inner_test, "is_limited"):
            hypothesis.inner_test = _limited(hypothesis.inner_test, seconds)
            hypothesis.inner_test.is_limited = True
    else:
        pyfuncitem.obj = _limited(pyfuncitem.obj, seconds)


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage out of the processes that the test starts: it slows a broker several times."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def in_the_tests_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in the directory where a worker's child process finds worker_functions.py."""
    monkeypatch.chdir(Path(__file__).parent / "support")


@pytest.fixture
def reactor() -> Any:
    """Return the reactor that pytest-twisted runs."""
    from twisted.internet import reactor

    return reactor


FlushErrors = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[FlushErrors]:
    """Fail a test that logs a failure, unless the test expects it: ``logged_errors(ValueError)``."""
    seen: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            seen.append(event)

    def take(*kinds: type[BaseException]) -> list[Any]:
        taken = [e for e in seen if e.get("log_failure") is not None and (not kinds or e["log_failure"].check(*kinds))]
        for event in taken:
            seen.remove(event)
        return [event["log_failure"] for event in taken]

    globalLogPublisher.addObserver(observe)
    try:
        yield take
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observe)
    if seen:
        texts = [e["log_failure"].getTraceback() if e.get("log_failure") else formatEvent(e) for e in seen]
        pytest.fail("errors were logged:\n" + "\n".join(texts), pytrace=False)


@pytest.fixture(autouse=True)
def nothing_left_in_the_reactor() -> Iterator[None]:
    """Fail a test that leaves a timer or a socket."""
    from twisted.internet import reactor as untyped

    reactor: Any = untyped
    before = set(reactor.getReaders())
    yield
    calls = [call for call in reactor.getDelayedCalls() if call.active()]
    for call in calls:
        call.cancel()
    readers = [r for r in reactor.getReaders() if r not in before and r not in reactor._internalReaders]
    left = [str(call) for call in calls] + [repr(reader) for reader in readers]
    if left:
        pytest.fail("left in the reactor: " + "; ".join(left), pytrace=False)
