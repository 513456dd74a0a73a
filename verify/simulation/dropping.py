"""What gloom and Twisted log: errors, and dropped connections, held against what the network knows of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from gloom.server.peers import PeerProtocol

from .network import Network

# As in gloom.transport.sending: the bytes that a transport sends count when it has sent them all.
_PROBE_BYTES = 4096
_ROUNDING_SECONDS = 1e-6


@implementer(ILogObserver)
class Log:
    """
    Hears of what gloom and Twisted would only log.

    Attributes:
        dropped: How many peers the broker has dropped, by reason.
        wrong: Those that it should not have dropped: an exception would not come out of here.
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
        # Twisted keeps events until a log begins, and with them the connections that logged.
        event.pop("log_source", None)
        event.pop("log_logger", None)

    def check(self) -> None:
        """Raise AssertionError if something is wrong."""
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
        # While the broker stood still it sent nothing that could have been taken.
        ran = self._network.ran_since(end.full_since)
        return bool(taken < settings.least_read_bytes + _PROBE_BYTES and ran >= settings.unread_seconds / 2)

    def _was_silent(self, peer: Any) -> bool:
        end, since = peer.transport, self._network.time.now - peer._heartbeat_seconds + _ROUNDING_SECONDS
        # One that is not read from cannot be heard, and must take something instead.
        takes = peer.paused and end.taken_since(since) > _PROBE_BYTES
        return end.heard < since and not self._has_unread(end) and not takes

    def _stood_half_way(self, peer: Any) -> bool:
        end, since = peer.transport, self._network.time.now - peer._settings.stall_seconds + _ROUNDING_SECONDS
        # Of the first frame the whole time counts, and of others the time in which nothing came.
        return not self._has_unread(end) and (end.heard if peer._had_a_frame else end.born) < since

    def _has_unread(self, end: Any) -> bool:
        # What has arrived before is in the socket, though the broker stood still: that counts as heard.
        return bool(end.is_readable() and end.inbox)


def _text_of(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return str(failure.getTraceback() if failure else formatEvent(event))
