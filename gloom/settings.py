"""
The broker's limits and times, checked when they are created.

`gloom.tap` reads the command line; nothing here reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    The limits and times of a broker.

    Attributes:
        max_frame_bytes: Largest payload of one frame, 1 KiB to 2 GiB (docs/protocol.md, section 1).
        retries: How often a job is tried again after its slave disappeared, 0 to 100.
        require_type: Whether a ``submit`` without a type is refused.
        linger_seconds: How long the peer of a closing connection may take none of
            the bytes that are left for it, before it is dropped.
        max_heartbeat_seconds: Longest silence that a peer may agree on with ``hello``.
        max_jobs: Most jobs in flight.
        max_queued_bytes: Most bytes of all jobs in flight together.
        master_share: Largest part of these two limits for one master, over 0 up to 1.
        max_joined_types: Most joined types of all slaves together.
        max_memory_bytes: Memory of the process at which jobs are refused;
            0 for three quarters of the system's limit.
        max_connections: Most open connections, both ports together.
        max_unread_bytes: Most bytes that wait for one peer that does not read, before it is dropped.
        max_total_unread_bytes: Most bytes that wait for all peers together, before the slowest is dropped.
        unread_seconds: How long a peer over max_unread_bytes may make no progress.
        least_read_bytes: Bytes that it must take in that time to make progress.
        pause_unread_bytes: Bytes waiting for a peer at which the broker stops reading from it.
        stall_seconds: How long a half-received frame may make no progress; and how
            long the first frame of a connection may take in all.
        drain_seconds: How long a shutdown waits for the jobs in hand.
        max_stranger_frame_bytes: Largest payload of a frame from a peer that must identify itself and has not.
        max_stranger_hellos: Most requests of such a peer.
        verbose: Whether refused requests are logged, at debug level. A setting,
            since twistd cannot filter events by their level.

    Raises:
        SettingsError: A value is out of its range.
    """

    max_frame_bytes: int = 16 * MIB
    retries: int = 3
    require_type: bool = False
    linger_seconds: float = 1.0
    max_heartbeat_seconds: int = 3600
    max_jobs: int = 2_000_000
    max_queued_bytes: int = 2 * GIB
    master_share: float = 0.5
    max_joined_types: int = 100_000
    max_memory_bytes: int = 0
    max_connections: int = 20_000
    max_unread_bytes: int = 64 * MIB
    max_total_unread_bytes: int = 512 * MIB
    unread_seconds: float = 10.0
    least_read_bytes: int = 64 * KIB
    pause_unread_bytes: int = 1 * MIB
    stall_seconds: float = 30.0
    drain_seconds: float = 30.0
    max_stranger_frame_bytes: int = 64 * KIB
    max_stranger_hellos: int = 8
    verbose: bool = False

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], *, require_type: bool = False, verbose: bool = False) -> Settings:
        """
        Return the settings of a command line.

        Args:
            texts: Option -> text of a number; an option is the name of its field, with ``-`` for ``_``.
            require_type: As the attribute.
            verbose: As the attribute.

        Raises:
            SettingsError: A text is not a number, or its value is out of range.
        """
        numbers: dict[str, Any] = {}
        for option, text in texts.items():
            field = option.replace("-", "_")
            numbers[field] = _number(option, type(getattr(cls, field)), text)
        return cls(**numbers, require_type=require_type, verbose=verbose)

    def __post_init__(self) -> None:
        _within("max-frame-bytes", self.max_frame_bytes, KIB, 2 * GIB)
        _within("retries", self.retries, 0, 100)
        _within("max-jobs", self.max_jobs, 1, 10**9)
        _within("max-queued-bytes", self.max_queued_bytes, MIB, 1 << 50)
        _within("max-joined-types", self.max_joined_types, 1, 10**9)
        _within("max-memory-bytes", self.max_memory_bytes, 0, 1 << 50)
        _within("max-connections", self.max_connections, 1, 10**6)
        _within("max-unread-bytes", self.max_unread_bytes, MIB, 1 << 40)
        _within("max-total-unread-bytes", self.max_total_unread_bytes, MIB, 1 << 50)
        _within("stall-seconds", self.stall_seconds, 0.1, 86_400)
        _within("drain-seconds", self.drain_seconds, 0, 86_400)
        if not 0 < self.master_share <= 1:
            raise SettingsError(f"master-share must be over 0 and at most 1, got {self.master_share}")


def _number(option: str, kind: type[int] | type[float], text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{option} must be {expected}, got {text!r}") from None


def _within(name: str, value: float, low: float, high: int) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} must be {low} to {high}, got {value}")
