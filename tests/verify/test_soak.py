"""The judgement of `verify.reliability.soak`: steady or not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from verify.reliability.figures import MIB, quantile
from verify.reliability.soak import Sample, judge

STEADY = [Sample(60.0 + 10 * n, 50 * MIB, 20, 0.5, 1000.0, 0.001, 0.003) for n in range(9)]


def test_what_stays_as_it_was_passes() -> None:
    """Equal samples pass, and so does a single jump of the p99."""
    assert judge(STEADY) == []
    assert judge([*STEADY[:8], dataclasses.replace(STEADY[8], p99=1.0)]) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"resident": 53 * MIB}, "memory grew by 6.0 %"),
        ({"descriptors": 21}, "the descriptors did not stay"),
        ({"p99": 0.005}, "the p99 went from"),
    ],
)
def test_what_grows_fails(changed: dict[str, Any], what: str) -> None:
    """A run fails if memory grows by 5 %, descriptors by one, or the p99 by half over the last third."""
    grown = [dataclasses.replace(sample, **changed) for sample in STEADY[6:]]
    (failure,) = judge(STEADY[:6] + grown)
    assert failure.startswith(what)


def test_a_run_that_is_too_short_proves_nothing() -> None:
    """Fewer than three samples after the first minute are a failure, not a pass."""
    assert len(judge(STEADY[:2])) == 1


def test_a_quantile() -> None:
    """The p99 of 1 to 100 is 100, the p50 of one value is that value, and any quantile of nothing is 0."""
    assert (quantile(range(1, 101), 0.99), quantile([7], 0.5), quantile([], 0.5)) == (100, 7, 0)
