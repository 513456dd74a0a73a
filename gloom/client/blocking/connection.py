"""
One socket to a broker for blocking calls: sends requests, reads events, and keeps those that no call waits for.

Reads no body, and of a job the id only. Imports no Twisted, and so has its own
reading of frames (docs/protocol.md, section 1).
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from threading import Lock, current_thread
from typing import TYPE_CHECKING

from gloom.client.blocking.deadline import Deadline
from gloom.client.session import Assignment, Event, Outcome, Reply, Session, UnreadableJob
from gloom.errors import InvalidState, ProtocolError, RequestRefused, SizeError, TimedOut, TransportError
from gloom.wire.framebuffer import LARGEST_FRAME_BYTES, FrameBuffer, to_frame
from gloom.wire.messages import Hello, Request
from gloom.wire.tcpoptions import set_tcp_options

if TYPE_CHECKING:
    from gloom.client.tls import TLSSocket

# Every broker takes a frame of this size (docs/protocol.md, section 1).
_LEAST_LIMIT_BYTES = 1024


class OneCall:
    """Admits one call at a time: a second thread that calls meanwhile gets a RuntimeError."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._caller = ""

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"thread {current_thread().name!r} uses a connection on which thread {self._caller!r} is in a call: "
                "a Master or Slave is for one thread at a time; give each thread a connection of its own"
            )
        self._caller = current_thread().name

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Wire:
    """
    One socket, and the state of the protocol on it; several `Connection` objects may share it.

    Args:
        sock: A connected stream socket, which becomes a blocking one; or one that speaks TLS.
        hello: The request that begins the connection.

    Attributes:
        max_frame_bytes: The broker's limit for a payload; before the reply to *hello*, the protocol's.
        outcomes: Outcomes that no call has received yet, oldest first.
        jobs: Jobs that no call has taken yet, oldest first.
        takers: Called with each event in turn; the first that returns True has taken it.

    Every call may raise RuntimeError, and has done nothing then: another thread is in a call.
    """

    def __init__(self, sock: socket.socket | TLSSocket, hello: Hello) -> None:
        if isinstance(sock, socket.socket):
            sock.settimeout(None)
            set_tcp_options(sock)
        self.max_frame_bytes = LARGEST_FRAME_BYTES
        self.outcomes: deque[Outcome] = deque()
        self.jobs: deque[Assignment | UnreadableJob] = deque()
        self.takers: list[Callable[[Event], bool]] = []
        self._greeting = hello
        self._socket = sock
        self._poll = select.poll()
        self._session = Session()
        self._hello: Hello | None = None
        self._buffer = FrameBuffer()
        self._unsent = memoryview(b"")
        self._ended: str | None = None
        # Whether the call that is under way only waits.
        self._waiting = False
        self._one_call = OneCall()
        # Whether the reply to hello has come, and with it the broker's limit.
        self._welcomed = False

    def end(self, why: str) -> None:
        """Close the socket; calls raise `TransportError` with *why* from now on."""
        if self._ended is None:
            self._ended = why
            self._unsent = memoryview(b"")
            self._socket.close()

    # Requests

    def ask(self, request: Request, deadline: Deadline | None) -> Reply:
        """
        Send *request* and wait for its reply; other events are kept.

        Returns:
            The reply of a broker that accepts it.

        Raises:
            RequestRefused: The broker refused it, or the ``hello`` before it.
            TimedOut: The deadline has passed; the request may have been sent.
            TransportError: The connection has ended.
            ProtocolError: The broker sent no valid message; the connection is closed.
        """
        with self._one_call:
            try:
                self._send(request, deadline)
                return self._reply_to(request, deadline)
            except KeyboardInterrupt:
                self._interrupted()
                raise

    def _reply_to(self, request: Request, deadline: Deadline | None) -> Reply:
        while True:
            event = self._next_event(deadline)
            if not isinstance(event, Reply) or event.request is not request:
                self._keep(event)
            elif event.error is not None:
                raise event.error
            else:
                return event

    def send(self, request: Request, deadline: Deadline | None) -> None:
        """
        Send *request*, after ``hello`` if it is the first; do not wait for a reply.

        Raises:
            RequestRefused: It is larger than the broker takes, and was not sent.
            TimedOut: The deadline has passed. The next call sends the rest of
                the frame first.
            TransportError: The connection has ended.
        """
        with self._one_call:
            try:
                self._send(request, deadline)
            except KeyboardInterrupt:
                self._interrupted()
                raise

    def make_ready(self, deadline: Deadline | None) -> None:
        """
        Send the rest of earlier requests, and wait for the reply to ``hello``, which has the broker's limit.

        Raises:
            RequestRefused: The broker refused ``hello``.
            TimedOut: The deadline has passed.
            TransportError: The connection has ended.
            ProtocolError: The broker sent no valid message; the connection is closed.
        """
        with self._one_call:
            try:
                self._begin(deadline)
                self._await_welcome(deadline)
            except KeyboardInterrupt:
                self._interrupted()
                raise

    def _send(self, request: Request, deadline: Deadline | None) -> None:
        self._begin(deadline)
        payload = self._session.ask(request)
        if len(payload) > _LEAST_LIMIT_BYTES and not self._welcomed:
            # It may be over the broker's limit, which is in the reply to hello.
            self._session.take_back(request)
            self._await_welcome(deadline)
            payload = self._session.ask(request)
        if len(payload) > self.max_frame_bytes:
            # The broker would end the connection.
            self._session.take_back(request)
            reason = f"a frame of {len(payload)} bytes is over the broker's limit of {self.max_frame_bytes}"
            raise RequestRefused(SizeError.code, reason, getattr(request, "id", None))
        self._unsent = memoryview(b"".join((self._unsent, to_frame(payload))))
        self._flush(deadline)

    def _begin(self, deadline: Deadline | None) -> None:
        """Send the rest of an earlier call; put ``hello`` before the first request."""
        self._flush(deadline)
        if self._ended is not None:
            raise TransportError(self._ended)
        if self._hello is None:
            # A small request does not wait for the reply: both leave in one send.
            self._hello = self._greeting
            self._unsent = memoryview(to_frame(self._session.ask(self._hello)))

    def _await_welcome(self, deadline: Deadline | None) -> None:
        self._flush(deadline)
        while not self._welcomed:
            event = self._step(deadline)
            if event is not None:
                self._keep(event)

    def _flush(self, deadline: Deadline | None) -> None:
        while self._unsent:
            # Read too: a broker may stop to read until this side has read.
            if not self._send_some() and self._wait(select.POLLIN | select.POLLOUT, deadline) & ~select.POLLOUT:
                self._read()

    def _send_some(self) -> bool:
        """Send as much as the socket takes now; return whether it took anything, or has ended."""
        try:
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            # The broker has closed; its last messages may still be read.
            self._unsent = memoryview(b"")
        except OSError as error:
            self._lost(error)
        return True

    # Events

    def pump(self, deadline: Deadline | None) -> None:
        """
        Read one event and give it to a taker, or keep it.

        Raises:
            TimedOut: None came in time; the part of it that has come is kept.
            TransportError: The connection has ended.
            ProtocolError: The broker sent no valid message; the connection is closed.
            RequestRefused: ``hello`` was refused; the connection is closed.
        """
        with self._one_call:
            self._pump(deadline)

    def next_outcome(self, deadline: Deadline | None) -> Outcome:
        """Wait for the next outcome of a job; raises as `pump` does."""
        with self._one_call:
            while not self.outcomes:
                self._pump(deadline)
            return self.outcomes.popleft()

    def next_job(self, deadline: Deadline | None) -> Assignment | UnreadableJob:
        """Wait for the next job; raises as `pump` does."""
        with self._one_call:
            while not self.jobs:
                self._pump(deadline)
            return self.jobs.popleft()

    def _pump(self, deadline: Deadline | None) -> None:
        try:
            self._keep(self._next_event(deadline))
        except KeyboardInterrupt:
            self._interrupted()
            raise

    def _keep(self, event: Event) -> None:
        if any(take(event) for take in self.takers):
            return
        if isinstance(event, Outcome):
            self.outcomes.append(event)
        elif isinstance(event, Assignment | UnreadableJob):
            self.jobs.append(event)
        # Any other event is the reply to a call that timed out.

    def _next_event(self, deadline: Deadline | None) -> Event:
        while True:
            event = self._step(deadline)
            if event is not None:
                return event

    def _step(self, deadline: Deadline | None) -> Event | None:
        """Take one frame from the buffer, or else read once; return an event, if there is one."""
        frame = self._buffer.take()
        if frame is not None:
            return self._understand(frame)
        if self._ended is not None:
            raise TransportError(self._ended)
        # The rest of a request that timed out: its outcome comes only after that.
        if self._unsent:
            self._send_some()
        if self._wait(select.POLLIN | (select.POLLOUT if self._unsent else 0), deadline) & ~select.POLLOUT:
            self._read()
        return None

    def _understand(self, frame: bytes) -> Event | None:
        try:
            event = self._session.receive(frame)
        except ProtocolError as error:
            self.end(f"the connection was closed, because {error}")
            raise
        if not isinstance(event, Reply) or event.request is not self._hello:
            return event
        self._welcomed = True
        if event.error is None:
            self.max_frame_bytes = event.message.max_frame or self.max_frame_bytes
        elif event.error.error != InvalidState.code:  # an earlier user of this socket has sent a hello
            self.end(f"the connection was closed, because hello was refused: {event.error}")
            raise event.error
        return None

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._buffer.room())
        except BlockingIOError:
            return  # half a TLS record, or one without application data
        except OSError as error:
            self._lost(error)
            return
        self._buffer.received(count)
        if not count:
            self.end(f"the broker closed the connection{self._buffer.cut_off()}")

    def _interrupted(self) -> None:
        """
        Keep the connection after a Ctrl-C during a wait, and close it after any other.

        Any other may have come after a read or a send and before the buffer was
        updated; the next call would be out of step with the stream.
        """
        if self._waiting:
            self._waiting = False
        else:
            self.end("the connection was closed, because a call was interrupted half-way")

    def _lost(self, error: OSError) -> None:
        self.end(f"the connection to the broker is lost: {error.strerror}")

    def _wait(self, wanted: int, deadline: Deadline | None) -> int:
        """Wait until poll(2) reports one of the *wanted* events, or an error; return the reported ones."""
        if not isinstance(self._socket, socket.socket) and self._socket.pending():
            return select.POLLIN
        self._poll.register(self._socket, wanted)
        milliseconds = None if deadline is None else deadline.milliseconds_left()
        self._waiting = True
        ready = self._poll.poll(milliseconds)
        self._waiting = False
        if deadline is not None and not ready:
            raise TimedOut(f"nothing came from the broker within {deadline.seconds:g} s")
        return ready[0][1]
