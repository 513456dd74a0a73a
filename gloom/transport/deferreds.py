"""
Deferreds as events: fired at most once, by whichever cause comes first.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred


def fire(event: Deferred[None] | None) -> None:
    """Fire *event*, unless it is None or has fired."""
    if event is not None and not event.called:
        event.callback(None)
