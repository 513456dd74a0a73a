"""
Dramatiq: Redis as its broker and as its result backend, on which clients wait.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from dramatiq.results import Results  # type: ignore[import-not-found]
from dramatiq.results.backends import RedisBackend  # type: ignore[import-not-found]

from bench.clients.user_level.echo import WAIT_SECONDS, echo
from bench.clients.user_level.farm import Farm
from bench.clients.user_level.meter import Meter, in_order, one_at_a_time

_url = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=_url)
broker.add_middleware(Results(backend=RedisBackend(url=_url)))
dramatiq.set_broker(broker)
job = dramatiq.actor(echo, store_results=True)


def start(farm: Farm, workers: int, *options: str) -> None:
    """Start Redis, and *workers* processes with *options*; without, each has 8 threads."""
    farm.start_redis()
    farm.start_python("workers", "-m", "dramatiq", __name__, "--processes", str(workers), *options)


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight."""
    one_at_a_time(lambda body: _answer(job.send(body)), one)
    in_order(job.send, _answer, window, many)


def _answer(message: Any) -> object:
    return message.get_result(block=True, timeout=WAIT_SECONDS * 1000)
