"""
The protocol between a worker and its child: frames, as on the wire, through two pipes.

The parent writes jobs to the child's descriptor 3; each is a number of eight
bytes and a `Job`. The child writes to descriptor 4; each payload begins with one
byte for its kind and the number of its job. The child runs one job at a time: it
sends one answer or failure per job, in order, and progress of the running job.
The parent ignores payloads with another number than that of the job in hand.
Imports no Twisted.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gloom.errors import BodyError
from gloom.wire.bodies import decode_body
from gloom.wire.messages import Fail, encode_request

#: The child's descriptors for jobs and outcomes; 0 to 2 belong to the job.
JOBS_FD, OUTCOMES_FD = 3, 4

#: The kinds of payloads from the child: their first byte.
READY = b"r"  # nothing follows: the child can take jobs
UNUSABLE = b"u"  # a `Fail` follows: the function or program cannot be loaded, and the child ends
ANSWER = b"a"  # the answer follows, one JSON value
FAILURE = b"f"  # a `Fail` follows
PROGRESS = b"p"  # a progress report of the running job follows, one JSON value


class Job(Struct, array_like=True):
    """
    A job for a child.

    Attributes:
        id: The job's id.
        type: The job type, or None for an untyped job.
        max_answer_bytes: A larger answer is a failure.
        body: The body from the master, as JSON.
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
    """Return the number of a child's *count*-th job."""
    return count.to_bytes(NUMBER_BYTES)


def frame_of(head: bytes, content: bytes | memoryview) -> bytes:
    """Return a frame with the payload *head* + *content*; *content* is copied once."""
    return (len(head) + len(content)).to_bytes(_LENGTH_BYTES) + head + content


def value_of(job: Job) -> Any:
    """
    Return the Python value of the job's body.

    Raises:
        BodyError: Python cannot read it.
    """
    try:
        return decode_body(job.body)
    except BodyError as error:
        # The frames of the decoder are of no use to the user.
        raise error.with_traceback(None) from None
