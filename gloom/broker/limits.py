"""
The limits on the broker's jobs and types, and the refusals of requests beyond them (docs/protocol.md, section 1.6).

Only counts are known here, of jobs, types and bytes: not the jobs and peers themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from gloom.errors import Busy, Draining
from gloom.settings import Settings

#: Memory of a job, besides its payload.
JOB_BYTES = 400
#: Memory of a place, a joined type that few slaves share: its name, its queue, its entry in a crew.
PLACE_BYTES = 1000
# As JOB_BYTES, with a reserve.
_JOB_BYTES_AT_MOST = 1000


class Limits:
    """
    The limits on jobs, on joined types and on memory.

    Args:
        settings: The options.

    Attributes:
        unchecked_jobs: A number of jobs in flight. Below it, and up to `unchecked_bytes`, no
            limit is reached: so a ``submit`` makes two comparisons for all limits.
        unchecked_bytes: A size of their payloads.
        measure: Measures the memory of the process, and calls `allow` or `refuse`.
    """

    __slots__ = (
        "_draining",
        "_granted_bytes",
        "_granted_jobs",
        "_max_bytes",
        "_max_jobs",
        "_max_master_bytes",
        "_max_master_jobs",
        "_max_places",
        "_memory_is_full",
        "measure",
        "unchecked_bytes",
        "unchecked_jobs",
    )

    def __init__(self, settings: Settings) -> None:
        self._max_jobs = settings.max_jobs
        self._max_bytes = settings.max_queued_bytes
        self._max_master_jobs = max(1, int(settings.max_jobs * settings.master_share))
        self._max_master_bytes = int(settings.max_queued_bytes * settings.master_share)
        self._max_places = settings.max_joined_types
        self._draining = False
        self._memory_is_full = False
        # Until the next measurement.
        self._granted_jobs = self._max_jobs
        self._granted_bytes = self._max_bytes
        self.measure: Callable[[], None] = lambda: None
        self.unchecked_jobs = self._max_master_jobs
        self.unchecked_bytes = self._max_master_bytes

    def drain(self) -> None:
        """Refuse all jobs from now on."""
        self._draining = True
        self.unchecked_jobs = 0

    # Memory

    def allow(self, jobs: int, used_bytes: int, free_bytes: int) -> None:
        """
        Let jobs take some of the free memory before it is measured again.

        Args:
            jobs: The number of jobs in flight.
            used_bytes: The size of their payloads.
            free_bytes: The memory that the process may still take.
        """
        self._memory_is_full = False
        # Half of it for payloads, half of it for all else.
        self._granted_jobs = jobs + free_bytes // (2 * _JOB_BYTES_AT_MOST)
        self._granted_bytes = used_bytes + free_bytes // 2
        self._check_beyond_the_grant()

    def refuse(self) -> None:
        """Refuse jobs until the next measurement."""
        self._memory_is_full = True
        self._granted_jobs = 0
        self._check_beyond_the_grant()

    def _check_beyond_the_grant(self) -> None:
        self.unchecked_bytes = min(self._max_master_bytes, self._granted_bytes)
        if not self._draining:
            self.unchecked_jobs = min(self._max_master_jobs, self._granted_jobs)

    # Refusals

    def refusal(
        self, jobs: int, used_bytes: int, master_jobs: int, master_bytes: int, size: int
    ) -> Busy | Draining | None:
        """Return the error that refuses one more job of *size* bytes, or None if there is room for it."""
        if self._draining:
            return Draining("the broker is shutting down")
        if jobs >= self._max_jobs:
            return Busy(f"the broker has {self._max_jobs} jobs in flight, its limit (--max-jobs)")
        if master_jobs >= self._max_master_jobs:
            return Busy(f"this master has {self._max_master_jobs} jobs in flight, its limit (--master-share)")
        if used_bytes + size > self._max_bytes:
            limit = f"{self._max_bytes} bytes of jobs in flight (--max-queued-bytes)"
            return Busy(f"with {size} bytes more the broker would go over its {limit}")
        if master_bytes + size > self._max_master_bytes:
            limit = f"{self._max_master_bytes} bytes of jobs in flight (--master-share)"
            return Busy(f"with {size} bytes more this master would go over its {limit}")
        return self._refusal_for_memory(jobs, used_bytes + size)

    def _refusal_for_memory(self, jobs: int, used_bytes: int) -> Busy | None:
        if not self._is_granted(jobs, used_bytes) and not self._memory_is_full:
            self.measure()
        if self._is_granted(jobs, used_bytes):
            return None
        return Busy("the memory of the broker is nearly full (--max-memory-bytes)")

    def _is_granted(self, jobs: int, used_bytes: int) -> bool:
        return jobs < self._granted_jobs and used_bytes <= self._granted_bytes

    def is_over(self, places: int) -> bool:
        """Return whether *places* exceeds the limit of joined types."""
        return places > self._max_places

    def check_places(self, places: int) -> None:
        """
        Refuse a ``join`` that would bring the joined types to *places*.

        Raises:
            Busy: That exceeds the limit.
        """
        if self.is_over(places):
            limit = f"{self._max_places} joined types (--max-joined-types)"
            raise Busy(f"with these types the slaves would go over their {limit}")
