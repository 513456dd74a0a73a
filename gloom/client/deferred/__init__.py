"""
Masters and slaves for programs on Twisted: Deferreds, Services, connections that come back.

    master = Master("127.0.0.1:9998", reactor=reactor)
    master.startService()
    answer = await master.submit("double", 21)

    slave = Slave("127.0.0.1:9999", "double", lambda n: 2 * n, reactor=reactor)
    slave.startService()

Bodies and answers are plain Python values that JSON has. When a master's
connection drops, it submits its unanswered jobs again on the next one, with
``attach`` (docs/protocol.md, section 5): a restart of the broker costs time and
perhaps a second run of a job, but never an answer.
"""

from gloom.client.answer import Answer
from gloom.client.deferred.answers import Answers
from gloom.client.deferred.master import Master
from gloom.client.deferred.run import CurrentJob, current_job
from gloom.client.deferred.slave import Slave
from gloom.client.tls import ClientTLS

__all__ = ["Answer", "Answers", "ClientTLS", "CurrentJob", "Master", "Slave", "current_job"]
