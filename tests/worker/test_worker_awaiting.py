"""Coroutines that await asyncio's futures, Deferreds, or both."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from gloom.worker.awaiting import Awaiter


@pytest.fixture
def awaiter() -> Iterator[Awaiter]:
    one = Awaiter()
    yield one
    one.close()


def fired_soon(value: Any) -> Deferred[Any]:
    """Return a Deferred that asyncio's loop fires with *value*; an exception makes it fail."""
    deferred: Deferred[Any] = Deferred()
    fire = deferred.errback if isinstance(value, Exception) else deferred.callback
    asyncio.get_running_loop().call_soon(fire, value)
    return deferred


def test_one_coroutine_may_await_both_kinds(awaiter: Awaiter) -> None:
    """Deferreds and asyncio's futures are awaited in one body, in any order, fired or not."""

    async def work() -> list[Any]:
        already: Deferred[int] = Deferred()
        already.callback(1)
        values = [await already, await fired_soon(2)]
        await asyncio.sleep(0)
        return [*values, await fired_soon(3), await asyncio.wait_for(asyncio.sleep(0, 4), 5)]

    assert awaiter.result_of(work()) == [1, 2, 3, 4]


def test_a_deferred_is_awaited_by_itself(awaiter: Awaiter) -> None:
    """A function may return a Deferred that has fired."""
    deferred: Deferred[str] = Deferred()
    deferred.callback("done")
    assert awaiter.result_of(deferred) == "done"


def test_a_failed_deferred_raises_where_it_is_awaited(awaiter: Awaiter) -> None:
    """The coroutine may catch the exception of a failed Deferred, and go on."""

    async def work() -> str:
        try:
            await fired_soon(LookupError("gone"))
        except LookupError as error:
            return f"caught {error}"
        return "nothing"

    assert awaiter.result_of(work()) == "caught gone"


def test_a_timeout_of_asyncio_cancels_the_deferred(awaiter: Awaiter) -> None:
    """asyncio.timeout around a Deferred runs its canceller."""
    cancelled: list[Deferred[Any]] = []

    async def work() -> str:
        never: Deferred[Any] = Deferred(cancelled.append)
        never.addErrback(lambda failure: failure.trap(CancelledError))
        try:
            async with asyncio.timeout(0):
                await never
        except TimeoutError:
            return "too late"
        return "in time"

    assert awaiter.result_of(work()) == "too late"
    assert len(cancelled) == 1


def test_a_deferred_that_fires_after_the_timeout_harms_nothing(awaiter: Awaiter) -> None:
    """If the Deferred's canceller fires it, the timeout error still counts."""

    async def work() -> None:
        stubborn: Deferred[Any] = Deferred(lambda deferred: deferred.callback("late"))
        async with asyncio.timeout(0):
            await stubborn

    with pytest.raises(TimeoutError):
        awaiter.result_of(work())


def test_what_a_job_leaves_running_is_cancelled_at_the_end() -> None:
    """A coroutine that a job leaves running ends with the process, without an error."""
    left: list[asyncio.Task[Any]] = []

    async def work() -> None:
        left.append(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))

    awaiter = Awaiter()
    awaiter.result_of(work())
    assert not left[0].done()
    awaiter.close()
    assert left[0].cancelled()


def test_a_reactor_that_is_installed_already_is_named(awaiter: Awaiter) -> None:
    """An installed reactor that is not this loop's is refused: its Deferreds would never fire."""
    from twisted.internet import reactor

    assert awaiter.foreign_reactor() == type(reactor).__name__


def test_only_the_reactor_is_provided(awaiter: Awaiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the import of the reactor is replaced."""
    monkeypatch.setattr(sys, "meta_path", [awaiter, *sys.meta_path])
    assert awaiter.find_spec("json.tool", None) is None
    assert importlib.import_module("json.tool").__name__ == "json.tool"
