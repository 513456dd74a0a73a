"""
What a broker and its peers promise each other.

A front end (`gloom.server.protocols`) knows only `IBroker`; a broker knows only
`IMasterPeer` and `ISlavePeer`. The methods of a peer only buffer bytes: they
return at once and never call the broker again, so nothing re-enters it.
"""

from __future__ import annotations

from zope.interface import Attribute, Interface

# zope.interface methods are declared without ``self``.
# ruff: noqa: N805


class IPeer(Interface):
    """One connection as the broker sees it."""

    name = Attribute("How failures name this peer: its ``hello`` name, or its address.")

    def accepted() -> None:
        """The oldest unanswered request was accepted: reply ok."""


class IMasterPeer(IPeer):
    """A connection on the master port."""

    wants_receipts = Attribute("Whether `answered` is to be given a receipt.")

    def answered(id, body, receipt) -> None:
        """
        A job of this master is done.

        Args:
            id: The job's id.
            body: The slave's answer, the bytes of one JSON value.
            receipt: A `gloom.broker.records.Receipt`, or None where none is wanted.
        """

    def progressed(id, body) -> None:
        """
        A job of this master has got on.

        Args:
            id: The job's id.
            body: What the slave says of it, the bytes of one JSON value.
        """

    def cancelling(running) -> None:
        """
        The oldest unanswered request, a ``cancel``, was accepted.

        Args:
            running: Whether a slave has the job in hand.
        """

    def failed(id, failure) -> None:
        """
        A job of this master ended without an answer.

        Args:
            id: The job's id.
            failure: A `gloom.broker.records.Failure`.
        """


class ISlavePeer(IPeer):
    """A connection on the slave port."""

    def assigned(payload):
        """
        This slave has a job now.

        Args:
            payload: What ``submit`` was given for the slave.

        Returns:
            True if it is given no other before `IBroker.slave_ready`.
        """

    def revoked(id) -> None:
        """
        The broker has ended this slave's attempt at a job (cancelled, timed out).

        The job stays in hand, and its slot taken, until the slave lets go of it.

        Args:
            id: The job's id.
        """


class IBroker(Interface):
    """
    All jobs and all transitions (docs/protocol.md).

    ``master`` and ``slave`` are what `master_connected` and `slave_connected`
    returned, opaque to the caller. ``now`` is seconds on one monotonic clock.
    Acceptance is told through `IPeer.accepted`, perhaps later than the call
    returns; a refusal is raised as a `gloom.errors.ProtocolError`, and then
    nothing has changed.
    """

    def master_connected(peer):
        """Return the record of a new master; *peer* provides `IMasterPeer`."""

    def master_lost(master, now) -> None:
        """Drop the master's queued jobs; its running jobs complete unheard."""

    def slave_connected(peer):
        """Return the record of a new slave; *peer* provides `ISlavePeer`."""

    def slave_lost(slave, now) -> None:
        """Put the job in hand back to its place, or fail it if its attempts are spent."""

    def slave_blocked(slave) -> None:
        """Give *slave* no job: bytes wait for it that it has not taken."""

    def slave_ready(slave, now) -> None:
        """*slave* has taken the bytes that waited for it: it is free again."""

    def submit(master, id, type, priority, payload, terms, now) -> None:
        """
        Queue a job (section 3).

        Args:
            id: The job's id, as `gloom.wire.messages.key_of` has it.
            type: The job type, or None for any slave.
            priority: Larger first; equal priorities by submission.
            payload: Bytes that the slave is given, opaque to the broker.
            terms: `gloom.broker.records.Terms`: what section 4 adds.

        Raises:
            IdExists: The id is in flight, and the terms do not say attach.
            NoSlaves: The terms require a slave, and none of the type has joined.
            Busy: A limit is reached.
            Draining: The broker is shutting down.
        """

    def cancel(master, id, now) -> None:
        """
        End a job of *master*: its masters get the outcome ``cancelled`` at once.

        Acceptance is told through `IMasterPeer.cancelling`, before the outcome.

        Raises:
            UnknownJob: No job of that id is in flight with this master.
        """

    def join(slave, types, slots, now) -> None:
        """
        Take other jobs, from the next job on.

        Args:
            types: The job types, one or more; None among them stands for untyped jobs.
            slots: How many jobs it may have in hand at once.

        Raises:
            Busy: Slaves would have joined more types than they may.
        """

    def leave(slave) -> None:
        """Assign no more jobs to *slave*."""

    def respond(slave, id, body, now) -> None:
        """
        Answer the job in hand.

        Args:
            id: The job's id, or None for the only one in hand.

        Raises:
            InvalidState: No job, or not that job, is in hand.
            MissingField: *id* is None, and more than one job is in hand.
        """

    def fail(slave, id, reason, kind, traceback, retry, now) -> None:
        """
        End the job in hand as failed, or spend one attempt with *retry*.

        Raises:
            InvalidState: As for `respond`.
        """

    def progress(slave, id, body) -> None:
        """Tell the masters of the job in hand how it gets on; of an ended attempt nothing is told."""

    def deadline_passed(now):
        """
        End what has run or waited too long, and start what was delayed.

        Returns:
            When to call next, or None for when the alarm says.
        """

    def drain(now, drained) -> None:
        """
        Refuse new jobs and end the waiting ones as ``draining``, oldest first; those in hand go on.

        Where many wait, they end little by little, in `deadline_passed`.

        Args:
            drained: Called once when no job is in flight any more, perhaps at
                once; it must not call the broker.
        """

    def abandon(now) -> None:
        """End the jobs that are left as ``draining``; where they are many, in steps, in `deadline_passed`."""
