"""
The jobs of disconnected masters, which nobody waits for: forgotten in bounded steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gloom.broker.records import Job, Master

# A pass over so many masters of a job takes as long as all other work for it.
_MASTERS_A_JOB = 32
_ROOMY_BYTES = 100_000


class GoneMasters:
    """
    The disconnected masters that still have jobs to be forgotten.

    Args:
        forget: Forgets a job that no slave has in hand.
    """

    def __init__(self, forget: Callable[[Job], None]) -> None:
        self._forget = forget
        self._masters: list[Master] = []

    def __len__(self) -> int:
        return len(self._masters)

    def __iter__(self) -> Iterator[Master]:
        return iter(self._masters)

    def add(self, master: Master) -> None:
        """Have the jobs of *master* forgotten."""
        self._masters.append(master)

    def forget_some(self, most: int) -> None:
        """Forget *most* jobs, or fewer of those that have many masters."""
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
        """*master* does not wait for *job* any more."""
        job.masters = tuple(other for other in job.masters if other is not master)
        master.queued_bytes -= len(job.payload)
        if job.slave is None and not job.masters:
            self._forget(job)


def give_back(emptied: dict[Any, Any]) -> None:
    """Free the memory of a dict that was large: by deletion alone it never shrinks."""
    if emptied.__sizeof__() > _ROOMY_BYTES:
        emptied.clear()
