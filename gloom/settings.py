"""
The broker's limits and times, checked once, when they are made.

Nothing here reads a command line or the environment: `gloom.tap` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from gloom.errors import SettingsError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: The ports of 2009.
MASTER_PORT = 9998
SLAVE_PORT = 9999


@dataclass(frozen=True)
class Settings:
    """
    What a broker allows.

    Attributes:
        max_frame_bytes: Largest payload of one frame, 1 KiB to 2 GiB (docs/protocol.md, section 1).
        retries: How often a job whose slave disappeared is tried again, 0 to 100.
        require_type: Whether a ``submit`` without a type is refused.
        linger_seconds: How long a connection that the broker closes may take
            to read what is left for it, before it is dropped.
        max_heartbeat_seconds: Longest silence that a peer may agree on with ``hello``.
        verbose: Whether refused requests are logged, at debug level. Here, since
            twistd has no level of its own: what is emitted is written.

    Raises:
        SettingsError: A value is out of its range.
    """

    max_frame_bytes: int = 16 * MIB
    retries: int = 3
    require_type: bool = False
    linger_seconds: float = 1.0
    max_heartbeat_seconds: int = 3600
    verbose: bool = False

    def __post_init__(self) -> None:
        _within("max-frame-bytes", self.max_frame_bytes, KIB, 2 * GIB)
        _within("retries", self.retries, 0, 100)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} must be {low} to {high}, got {value}")
