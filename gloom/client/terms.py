"""
The terms of a job: the parameters of a submission beside its id, type and body. Imports no Twisted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from gloom.client.arguments import (
    MOST_RETRIES,
    checked_flag,
    checked_id,
    checked_number,
    checked_priority,
    checked_type,
    seconds,
    some_seconds,
)
from gloom.wire.bodies import encode_body
from gloom.wire.messages import ExtendedSubmit

# The limit of docs/protocol.md for one submit_many, and the size of a submit_many without jobs.
_MOST_JOBS_A_FRAME = 10_000
_ENVELOPE_BYTES = len(b'{"action":"submit_many","jobs":[]}')


class Terms(TypedDict, total=False):
    """
    The terms of a job.

    Attributes:
        priority: Signed 64 bits; larger first, equal ones by submission.
        timeout: Seconds that one attempt may run, over 0; None for no limit.
        expires: Seconds that the job may wait for a slave; None for no limit.
        delay: Seconds before the job may start; None for none.
        retries: Number of further attempts, 0 to 100; None for the broker's default.
        require_slave: Whether the broker refuses the job with ``no_slaves`` if no slave of its type has joined.
    """

    priority: int
    timeout: float | None
    expires: float | None
    delay: float | None
    retries: int | None
    require_slave: bool


class WatchedTerms(Terms, total=False):
    """
    The terms of a job, and callbacks.

    Attributes:
        on_progress: Called with each value that the slave sends as progress of the job.
        on_receipt: Called with the job's receipt before the answer comes: a mapping with
            ``queued`` and ``ran`` (seconds), ``attempts`` and ``slave``. Needs a master with receipts.
    """

    on_progress: Callable[[Any], object] | None
    on_receipt: Callable[[Mapping[str, Any]], object] | None


def submission(id: str | int, type: str | None, body: Any, **terms: Unpack[Terms]) -> ExtendedSubmit:
    """
    Return the request that submits a job.

    Raises:
        ValueError: A term is out of its range; the text says which.
        TypeError: A term is of another kind.
        BodyError: *body* is not JSON.
    """
    type, priority, timeout, expires, delay, retries, require_slave = checked_terms(type, **terms)
    return ExtendedSubmit(
        checked_id(id), encode_body(body), type, priority, False, timeout, expires, delay, retries, require_slave
    )


def checked_terms(
    type: str | None,
    priority: int = 0,
    timeout: float | None = None,
    expires: float | None = None,
    delay: float | None = None,
    retries: int | None = None,
    require_slave: bool = False,
) -> tuple[str | None, int, float | None, float | None, float | None, int | None, bool]:
    """
    Return the terms of a job, all but its id and body, as plain values in this order.

    Raises:
        ValueError: A term is out of its range; the text says which.
        TypeError: A term is of another kind.
    """
    return (
        checked_type(type),
        checked_priority(priority),
        None if timeout is None else some_seconds("timeout", timeout),
        None if expires is None else seconds("expires", expires),
        None if delay is None else seconds("delay", delay),
        None if retries is None else checked_number("retries", retries, 0, MOST_RETRIES),
        checked_flag("require_slave", require_slave),
    )


def batches(sizes: Sequence[int], max_frame_bytes: int) -> Iterator[slice]:
    """
    Divide jobs into parts that fit into one ``submit_many`` each, and yield the slices in order.

    A job that fits with no other has a part of its own, even if it is too large for a frame.

    Args:
        sizes: The bytes of each job.
        max_frame_bytes: The broker's limit for a frame.
    """
    start, filled = 0, _ENVELOPE_BYTES
    for index, size in enumerate(sizes):
        if index > start and (filled + size + 1 > max_frame_bytes or index - start == _MOST_JOBS_A_FRAME):
            yield slice(start, index)
            start, filled = index, _ENVELOPE_BYTES
        filled += size + 1
    if start < len(sizes):
        yield slice(start, len(sizes))
