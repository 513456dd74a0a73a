"""
A slave that takes one job and never answers: ``python -m verify.reliability.holder HOST:PORT HEARTBEAT_SECONDS``.

It prints ``in hand`` when it has received the job. A heartbeat of 0 means none.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from gloom.client.deferred import Slave
from verify.reliability.jobs import HELD


def hold(body: Any) -> Deferred[None]:
    """Never answer."""
    sys.stdout.write("in hand\n")
    sys.stdout.flush()
    return Deferred()


def main(reactor: Any) -> Deferred[None]:
    slave = Slave(sys.argv[1], HELD, hold, reactor=reactor, heartbeat_seconds=float(sys.argv[2]))
    slave.startService()
    return Deferred()


if __name__ == "__main__":
    react(main)
