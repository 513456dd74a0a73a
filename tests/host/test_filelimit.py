"""The daemon raises its descriptor limit for the connections that it must allow."""

from __future__ import annotations

import resource

import pytest

from gloom.host.filelimit import RESERVED_DESCRIPTORS, DescriptorService, Limits
from tests.support.logged import logged

WANTED = 1000 + RESERVED_DESCRIPTORS


def started_with(limits: Limits, *, forbidden: bool = False) -> tuple[list[Limits], list[str]]:
    """Return the limit that a daemon for 1,000 connections sets in a process with *limits*, and its warnings."""
    made: list[Limits] = []

    def set_limits(limits: Limits) -> None:
        if forbidden:
            raise ValueError("not allowed")
        made.append(limits)

    with logged("gloom.host.filelimit") as events:
        DescriptorService(1000, lambda: limits, set_limits).startService()
    return made, [event["log_format"].format(**event) for event in events]


@pytest.mark.parametrize("hard", [WANTED, 100_000, resource.RLIM_INFINITY])
def test_the_soft_limit_is_raised_to_what_the_connections_need(hard: int) -> None:
    """A shell's limit of 256 descriptors is raised to the number that --max-connections needs, and no further."""
    assert started_with((256, hard)) == ([(WANTED, hard)], [])


@pytest.mark.parametrize("soft", [WANTED, resource.RLIM_INFINITY])
def test_a_limit_that_is_enough_is_left_alone(soft: int) -> None:
    """A larger limit is not lowered."""
    assert started_with((soft, resource.RLIM_INFINITY)) == ([], [])


def test_a_hard_limit_that_is_too_small_is_told() -> None:
    """A hard limit that is too small is used in full, and the log gives the shortfall and the remedy."""
    made, warnings = started_with((256, 512))
    assert made == [(512, 512)]
    (warning,) = warnings
    assert warning.startswith(f"1000 connections need {WANTED} descriptors, and this process may have 512")
    assert "--max-connections" in warning


def test_a_limit_that_may_not_be_changed_is_told() -> None:
    """In a sandbox that forbids the change, the daemon logs it and starts."""
    made, (warning,) = started_with((256, 100_000), forbidden=True)
    assert made == []
    assert "may have 256" in warning


def test_the_process_really_gets_it() -> None:
    """Without doubles, the limit of this process changes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 200 + RESERVED_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted - 1, hard))
    try:
        DescriptorService(200).startService()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
