"""
Huey: worker processes, and results that notify clients.
"""

from __future__ import annotations

import os

from huey import RedisHuey  # type: ignore[import-not-found]

from bench.clients.user_level.echo import WAIT_SECONDS, echo
from bench.clients.user_level.farm import Farm
from bench.clients.user_level.meter import Meter, in_order, one_at_a_time

# Without notify_result clients poll, first after 50 ms and then at growing intervals.
huey = RedisHuey("bench", url=os.environ["BENCH_REDIS_URL"], notify_result=True)
job = huey.task()(echo)


def start(farm: Farm, workers: int) -> None:
    """Start Redis, and a consumer with *workers* processes."""
    farm.start_redis()
    consumer = ("-m", "huey.bin.huey_consumer", f"{__name__}.huey")
    farm.start_python("workers", *consumer, "--worker-type=process", f"--workers={workers}")


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight."""
    one_at_a_time(lambda body: job(body)(blocking=True, timeout=WAIT_SECONDS), one)
    in_order(job, lambda result: result(blocking=True, timeout=WAIT_SECONDS), window, many)
