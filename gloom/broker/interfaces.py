"""
The seam between the front ends and a broker: `IBroker`, and the peers that it calls.

A front end (`gloom.server.protocols`) knows only `IBroker`; a broker knows only
`IMasterPeer` and `ISlavePeer`. The values that pass between them are in
`gloom.broker.values`. Another broker implements `IBroker`, and is tried by the
tests in ``tests/broker/contract``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zope.interface import Attribute, Interface

from gloom.broker.values import Failure, JobKey, Receipt, Terms

# zope.interface methods are declared without ``self``.
# ruff: noqa: N805

#: A broker's own record of a connection: opaque to the front end, which hands it back with every verb.
MasterRecord = Any
SlaveRecord = Any
#: One JSON value, as ``bytes`` or any object with its bytes in a buffer. A broker hands on the same object.
Body = Any


class IPeer(Interface):
    """
    One connection as the broker sees it.

    The methods of a peer only buffer bytes: they return at once, raise nothing,
    and never call the broker. So nothing re-enters a broker that calls a peer.
    """

    name: str = Attribute("The peer's name in failures: its ``hello`` name, or its address.")

    def accepted() -> None:
        """The request of this peer that the broker is handling was accepted: reply ok."""


class IMasterPeer(IPeer):
    """A connection on the master port."""

    wants_receipts: bool = Attribute("Whether `answered` needs a receipt.")

    def answered(id: JobKey, body: Body, receipt: Receipt | None) -> None:
        """
        A job of this master has its answer.

        Args:
            id: The job's id.
            body: The slave's answer.
            receipt: The course of the job; None for a master that wants no receipts.
        """

    def progressed(id: JobKey, body: Body) -> None:
        """
        The slave of a job of this master has reported progress.

        Args:
            id: The job's id.
            body: The slave's report.
        """

    def cancelling(running: bool) -> None:
        """
        The ``cancel`` of this master that the broker is handling was accepted; called instead of `accepted`.

        Args:
            running: Whether a slave has the job in hand.
        """

    def failed(id: JobKey, failure: Failure) -> None:
        """
        A job of this master ended without an answer.

        Args:
            id: The job's id.
            failure: The code, the reason and all attempts.
        """


class ISlavePeer(IPeer):
    """A connection on the slave port."""

    def assigned(payload: bytes) -> bool:
        """
        This slave has a job now.

        Args:
            payload: The payload of the job's ``submit``.

        Returns:
            True if the slave takes no other job before `IBroker.slave_ready`, as
            after `IBroker.slave_blocked`.
        """

    def revoked(id: JobKey) -> None:
        """
        The broker has ended this slave's attempt at a job: cancelled, timed out or abandoned.

        The attempt stays in the slave's hand, and its slot taken, until the
        slave lets go of it with ``respond`` or ``fail``.

        Args:
            id: The job's id.
        """


class IBroker(Interface):
    """
    All jobs and all their transitions (docs/protocol.md, sections 3 to 5).

    A broker is made from `gloom.settings.Settings` and ``alarm``, a function. It
    calls ``alarm`` with a time when it needs `deadline_passed` by then, perhaps
    during another call; of several times the earliest counts.

    Common to all methods:

    - ``now`` is seconds on one monotonic clock, and never goes back. A broker
      has no clock of its own.
    - A request (`submit`, `cancel`, `join`, `leave`, `respond`, `fail`) calls
      `IPeer.accepted` of its peer exactly once before it returns; `cancel` calls
      `IMasterPeer.cancelling` instead. The reply comes before everything that
      follows from the request: an outcome, a job.
    - A request that is refused raises a `gloom.errors.ProtocolError`. Then no peer
      was called, and nothing has changed.
    - An accepted job has exactly one outcome for each of its masters, `answered` or
      `failed`, unless that master is lost before.
    - A lost peer is never called again.

    A front end gives ids as strings, or as the digits of an integer in bytes
    (`gloom.broker.values.JobKey`); to a broker an id is no more than a key.
    """

    unanswered: int = Attribute("Number of jobs in flight: accepted, and without an outcome. Read-only.")

    # Masters

    def master_connected(peer: IMasterPeer) -> MasterRecord:
        """Return the record of a new master."""

    def master_lost(master: MasterRecord, now: float) -> None:
        """
        Drop the queued and delayed jobs of a disconnected master; those in hand become orphans (section 3.9).

        A job that has other masters goes on for them. A second call does nothing.
        """

    def in_flight(master: MasterRecord) -> int:
        """Return how many jobs of the master have no outcome yet."""

    def submit(
        master: MasterRecord, id: JobKey, type: str | None, priority: int, payload: bytes, terms: Terms, now: float
    ) -> None:
        """
        Queue a job (sections 3.2 and 4.3), or attach the master to the job of that id.

        Args:
            master: The master that asks.
            id: The job's id.
            type: The job type; None for an untyped job.
            priority: Larger first; equal priorities in the order of submission.
            payload: The bytes for `ISlavePeer.assigned`, opaque to the broker.
                Their number counts against ``max_queued_bytes``.
            terms: The conditions of section 4.3.
            now: The time.

        Raises:
            IdExists: The id is in flight, and the terms do not attach, or name another type.
            NoSlaves: The terms require a slave, and none has joined the type.
            Busy: A limit is reached.
            Draining: The broker is shutting down.
        """

    def cancel(master: MasterRecord, id: JobKey, now: float) -> None:
        """
        End a job of *master* (section 4.5): each of its masters gets the outcome ``cancelled`` at once.

        Raises:
            UnknownJob: No job of that id is in flight with this master.
        """

    # Slaves

    def slave_connected(peer: ISlavePeer) -> SlaveRecord:
        """Return the record of a new slave, which has joined nothing."""

    def slave_lost(slave: SlaveRecord, now: float) -> None:
        """
        Put each job in hand back to its place, or fail it if its attempts are spent (section 3.8).

        A second call does nothing.
        """

    def slave_blocked(slave: SlaveRecord) -> None:
        """Assign nothing to *slave* before `slave_ready`: it has not read the bytes sent to it (section 3.7)."""

    def slave_ready(slave: SlaveRecord, now: float) -> None:
        """*slave* has read the bytes sent to it, and is idle from now on; nothing changes if it was not blocked."""

    def join(slave: SlaveRecord, types: Sequence[str | None], slots: int, now: float) -> None:
        """
        Replace the types and the slots of *slave*, from its next job on (section 4.6).

        Args:
            slave: The slave that asks.
            types: The job types, one or more. Untyped jobs are None: a slave takes
                them only if None is among its types.
            slots: The number of jobs that it may have in hand.
            now: The time.

        Raises:
            Busy: The slaves would have joined more types than ``max_joined_types``.
        """

    def leave(slave: SlaveRecord) -> None:
        """Assign no more jobs to *slave* before its next `join`; jobs in hand stay there."""

    def respond(slave: SlaveRecord, id: JobKey | None, body: Body, now: float) -> None:
        """
        Answer a job in hand.

        Args:
            slave: The slave that answers.
            id: The job's id; None for the only one in hand.
            body: The answer.
            now: The time.

        Raises:
            InvalidState: No job, or not that job, is in hand.
            MissingField: *id* is None, and more than one job is in hand.
        """

    def fail(
        slave: SlaveRecord,
        id: JobKey | None,
        reason: str,
        kind: str | None,
        traceback: str | None,
        retry: bool,
        now: float,
    ) -> None:
        """
        End a job in hand as failed; with *retry*, spend one attempt at it instead (section 4.7).

        Args:
            slave: The slave that failed.
            id: The job's id; None for the only one in hand.
            reason: What happened, for a person.
            kind: The exception's name, or None.
            traceback: The traceback, or None.
            retry: Whether another attempt makes sense.
            now: The time.

        Raises:
            InvalidState: As for `respond`.
            MissingField: As for `respond`.
        """

    def progress(slave: SlaveRecord, id: JobKey | None, body: Body) -> None:
        """
        Tell each master of a job in hand about its progress (section 4.8).

        There is no reply and no refusal: without such a job, of an ended attempt, or
        without an id when several jobs are in hand, nothing happens.
        """

    # Time

    def deadline_passed(now: float) -> float | None:
        """
        Do the work that is due: timeouts, expiries, delays, and steps of work that is left.

        No call takes long: of a thousand jobs or more, some are left for the next call.

        Returns:
            The time of the next call; *now* if work is left, None if nothing is due
            before the alarm.
        """

    def drain(now: float, drained: Callable[[], object]) -> None:
        """
        Refuse new jobs, and end the queued and delayed ones as ``draining``, oldest first (section 3.10).

        Jobs in hand go on. Where many jobs wait, they end in steps, in `deadline_passed`.

        Args:
            now: The time.
            drained: Called once when no job is in flight any more, perhaps before
                this returns; it must not call the broker.
        """

    def abandon(now: float) -> None:
        """End all jobs that are left as ``draining``; where they are many, in steps, in `deadline_passed`."""

    # Memory of the broker's process

    used_bytes: int = Attribute("Estimate of the memory that jobs and joined types take in this process. Read-only.")

    def measure_memory_with(measure: Callable[[], None]) -> None:
        """
        Have *measure* called when a `submit` needs more memory than `allow_memory` has granted.

        Before it returns, *measure* calls `allow_memory` or `refuse_for_memory`.
        Until the first grant, only the limits of the settings count.
        """

    def allow_memory(free_bytes: int) -> None:
        """Accept jobs, until they have taken a part of *free_bytes*: the memory that the process may still take."""

    def refuse_for_memory() -> None:
        """Refuse new jobs as busy until the next `allow_memory`; attaching goes on."""
