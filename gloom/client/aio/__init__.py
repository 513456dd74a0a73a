"""
Masters and slaves for programs on asyncio: coroutines, connections that come back. Imports no Twisted.

    async with Master("127.0.0.1:9998") as master:
        answer = await master.submit("double", 21)

    async with Slave("127.0.0.1:9999", "double", double) as slave:
        await slave.serve_forever()

Bodies and answers are plain Python values that JSON has. What a master has
unanswered when its connection drops is submitted again on the next one, with
``attach`` (docs/protocol.md, section 5): a broker that restarts costs time and
perhaps a second run of a job, never an answer.

A `Master` or `Slave` belongs to the event loop and the thread in which it was started.
"""

from gloom.client.aio.answers import Answers
from gloom.client.aio.master import Master
from gloom.client.aio.run import CurrentJob, current_job
from gloom.client.aio.slave import Slave
from gloom.client.answer import Answer
from gloom.client.tls import ClientTLS

__all__ = ["Answer", "Answers", "ClientTLS", "CurrentJob", "Master", "Slave", "current_job"]
