"""
Blocking masters and slaves for plain scripts: no reactor, no thread, no Twisted.

The Python client of 2009, with its names; it speaks docs/protocol.md:

    with Master() as master:
        master.submit(type="double", body=21)
        print(master.receive().body)

    with Slave() as slave:
        slave.join("double")
        slave.serve(lambda n: 2 * n)

Every ``timeout`` is in seconds and covers the whole call; None waits for ever.
A call that times out loses nothing: the next call goes on with the part of a
message that has arrived, and the request stays in force. A connection is for
one thread at a time. When the broker ends it, the program has to connect again.
"""

from gloom.client.blocking.base import Connection
from gloom.client.blocking.jobs import Job
from gloom.client.blocking.master import Master
from gloom.client.blocking.slave import Slave
from gloom.errors import (
    BodyError,
    GloomError,
    JobFailed,
    ProtocolError,
    RequestRefused,
    ServerError,
    TimedOut,
    TransportError,
    TryAgain,
)

__all__ = [
    "BodyError",
    "Connection",
    "GloomError",
    "Job",
    "JobFailed",
    "Master",
    "ProtocolError",
    "RequestRefused",
    "ServerError",
    "Slave",
    "TimedOut",
    "TransportError",
    "TryAgain",
]
