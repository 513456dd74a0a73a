"""Every test of the contract runs against each kind of broker, and at its end the broker must be empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.broker.contract import BROKERS
from tests.support.floor import Floor, Kind


@pytest.fixture(params=BROKERS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def new_floor(kind: Kind) -> Iterator[Callable[..., Floor]]:
    """Makes a broker with other settings; every broker must be empty when all its peers have gone."""
    floors: list[Floor] = []

    def make(**settings: Any) -> Floor:
        floors.append(Floor(kind, **settings))
        return floors[-1]

    yield make
    for floor in floors:
        floor.everybody_goes()


@pytest.fixture
def floor(new_floor: Callable[..., Floor]) -> Floor:
    return new_floor()
