"""
Real faults under load: stopped or forking processes, a bad network, clock jumps, no descriptors, a full disk.

During each fault, well-behaved peers of every kind are at work (`verify.reliability.crowd`):
masters and slaves of the Deferred client, of the blocking client and on plain
sockets. Each job must have exactly one outcome, the correct one. The broker may not drop
a well-behaved peer: its log must have no such line. `verify.reliability.chaos` runs all faults.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from verify.reliability.crowd import MASTERS, SLAVES
from verify.reliability.faults.clocks import clock_jumps
from verify.reliability.faults.forking import forks
from verify.reliability.faults.networks import bad_network
from verify.reliability.faults.scarcity import few_descriptors, full_disk
from verify.reliability.faults.scene import NotPossible
from verify.reliability.faults.sizes import large_answers, mapped_large_answers
from verify.reliability.faults.standing import (
    stopped_broker,
    stopped_child,
    stopped_member,
    stopped_slave_with_large_jobs,
)
from verify.reliability.figures import show


def everything(directory: Path, *, quick: bool, names: str = "") -> list[str]:
    """Run every fault with *names* in its name, each in its own directory; return the failures."""
    failures: list[str] = []
    for number, (fault, arguments) in enumerate(all_faults((3.0,) if quick else (5.0, 30.0))):
        if names not in fault.__name__:
            continue
        here = directory / str(number)
        here.mkdir()
        try:
            failures += fault(here, *arguments)
        except NotPossible as error:
            show(f"{fault.__name__}: skipped: {error}")
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failures.append(f"{fault.__name__}{arguments}: {type(error).__name__}: {error}")
    return failures


Fault = Callable[..., list[str]]


def all_faults(stops: Sequence[float]) -> Iterator[tuple[Fault, tuple[Any, ...]]]:
    """Yield the faults; *stops* are the seconds for which processes are stopped."""
    shortest = stops[0]
    for seconds in stops:
        yield stopped_broker, (seconds,)
        for kind in (*MASTERS, *SLAVES):
            yield stopped_member, (kind, seconds)
        yield stopped_child, (seconds,)
    yield stopped_slave_with_large_jobs, (shortest,)
    for fault in (bad_network, clock_jumps, few_descriptors, full_disk):
        yield fault, (shortest,)
    yield large_answers, ()
    yield mapped_large_answers, ()
    yield forks, (shortest,)
