"""
Dramatiq with one job at a time in each process, like the other systems here.
"""

from __future__ import annotations

from bench.clients.user_level import on_dramatiq
from bench.clients.user_level.farm import Farm

measure = on_dramatiq.measure


def start(farm: Farm, workers: int) -> None:
    """Start Redis, and *workers* processes of one thread."""
    on_dramatiq.start(farm, workers, "--threads", "1")
