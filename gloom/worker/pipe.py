"""
What a worker and its child say to each other: frames, as on the wire, through two pipes.

The parent writes jobs to the child's descriptor 3, each a number of eight bytes
and a `Job`; the child writes to 4, each payload led by one byte that says its
kind, and by the number of the job that it is about. One job at a time, so one
answer or failure for each job, in order, and progress of the one that runs. The
parent ignores a payload with another number than that of the job in hand.
Imports no Twisted.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gloom.errors import BodyError
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Fail, encode_request

#: The child's descriptors: jobs come in, and what became of them goes out. 0 to 2 stay the job's own.
JOBS_FD, OUTCOMES_FD = 3, 4

#: What leads a payload from the child.
READY = b"r"  # nothing follows: jobs may come
UNUSABLE = b"u"  # a `Fail` follows: what is to answer jobs cannot be loaded; the child ends
ANSWER = b"a"  # the answer follows, one JSON value
FAILURE = b"f"  # a `Fail` follows
PROGRESS = b"p"  # how the job that runs gets on, one JSON value


class Job(Struct, array_like=True):
    """
    A job for a child.

    Attributes:
        id: The job's id.
        type: The job type, or None for an untyped job.
        max_answer_bytes: A larger answer is a failure.
        body: What the master sent, as JSON.
    """

    id: str | int
    type: str | None
    max_answer_bytes: int
    body: Raw


#: The number in payloads before the first job.
NO_JOB = bytes(8)
NUMBER_BYTES = len(NO_JOB)
_LENGTH_BYTES = 4

encode_job = msgspec.json.Encoder().encode
decode_job = msgspec.json.Decoder(Job).decode

encode_failure = encode_request
decode_failure = msgspec.json.Decoder(Fail).decode


def job_number(count: int) -> bytes:
    """Return the number of the job that is a child's *count*-th."""
    return count.to_bytes(NUMBER_BYTES)


def frame_of(head: bytes, content: bytes | memoryview) -> bytes:
    """Return a frame with the payload *head* + *content*, which is copied once."""
    return (len(head) + len(content)).to_bytes(_LENGTH_BYTES) + head + content


def value_of(job: Job) -> Any:
    """
    Return the Python value of the job's body.

    Raises:
        BodyError: It is more than Python reads.
    """
    try:
        return decode_body(job.body)
    except BodyError as error:
        # Where it was raised tells nobody anything.
        raise error.with_traceback(None) from None
