"""Loads of `bench.growth`: idle connections, waiting jobs, jobs in a closed loop."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Self

from bench.growth.broker import OK, Broker, Connection, frame

BODY = b'"' + b"x" * 98 + b'"'
JOB = b'{"action":"job"'
# Waiting jobs have distinct ids, by which a slave of the load recognises one.
WAITING = b'"id":"waiting-'
RESPOND = frame(b'{"action":"respond","body":' + BODY + b"}")
HELLO = frame(b'{"action":"hello","version":1}')


def join(*types: str, slots: int = 1) -> bytes:
    """Return the first messages of an extended slave: hello, and a join of *types*."""
    return HELLO + frame(json.dumps({"action": "join", "types": types, "slots": slots}).encode())


def idle(connect: Callable[[], Connection], first_words: Sequence[bytes], replies: int) -> list[Connection]:
    """Open a connection for each of *first_words*, send them, and wait for so many replies on each."""
    opened = [connect() for _ in first_words]
    for one, words in zip(opened, first_words, strict=True):
        one.send(words)
    for one in opened:
        one.ask(b"", replies)
    return opened


def wait_in(broker: Broker, count: int, types: Sequence[str]) -> Connection:
    """Queue *count* jobs in *broker*, of *types* in turn, with priority 0; return their master."""
    master = broker.connect_master()
    master.ask_many(_chunks(count, types), count)
    return master


def _chunks(count: int, types: Sequence[str]) -> Iterator[bytes]:
    jobs = (
        frame(b'{"action":"submit",%b%d","type":"%b","body":%b}' % (WAITING, number, type, BODY))
        for number, type in zip(range(count), cycle([type.encode() for type in types]), strict=False)
    )
    while chunk := b"".join(islice(jobs, 500)):
        yield chunk


def answer_all(broker: Broker, master: Connection, type: str, count: int) -> None:
    """Answer all jobs of *type* from one slave with many slots, until *master* has *count* outcomes."""
    slave = broker.connect_slave()
    slave.send(join(type, slots=1000))
    while count > 0:
        for one in select.select([slave, master], [], [])[0]:
            if one is master:
                count -= len(master.frames())
            else:
                slave.send(b"".join(_answer(payload) for payload in slave.frames() if payload.startswith(JOB)))
    slave.close()


def _answer(job: bytes) -> bytes:
    id = job.split(b'"id":"', 1)[1].split(b'"', 1)[0]
    return frame(b'{"action":"respond","id":"%b","body":1}' % id)


def echo(master: Connection, slave: Connection, body_bytes: int) -> None:
    """Submit a job of type echo with so many bytes of body, echo it from *slave*, and wait for the answer."""
    body = b'"' + b"x" * (body_bytes - 2) + b'"'
    master.send(frame(b'{"action":"submit","id":"echo","type":"echo","body":%b}' % body))
    slave.swallow(body_bytes)
    slave.send(frame(b'{"action":"respond","body":%b}' % body))
    master.swallow(body_bytes)


class Load:
    """
    Masters and slaves in a closed loop; use it as a context manager.

    Args:
        broker: The broker to load.
        slaves: The first messages of each slave, as `join` returns them.
        types: The types of the jobs, in turn.
        masters: Number of masters.
        window: Number of jobs that each master keeps in flight.
    """

    WARM_UP_JOBS = 2000
    _numbers = 0

    def __init__(
        self, broker: Broker, slaves: Sequence[bytes], types: Sequence[str], masters: int = 4, window: int = 64
    ) -> None:
        self._broker = broker
        self._window = window
        self._types = cycle([type.encode() for type in types])
        self._slaves = [broker.connect_slave() for _ in slaves]
        self._masters = [broker.connect_master() for _ in range(masters)]
        self._answered = self._unanswered = self._replies = 0
        self._ending = False
        self._poll = select.epoll()
        self._peers: dict[int, tuple[Connection, bool]] = {}
        for peers, is_slave in ((self._slaves, True), (self._masters, False)):
            for peer in peers:
                self._peers[peer.fileno()] = peer, is_slave
                self._poll.register(peer, select.EPOLLIN)
        for slave, words in zip(self._slaves, slaves, strict=True):
            slave.send(words)
        while self._replies < 2 * len(self._slaves):
            self._turn()

    def cpu_us_a_job(self, jobs: int) -> float:
        """Return the broker's CPU per job over *jobs*, in microseconds, while the windows are full."""
        self._answered = 0
        self._ending = False
        for master in self._masters:
            self._submit(master, self._window)
        self._run_until(self.WARM_UP_JOBS)
        first, cpu = self._answered, self._broker.cpu_us()
        self._run_until(first + jobs)
        result = (self._broker.cpu_us() - cpu) / (self._answered - first)
        self._ending = True
        while self._unanswered:
            self._turn()
        return result

    def _run_until(self, answered: int) -> None:
        while self._answered < answered:
            self._turn()

    def _turn(self) -> None:
        for descriptor, _ in self._poll.poll():
            peer, is_slave = self._peers[descriptor]
            frames = peer.frames()
            if is_slave:
                jobs = [payload for payload in frames if payload.startswith(JOB)]
                self._replies += len(frames) - len(jobs)
                self._respond(peer, jobs)
            elif count := sum(payload != OK for payload in frames):
                self._answered += count
                self._unanswered -= count
                if not self._ending:
                    self._submit(peer, count)

    def _respond(self, slave: Connection, jobs: list[bytes]) -> None:
        waiting = sum(WAITING in job[:64] for job in jobs)
        if self._ending:
            # A job waiting behind the load is not to be answered here: the slave keeps it until it closes.
            jobs = jobs[waiting:]
        else:
            self._answered += waiting
        if jobs:
            slave.send(RESPOND * len(jobs))

    def _submit(self, master: Connection, count: int) -> None:
        first = Load._numbers
        Load._numbers += count
        self._unanswered += count
        master.send(
            b"".join(
                frame(
                    b'{"action":"submit","id":"load-%d","type":"%b","priority":1,"body":%b}'
                    % (number, next(self._types), BODY)
                )
                for number in range(first, first + count)
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for peer in (*self._slaves, *self._masters):
            peer.close()
        self._poll.close()
