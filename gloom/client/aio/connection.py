"""
An asyncio client's end of one connection: ``hello``, the heartbeat, requests out and events in.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from enum import Enum
from typing import Protocol, cast

from msgspec import Raw

from gloom.client.aio.logs import PeerLogger
from gloom.client.session import Event, Reply, Session
from gloom.errors import GloomError, ProtocolError, TransportError
from gloom.settings import GIB, KIB
from gloom.wire.framereader import FrameReader
from gloom.wire.largebytes import Payload
from gloom.wire.messages import Hello, Ping, Request, encode_request

_HELLO_SECONDS = 10.0
# A broker's answers are its slaves' answers: the limit is the protocol's own.
_MAX_ANSWER_BYTES = 2 * GIB
# Until it has said hello: the first bytes of another kind of server, read as a
# length, would be a gigabyte or so to wait for.
_MAX_WELCOME_BYTES = 64 * KIB
# The most that a frame adds around a body: keys, braces, an id and a type of
# 255 characters each, every one of them escaped.
_ENVELOPE_BYTES = 4096
# Pings in one agreed heartbeat.
_PINGS_A_HEARTBEAT = 3
# After so many unanswered pings the next one ends the connection: at the latest after twice the heartbeat.
_MOST_SILENT_PINGS = 2 * _PINGS_A_HEARTBEAT - 1
# After a pause of this process (SIGSTOP, a suspended machine) timers may fire before
# the socket is read. Within this time the loop reads what was there.
_LOOK_SECONDS = 0.01
# Requests of one turn of the loop leave together, or as soon as there are so many bytes.
_FLUSH_BYTES = 64 * KIB
_READ_BYTES = 64 * KIB
# For the bytes that wait, when a connection is closed on purpose.
_CLOSE_SECONDS = 10.0

_HEADER = struct.Struct("!I")
_pack_length = _HEADER.pack


class Phase(Enum):
    """The life of a connection."""

    GREETING = "it waits for the reply to hello"
    OPEN = "the broker has answered hello"
    CLOSED = "nothing more is said or heard"


class Owner(Protocol):
    """The owner of a connection, as the connection sees it."""

    def heard(self, connection: BrokerConnection, event: Event) -> None:
        """Take an event of the broker, apart from the reply to ``hello``."""

    def writable(self, connection: BrokerConnection) -> None:
        """Learn that the bytes that waited are gone: `BrokerConnection.is_full` is false again."""


class BrokerConnection(asyncio.BufferedProtocol):
    """
    A client's end of one connection.

    Args:
        hello: The first request.
        owner: Takes the broker's events.
        log: For a connection that is dropped.
        speaks_tls: Whether the connection is over TLS.

    Attributes:
        max_frame_bytes: The broker's limit for one frame, known once `welcomed` is done.
        welcomed: Done when the broker has answered ``hello``.
        ended: Done when the connection has ended; its result is the reason, an exception, or None for an ordinary end.
        broken: The error in the broker's message for which this end dropped the connection; or None.
        is_full: Whether the transport asks to write no more for now.
    """

    def __init__(self, hello: Hello, owner: Owner, log: PeerLogger, speaks_tls: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self.max_frame_bytes = _MAX_ANSWER_BYTES
        self.welcomed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.broken: ProtocolError | None = None
        self.is_full = False
        self._phase = Phase.GREETING
        self._hello = hello
        self._owner = owner
        self._log = log
        self._speaks_tls = speaks_tls
        self._session = Session()
        self._transport: asyncio.Transport
        self._room = memoryview(bytearray(_READ_BYTES))
        self._frames = FrameReader()
        self._limit_bytes = _HEADER.size + _MAX_WELCOME_BYTES
        # Headers and payloads that leave together.
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._flush_is_due = False
        # Whether the events that were read last may have woken a task.
        self._wakes = False
        self._timer: asyncio.TimerHandle | None = None
        self._silent_pings = 0

    @property
    def closed(self) -> bool:
        """Whether it has ended, or is about to: nothing more can be said."""
        return self._phase is Phase.CLOSED

    # Requests out

    def ask(self, request: Request) -> None:
        """Send *request* at the end of this turn of the loop; its reply is heard as an event."""
        payload = self._session.ask(request)
        self._outgoing += (_pack_length(len(payload)), payload)
        self._outgoing_bytes += len(payload)
        if self._outgoing_bytes >= _FLUSH_BYTES:
            self._flush()
        elif not self._flush_is_due:
            self._flush_soon()

    def oversize(self, request: Request, body: Raw) -> str | None:
        """Return why *request*, which carries *body*, is more than the broker takes, or None where it is not."""
        limit = self.max_frame_bytes
        if len(memoryview(body)) + _ENVELOPE_BYTES <= limit:
            return None
        size = len(encode_request(request))
        return f"a frame of {size} bytes, the broker takes {limit}" if size > limit else None

    def _flush_soon(self) -> None:
        self._flush_is_due = True
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_is_due = False
        if self._outgoing:
            self._flush()

    def _flush(self) -> None:
        frames, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        if not self.closed:
            self._transport.write(b"".join(frames))

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._phase is not Phase.CLOSED:
            self._owner.writable(self)

    # Events in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            self._transport.abort()
            return
        self.ask(self._hello)
        self._look_after(_HELLO_SECONDS, self._hello_is_late)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._phase is Phase.CLOSED:
            return  # TLS may hold some more
        self._silent_pings = 0
        for payload in self._frames.payloads_of(bytes(self._room[:nbytes])):
            self._take(payload)
            if self.closed:
                return
        if self._frames.needed > self._limit_bytes:
            self._refuse_frame(self._frames.needed - _HEADER.size)
        elif self._wakes:
            self._wakes = False
            if not self._flush_is_due:
                # Behind the tasks that these events wake: their requests leave in the turn in which they run.
                self._flush_soon()

    def _take(self, payload: Payload) -> None:
        try:
            event = self._session.receive(payload)
        except ProtocolError as error:
            self.give_up(error)
            return
        if type(event) is not Reply:
            if event is not None:
                self._wakes = True
                self._owner.heard(self, event)
        elif event.request is self._hello:
            self._welcome(event)
        else:
            self._owner.heard(self, event)

    def _refuse_frame(self, length: int) -> None:
        allowed = self._limit_bytes - _HEADER.size
        self.give_up(ProtocolError(f"a frame of {length} bytes came, {allowed} are allowed: is it a broker?"))

    def _welcome(self, reply: Reply) -> None:
        if reply.error is not None:
            self.give_up(reply.error)
            return
        self._phase = Phase.OPEN
        self._limit_bytes = _HEADER.size + _MAX_ANSWER_BYTES
        self.max_frame_bytes = reply.message.max_frame or _MAX_ANSWER_BYTES
        self._stop_timer()
        self._keep_heartbeat(reply.message.heartbeat)
        if not self.welcomed.done():
            self.welcomed.set_result(None)

    # Time

    def _hello_is_late(self) -> None:
        self.give_up(TransportError(f"the broker did not answer hello within {_HELLO_SECONDS:g} s"))

    def _keep_heartbeat(self, heartbeat_seconds: float) -> None:
        if heartbeat_seconds > 0:
            interval = heartbeat_seconds / _PINGS_A_HEARTBEAT
            self._timer = self._loop.call_later(interval, self._send_ping, heartbeat_seconds)

    def _send_ping(self, heartbeat_seconds: float) -> None:
        if self._silent_pings >= _MOST_SILENT_PINGS:
            # Perhaps this process was paused, and not the broker.
            self._timer = self._loop.call_later(_LOOK_SECONDS, self._drop_if_silent, heartbeat_seconds)
            return
        self._silent_pings += 1
        self.ask(Ping())
        self._keep_heartbeat(heartbeat_seconds)

    def _drop_if_silent(self, heartbeat_seconds: float) -> None:
        if self._silent_pings < _MOST_SILENT_PINGS:
            self._send_ping(heartbeat_seconds)
            return
        self.give_up(TransportError(f"it was silent for {2 * heartbeat_seconds:g} s"))

    def _look_after(self, seconds: float, late: Callable[[], None]) -> None:
        """Call *late* after *seconds*, unless the socket holds bytes by then that stop the timer."""
        self._timer = self._loop.call_later(seconds - _LOOK_SECONDS, self._look, late)

    def _look(self, late: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(_LOOK_SECONDS, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Ends

    async def close(self) -> None:
        """Send what waits, and close; wait until the connection has ended."""
        if self._phase is not Phase.CLOSED:
            self._end_turn()
            self._phase = Phase.CLOSED
            self._stop_timer()
            self._transport.close()
        try:
            await asyncio.wait([self.ended], timeout=_CLOSE_SECONDS)
        finally:
            self.abort()

    def abort(self) -> None:
        """End the connection now; bytes that wait are lost."""
        self._phase = Phase.CLOSED
        self._stop_timer()
        self._transport.abort()

    def give_up(self, error: GloomError) -> None:
        """Drop the connection because of *error*."""
        if self._phase is Phase.GREETING:
            self._not_welcomed(error)
        elif isinstance(error, ProtocolError):
            self.broken = error  # the link that reconnects logs it, once
        else:
            self._log.error("the connection to the broker is dropped: %s", error)
        self.abort()

    def _not_welcomed(self, error: Exception) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(error)
            # Seen: where connecting itself was cancelled, nobody waits for the welcome.
            self.welcomed.exception()

    def connection_lost(self, exc: Exception | None) -> None:
        self._not_welcomed(_unwelcomed(exc, self._speaks_tls))
        self._phase = Phase.CLOSED
        self._stop_timer()
        self._outgoing.clear()
        if not self.ended.done():
            self.ended.set_result(exc)


def _unwelcomed(error: Exception | None, speaks_tls: bool) -> TransportError:
    """Return why there was no answer to ``hello``."""
    text = f"the connection ended before the broker said hello: {end_text(error)}"
    if error is None and not speaks_tls:
        # A broker that expects TLS closes a connection that begins with other bytes. A broker that dies resets it.
        text = f"{text}; perhaps the broker speaks TLS, and this client does not"
    return TransportError(text)


def end_text(error: BaseException | None) -> str:
    """Return why a connection ended, for a person."""
    if error is None:
        return "the broker closed it"
    reason = getattr(error, "reason", None)  # of a TLS alert
    text = f"TLS: {reason.replace('_', ' ').lower()}" if isinstance(reason, str) else getattr(error, "strerror", None)
    return text or str(error) or type(error).__name__
