"""
RQ with its other worker class, which runs jobs in its own process.
"""

from __future__ import annotations

from bench.clients.user_level import on_rq
from bench.clients.user_level.farm import Farm

measure = on_rq.measure


def start(farm: Farm, workers: int) -> None:
    """Start Redis, and a pool of *workers* processes that do not fork."""
    on_rq.start(farm, workers, "--worker-class", "rq.SimpleWorker")
