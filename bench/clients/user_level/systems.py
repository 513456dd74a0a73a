"""
The systems compared, and the facts a reader must know of each: its persistence, and how clients wait for answers.
"""

from __future__ import annotations

from dataclasses import dataclass

_REDIS_KEEPS = "what is queued and answered, as of Redis's last snapshot: 1 minute ago under load, at most 1 hour"


@dataclass(frozen=True)
class System:
    """
    One system.

    Attributes:
        title: Its name, for people.
        packages: Its packages in requirements.txt, for versions; none for gloom itself.
        keeps: State that survives a crash of its server, with the settings measured.
        jobs: How its workers fetch and run jobs.
        answers: How the client waits for an answer.
        redis: Whether it needs redis-server.
        wanted: Whether gloom's target is to be ten times as fast.
    """

    title: str
    packages: tuple[str, ...]
    keeps: str
    jobs: str
    answers: str
    redis: bool = True
    wanted: bool = False


GLOOMS = ("gloom", "gloom-16")
"""The baseline of the comparison; its keys are below."""

SYSTEMS = {
    "gloom": System(
        "gloom",
        (),
        keeps="nothing; its clients submit again what is unanswered",
        jobs="pushed; `gloom work -c 2`, its default on two CPUs",
        answers="pushed; `await master.submit(...)`, and `master.map(..., window=64)` as completed",
        redis=False,
    ),
    "gloom-16": System(
        "gloom, -c 16",
        (),
        keeps="nothing, as gloom",
        jobs="pushed; `gloom work -c 16`: as many jobs at once as Dramatiq's default",
        answers="as gloom",
        redis=False,
    ),
    "celery": System(
        "Celery",
        ("celery",),
        keeps=_REDIS_KEEPS,
        jobs="blocking read (BRPOP); processes forked ahead, which is its default",
        answers="pushed (Redis publishes); `job.delay(...).get()`, in order",
        wanted=True,
    ),
    "rq": System(
        "RQ",
        ("rq",),
        keeps=_REDIS_KEEPS,
        jobs="blocking read; each job in a process forked for it, which is its default",
        answers="blocking read (XREAD); `job.latest_result(timeout=...)`, in order",
        wanted=True,
    ),
    "rq-simple": System(
        "RQ, SimpleWorker",
        ("rq",),
        keeps=_REDIS_KEEPS,
        jobs="blocking read; in the worker's own process",
        answers="as RQ",
    ),
    "dramatiq": System(
        "Dramatiq",
        ("dramatiq",),
        keeps=_REDIS_KEEPS,
        jobs="polls, ever more seldom while there is none; 8 threads a process, which is its default",
        answers="blocking read; `message.get_result(block=True)`, in order",
        wanted=True,
    ),
    "dramatiq-1": System(
        "Dramatiq, 1 thread",
        ("dramatiq",),
        keeps=_REDIS_KEEPS,
        jobs="polls; 1 thread a process, and so fewer jobs fetched ahead",
        answers="as Dramatiq",
    ),
    "huey": System(
        "Huey",
        ("huey",),
        keeps=_REDIS_KEEPS,
        jobs="blocking read; `--worker-type=process`",
        answers="blocking read, with `notify_result=True` (by default the client polls, first after 50 ms);"
        " `result(blocking=True)`, in order",
    ),
    "dask": System(
        "dask.distributed",
        ("distributed",),
        keeps="nothing",
        jobs="pushed; 1 thread a process",
        answers="pushed; `future.result()`, and `as_completed(..., with_results=True)`",
        redis=False,
    ),
}
