"""Guards that pytest-twisted lacks: a time limit inside the reactor, lost errors, what is left running."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

DEFERRED_TIMEOUT_SECONDS = 5.0


class DeferredTimeout(AssertionError):
    """Not pytest.fail(), which raises a BaseException: that must not pass through the reactor."""


def _limited(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        def late(_result: object, _seconds: float) -> None:
            raise DeferredTimeout(f"the test's Deferred did not fire within {seconds} s")

        return defer.maybeDeferred(function, *args, **kwargs).addTimeout(seconds, reactor, onTimeoutCancel=late)

    run.__dict__.pop("_pytest_twisted_mark", None)
    return run


def pytest_collection_finish() -> None:
    # Each test ends with a collection (below); what is loaded by now will not become garbage.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    marker = pyfuncitem.get_closest_marker("deferred_timeout")
    seconds = marker.args[0] if marker else DEFERRED_TIMEOUT_SECONDS
    hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    if hypothesis is not None:
        # One and the same for all parameters of a test.
        if not hasattr(hypothesis.inner_test, "is_limited"):
            hypothesis.inner_test = _limited(hypothesis.inner_test, seconds)
            hypothesis.inner_test.is_limited = True
    else:
        pyfuncitem.obj = _limited(pyfuncitem.obj, seconds)


FlushErrors = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[FlushErrors]:
    """Fail a test that logs a failure, unless it takes it: ``logged_errors(ValueError)``."""
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
