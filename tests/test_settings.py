"""The broker's limits, checked at construction."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from gloom.errors import SettingsError
from gloom.settings import GIB, KIB, MIB, Settings


def test_the_defaults() -> None:
    """Without options a frame may have 16 MiB, a job is tried 4 times, and a type is not required."""
    settings = Settings()
    assert (settings.max_frame_bytes, settings.retries, settings.require_type) == (16 * MIB, 3, False)


def test_settings_do_not_change() -> None:
    """A running broker's limits cannot be changed."""
    with pytest.raises(FrozenInstanceError):
        Settings().retries = 5  # type: ignore[misc]


@pytest.mark.parametrize("value", [KIB, 2 * GIB])
def test_a_frame_limit_at_the_ends_of_the_range(value: int) -> None:
    """1 KiB and 2 GiB are allowed."""
    assert Settings(max_frame_bytes=value).max_frame_bytes == value


@pytest.mark.parametrize("value", [KIB - 1, 2 * GIB + 1, 0, -1])
def test_a_frame_limit_out_of_range(value: int) -> None:
    """Any other limit is refused with the option's name, the range and the value."""
    with pytest.raises(SettingsError, match=f"max-frame-bytes must be 1024 to 2147483648, got {value}"):
        Settings(max_frame_bytes=value)


@pytest.mark.parametrize("value", [0, 100])
def test_retries_at_the_ends_of_the_range(value: int) -> None:
    """No retry and 100 retries are allowed."""
    assert Settings(retries=value).retries == value


@pytest.mark.parametrize("value", [-1, 101])
def test_retries_out_of_range(value: int) -> None:
    """Any other number of retries is refused with the range and the value."""
    with pytest.raises(SettingsError, match=f"retries must be 0 to 100, got {value}"):
        Settings(retries=value)
