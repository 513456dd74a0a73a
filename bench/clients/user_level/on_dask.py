"""
dask.distributed: a scheduler, workers of one thread, and futures as completed.
"""

from __future__ import annotations

from typing import Any

from distributed import Client, as_completed  # type: ignore[import-not-found]

from bench.clients.user_level.echo import BODY, WAIT_SECONDS, check, echo
from bench.clients.user_level.farm import Farm, free_port
from bench.clients.user_level.meter import Meter, one_at_a_time

_port = free_port()
_address = f"tcp://127.0.0.1:{_port}"


def start(farm: Farm, workers: int) -> None:
    """Start a scheduler, and *workers* processes."""
    farm.start_python("scheduler", "-m", "distributed.cli.dask_scheduler", "--host=127.0.0.1", f"--port={_port}")
    farm.wait_for_port(_port)
    worker = ("-m", "distributed.cli.dask_worker", _address, "--host=127.0.0.1")
    farm.start_python("workers", *worker, f"--nworkers={workers}", "--nthreads=1")


def measure(one: Meter, many: Meter, window: int) -> None:
    """Let *one* count jobs one at a time, and *many* a window in flight, as completed."""
    with Client(_address) as client:
        one_at_a_time(lambda body: _submit(client, body).result(timeout=WAIT_SECONDS), one)
        completed = as_completed([_submit(client, BODY) for _ in range(window)], with_results=True)
        more = True
        for _, answer in completed:
            check(answer)
            more = more and many.answered()
            if more:
                completed.add(_submit(client, BODY))


def _submit(client: Any, body: str) -> Any:
    # dask would run a pure function only once for equal arguments.
    return client.submit(echo, body, pure=False)
