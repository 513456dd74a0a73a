"""
RQ: its worker pool, each worker forking one process per job (its default).
"""

from __future__ import annotations

import os
from typing import Any

from redis import Redis  # type: ignore[import-not-found]
from rq import Queue  # type: ignore[import-not-found]

from bench.clients.user_level.echo import WAIT_SECONDS, echo
from bench.clients.user_level.farm import Farm
from bench.clients.user_level.meter import Meter, in_order, one_at_a_time

_url = os.environ["BENCH_REDIS_URL"]
queue = Queue(connection=Redis.from_url(_url))


def start(farm: Farm, workers: int, *options: str) -> None:
    """Start Redis, and a pool of *workers* processes with *options*."""
    farm.start_redis()
    farm.start_python("workers", "-m", "rq.cli", "worker-pool", "--url", _url, "-n", str(workers), *options)


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight."""
    one_at_a_time(lambda body: _answer(_submit(body)), one)
    in_order(_submit, _answer, window, many)


def _submit(body: str) -> Any:
    return queue.enqueue(echo, body)


def _answer(job: Any) -> object:
    return job.latest_result(timeout=WAIT_SECONDS).return_value
