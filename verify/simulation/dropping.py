"""Log events of gloom and Twisted: errors, and dropped connections, checked against the simulated network."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from gloom.server.peers import PeerProtocol

from .network import Network

# As in gloom.transport.sending: bytes count as sent only when the transport has sent all of them.
_PROBE_BYTES = 4096
_ROUNDING_SECONDS = 1e-6


@implementer(ILogObserver)
class Log:
    """
    Observes events that gloom and Twisted would only log.

    Attributes:
        dropped: Number of peers dropped by the broker, by reason.
        wrong: Drops without a valid reason. A log observer cannot raise: its exceptions are swallowed.
    """

    def __init__(self, network: Network) -> None:
        self.events: list[LogEvent] = []
        self.dropped: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._network = network

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("isError"):
            self.events.append(event)
        elif isinstance(event["log_source"], PeerProtocol) and "reason" in event:
            self._judge(event["log_source"], event["reason"])
        # Twisted buffers events until logging starts, and thus keeps the connections that logged alive.
        event.pop("log_source", None)
        event.pop("log_logger", None)

    def check(self) -> None:
        """Raise AssertionError if there was an error or a wrong drop."""
        if self.events:
            raise AssertionError("an error was logged")
        assert not self.wrong, f"dropped by the broker: {self.wrong}"

    def texts(self) -> list[str]:
        """Return the errors."""
        return list(map(_text_of, self.events))

    def _judge(self, peer: Any, reason: str) -> None:
        if reason.startswith("it does not read"):
            kind, is_right = "did not read", self._did_not_read(peer)
        elif reason.startswith("it reads slowest"):
            limit = peer._settings.max_total_unread_bytes
            kind, is_right = "read slowest", peer.factory.around.unread.bytes > limit * 7 // 8
        elif "heartbeat" in reason:
            kind, is_right = "silent", self._was_silent(peer)
        else:
            kind, is_right = "stood half way", "half way" in reason and self._stood_half_way(peer)
        if not is_right:
            self.wrong.append(f"{peer.name}: {reason}")
        self.dropped[kind] += 1

    def _did_not_read(self, peer: Any) -> bool:
        end, settings, now = peer.transport, peer._settings, self._network.time.now
        taken = end.taken_since(now - settings.unread_seconds)
        # While stopped, the broker sent nothing, so the peer could read nothing.
        ran = self._network.ran_since(end.full_since)
        return bool(taken < settings.least_read_bytes + _PROBE_BYTES and ran >= settings.unread_seconds / 2)

    def _was_silent(self, peer: Any) -> bool:
        end, since = peer.transport, self._network.time.now - peer._heartbeat.heartbeat_seconds + _ROUNDING_SECONDS
        # A peer that the broker does not read from cannot prove that it is alive by sending; it must read instead.
        takes = peer.paused and end.taken_since(since) > _PROBE_BYTES
        return end.heard < since and not self._has_unread(end) and not takes

    def _stood_half_way(self, peer: Any) -> bool:
        end, since = peer.transport, self._network.time.now - peer._settings.stall_seconds + _ROUNDING_SECONDS
        # For a first frame the whole time counts; for others, the time without new data.
        return not self._has_unread(end) and (end.heard if not peer.is_new else end.born) < since

    def _has_unread(self, end: Any) -> bool:
        # Data that arrived earlier is in the socket, though the broker was stopped: it counts as received.
        return bool(end.is_readable() and end.inbox)


def _text_of(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return str(failure.getTraceback() if failure else formatEvent(event))
