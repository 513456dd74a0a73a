"""
gloom with Dramatiq's default concurrency: two processes of 8 threads.
"""

from __future__ import annotations

from bench.clients.user_level import on_gloom
from bench.clients.user_level.farm import Farm

measure = on_gloom.measure

_JOBS_AT_ONCE_A_WORKER = 8


def start(farm: Farm, workers: int) -> None:
    """Start the broker, and 8 processes for each of *workers*."""
    on_gloom.start(farm, workers * _JOBS_AT_ONCE_A_WORKER)
