"""
Celery: Redis as its broker and its result backend, and preforked workers (its default).
"""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]

from bench.clients.user_level.echo import WAIT_SECONDS, echo
from bench.clients.user_level.farm import Farm
from bench.clients.user_level.meter import Meter, in_order, one_at_a_time

_url = os.environ["BENCH_REDIS_URL"]
app = Celery("bench", broker=_url, backend=_url)
job = app.task(echo)


def start(farm: Farm, workers: int) -> None:
    """Start Redis, and a worker with *workers* processes."""
    farm.start_redis()
    farm.start_python("workers", "-m", "celery", "-A", __name__, "worker", f"--concurrency={workers}")


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight."""
    one_at_a_time(lambda body: job.delay(body).get(timeout=WAIT_SECONDS), one)
    in_order(job.delay, lambda result: result.get(timeout=WAIT_SECONDS), window, many)
