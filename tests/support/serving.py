"""
Slaves of a few types, as one process: ``python serving.py HOST:PORT``.

They come back by themselves when the broker does. On SIGTERM they stop.
"""

from __future__ import annotations

import sys
from typing import Any

from msgspec import Raw
from twisted.internet import reactor as untyped
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from gloom.client.deferred import Slave

reactor: Any = untyped

SHUFFLING_SLAVES = 8


def echo(body: Any) -> Any:
    return body


def picky(body: Any) -> Any:
    if body == 3:
        raise ValueError("no\nthrees")
    return body


def literal(body: str) -> Raw:
    """Answer with the JSON that the string *body* holds."""
    return Raw(body.encode())


def shuffled(body: int) -> Deferred[int]:
    """Of eight jobs at once, answer the first last."""
    return deferLater(reactor, 0.02 * (SHUFFLING_SLAVES - body % SHUFFLING_SLAVES), lambda: body)


async def main(reactor: Any) -> None:
    functions = [echo, echo, picky, literal, *[shuffled] * SHUFFLING_SLAVES]
    slaves = [Slave(sys.argv[1], one.__name__, one, reactor=reactor, finish_seconds=0) for one in functions]
    for slave in slaves:
        slave.startService()
        reactor.addSystemEventTrigger("before", "shutdown", slave.stopService)
    await gatherResults([slave.when_connected() for slave in slaves])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await Deferred()


if __name__ == "__main__":
    react(main)
