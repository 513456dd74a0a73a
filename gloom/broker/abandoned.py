"""
The jobs of disconnected masters: they are forgotten in bounded steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gloom.broker.records import Job, Master

# A pass over so many masters of one job takes as long as all other work on it.
_MASTERS_A_JOB = 32
_ROOMY_BYTES = 100_000


class GoneMasters:
    """
    The disconnected masters that have jobs left to forget.

    Args:
        forget: Forgets a job that is not in hand and has no master.
    """

    def __init__(self, forget: Callable[[Job], None]) -> None:
        self._forget = forget
        self._masters: list[Master] = []

    def __len__(self) -> int:
        return len(self._masters)

    def __iter__(self) -> Iterator[Master]:
        return iter(self._masters)

    def add(self, master: Master) -> None:
        """Forget the jobs of *master*, from the next step on."""
        self._masters.append(master)

    def forget_some(self, most: int) -> None:
        """Forget at most *most* jobs; jobs with many masters count for more."""
        left = most
        while self._masters and left > 0:
            master = self._masters[-1]
            while master.jobs and left > 0:
                job = master.jobs.popitem()[0]
                left -= 1 + len(job.masters) // _MASTERS_A_JOB
                self._abandon(master, job)
            if not master.jobs:
                give_back(master.jobs)
                self._masters.pop()

    def _abandon(self, master: Master, job: Job) -> None:
        """Take *master* away from *job*, and forget the job if it was the last master and no slave has the job."""
        job.masters = tuple(other for other in job.masters if other is not master)
        master.queued_bytes -= len(job.payload)
        if job.slave is None and not job.masters:
            self._forget(job)


def give_back(emptied: dict[Any, Any]) -> None:
    """Free the memory of an emptied dict that was large: deletions alone never shrink it."""
    if emptied.__sizeof__() > _ROOMY_BYTES:
        emptied.clear()
