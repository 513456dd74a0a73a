"""
The callers of `BrokerLink.when_connected` that wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import Deferred

from gloom.errors import TransportError


class Waiters:
    """
    Deferreds that fire with the next connection, or fail after a number of failed attempts.

    A callback of one may cancel others: those are skipped.
    """

    def __init__(self) -> None:
        self._limits: dict[Deferred[None], float] = {}

    def add(self, most_failures: float) -> Deferred[None]:
        """
        Return a Deferred that waits for a connection.

        Args:
            most_failures: The number of failures in a row at which it fails.
        """
        waiter: Deferred[None] = Deferred(self._remove)
        self._limits[waiter] = most_failures
        return waiter

    def connected(self) -> None:
        """Fire all of them."""
        for waiter in self._taken(list(self._limits)):
            waiter.callback(None)

    def attempt_failed(self, failures: int, text: str, cause: BaseException | None) -> None:
        """Fail those that wait for no more than *failures* in a row, with a `TransportError` of *text*."""
        for waiter in self._taken([waiter for waiter, most in self._limits.items() if failures >= most]):
            error = TransportError(text)
            error.__cause__ = cause
            waiter.errback(error)

    def refuse(self, text: str) -> None:
        """Fail all of them, with a `TransportError` of *text*."""
        for waiter in self._taken(list(self._limits)):
            waiter.errback(TransportError(text))

    def _taken(self, waiters: list[Deferred[None]]) -> Iterator[Deferred[None]]:
        """Remove and yield each of *waiters* that still waits when its turn comes."""
        for waiter in waiters:
            if waiter in self._limits:
                del self._limits[waiter]
                yield waiter

    def _remove(self, waiter: Deferred[None]) -> None:
        # It may be cancelled by its own callback, and then it waits no more.
        self._limits.pop(waiter, None)
