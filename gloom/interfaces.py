"""
What a broker and its peers promise each other.

A front end (`gloom.protocols`) knows only `IBroker`; a broker knows only
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

    def answered(id, body) -> None:
        """
        A job of this master is done.

        Args:
            id: The job's id.
            body: The slave's answer, the bytes of one JSON value.
        """

    def failed(id, failure) -> None:
        """
        A job of this master ended without an answer.

        Args:
            id: The job's id.
            failure: A `gloom.broker.Failure`.
        """


class ISlavePeer(IPeer):
    """A connection on the slave port."""

    def assigned(payload) -> None:
        """
        This slave has a job now.

        Args:
            payload: What ``submit`` was given for the slave.
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

    def submit(master, id, type, priority, payload, attach, now) -> None:
        """
        Queue a job (section 3).

        Args:
            id: The job's id, a string or an integer.
            type: The job type, or None for any slave.
            priority: Larger first; equal priorities by submission.
            payload: Bytes that the slave is given, opaque to the broker.
            attach: Whether a job of that id that is in flight gains this master
                instead of being refused.

        Raises:
            IdExists: The id is in flight, and *attach* is false.
        """

    def join(slave, type, now) -> None:
        """Take jobs of *type* (None: only untyped jobs) from the next job on."""

    def leave(slave) -> None:
        """Assign no more jobs to *slave*."""

    def respond(slave, id, body, now) -> None:
        """
        Answer the job in hand.

        Args:
            id: The job's id, or None for the only one in hand.

        Raises:
            InvalidState: No job, or not that job, is in hand.
        """

    def fail(slave, id, reason, kind, traceback, retry, now) -> None:
        """
        End the job in hand as failed, or spend one attempt with *retry*.

        Raises:
            InvalidState: As for `respond`.
        """
