"""
The types of the Deferred client, as a user's mypy sees them.

Nothing runs this: mypy checks it with the rest, and a ``type: ignore`` that is
not needed is an error, so that each of them marks a call that mypy must refuse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock

from gloom.client.deferred import Answer, Answers, ClientTLS, Master, Slave
from gloom.errors import JobFailed

master = Master("127.0.0.1:9998", reactor=Clock())
Master(UNIXClientEndpoint(Clock(), "/run/gloom/masters.sock"), reactor=Clock(), name="me", heartbeat_seconds=0)
Master("127.0.0.1:9998")  # type: ignore[call-arg]
Master(9998, reactor=Clock())  # type: ignore[arg-type]


def double(n: int) -> int:
    return 2 * n


async def double_later(n: int) -> int:
    return 2 * n


def double_deferred(n: int) -> Deferred[int]:
    return Deferred()


for function in (double, double_later, double_deferred):
    assert_type(Slave("127.0.0.1:9999", "double", function, reactor=Clock(), finish_seconds=5), Slave)
Slave("127.0.0.1:9999", None, print, reactor=Clock())
Slave("127.0.0.1:9999", ["double", "twice"], double, reactor=Clock(), slots=5, token="t", tls=ClientTLS())
Slave("127.0.0.1:9999", "double", "double", reactor=Clock())  # type: ignore[arg-type]
Slave("127.0.0.1:9999", double, reactor=Clock())  # type: ignore[call-arg, arg-type]


def with_callbacks() -> None:
    answer = master.submit("double", 21, id="mine", priority=-1)
    assert_type(answer, Deferred[Any])
    answer.addCallback(print)
    answer.addErrback(lambda failure: failure.trap(JobFailed))
    master.submit("double", 21, timeout=5, expires=None, delay=0.5, retries=0, require_slave=True, on_progress=print)
    master.submit("double", 21, timeout="5")  # type: ignore[arg-type]
    master.submit("double", 21, patience=5)  # type: ignore[call-arg]
    assert_type(master.submit_many("double", [1, 2], timeout=5), list[Deferred[Any]])
    master.submit("double")  # type: ignore[call-arg]
    master.submit("double", 21, 5)  # type: ignore[call-arg]
    master.submit(b"double", 21)  # type: ignore[arg-type]
    master.submit("double", 21, id=1.5)  # type: ignore[arg-type]


async def bodies() -> AsyncIterator[str]:
    yield "body"


async def with_await() -> None:
    await master.when_connected(attempts=3)
    assert_type(await master.submit(None, {"a": [1, None]}), Any)
    answers = master.map("double", range(10), window=5)
    assert_type(answers, Answers)
    async for answer in answers:
        assert_type(answer, Answer)
        assert_type(answer.index, int)
        assert_type(answer.error, Exception | None)
        assert_type(answer.result(), Any)
        answer.index = 5  # type: ignore[misc]
    async for answer in master.map(None, bodies()):
        print(answer.value)  # noqa: T201 (nothing runs this)
    master.map("double", 10)  # type: ignore[arg-type]
    assert_type(master.unanswered, int)
    stopped: Deferred[None] = master.stopService()
    await stopped


def as_services() -> None:
    parent = MultiService()
    for service in (master, Slave("127.0.0.1:9999", "double", double, reactor=Clock())):
        service.setServiceParent(parent)
    child: IService = master
    child.startService()
