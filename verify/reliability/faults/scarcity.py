"""Scarce resources: descriptors, and disk space."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from verify.reliability.faults.scene import RETRIES, Crowd, FaultyBroker, among, is_heard, until


def few_descriptors(directory: Path, seconds: float, limit: int = 64) -> list[str]:
    """Limit the broker to 64 descriptors and use them all for a time; then limit the peers to 64."""
    few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
    with (
        FaultyBroker(directory, RETRIES, prefix=few) as broker,
        Crowd(broker.master_port, broker.slave_port, prefix=few) as crowd,
        ExitStack() as others,
    ):

        def crowd_out() -> None:
            for _ in range(2 * limit):
                others.enter_context(socket.create_connection(("127.0.0.1", broker.master_port), 10))
            time.sleep(seconds)
            others.close()
            until(lambda: is_heard(broker.master_port), "there is no room again")

        return among(f"{limit} descriptors", broker, crowd, crowd_out)


def full_disk(directory: Path, seconds: float) -> list[str]:
    """Put the log on a full disk: the broker continues without it."""
    with (
        FaultyBroker(directory, RETRIES, "--verbose", log=Path("/dev/full")) as broker,
        Crowd(broker.master_port, broker.slave_port) as crowd,
    ):

        def refuse() -> None:
            ending = time.monotonic() + seconds
            while time.monotonic() < ending:
                is_heard(broker.master_port)  # one log line each
                time.sleep(0.01)

        return among("a full disk for the log", broker, crowd, refuse)
