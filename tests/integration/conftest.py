"""Brokers as processes; none outlives its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start brokers with options: ``daemon("--retries", "0").master_port``."""
    started: list[Daemon] = []

    def start(*options: str) -> Daemon:
        one = Daemon(tmp_path)
        started.append(one)
        return one.start(*options)

    yield start
    for one in started:
        if one.running:
            one.kill()
