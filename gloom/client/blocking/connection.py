"""
One socket to a broker, used by blocking calls: sends requests, reads events, gives each event to its taker.

`gloom.client.blocking` stands on it. Knows no job beyond its id and no body;
imports no Twisted, and so has its own reading of frames (docs/protocol.md, section 1).
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

# No broker takes less in one frame (docs/protocol.md, section 1).
_LEAST_LIMIT_BYTES = 1024


class OneCall:
    """Admits one call at a time: of two threads that call at once, the second gets a RuntimeError."""

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
    One socket, and the state of the protocol on it; several connections may share it.

    Args:
        sock: A connected stream socket, which is set to blocking, or one that speaks TLS.
        hello: The request that begins the connection.

    Attributes:
        max_frame_bytes: The largest payload that the broker takes, as far as known.
        outcomes: What came and was not received yet, oldest first.
        jobs: What came and was not taken yet, oldest first.
        takers: Called with each event before it is kept; one that returns True has taken it.

    Every call may raise RuntimeError: another thread is in a call. Nothing has been done then.
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
        # Whether nothing is under way but a wait.
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
        Send *request* and wait for its reply; what else comes is kept.

        Returns:
            The reply, which accepts it.

        Raises:
            RequestRefused: The broker refused it, or the ``hello`` before it.
            TimedOut: The deadline has passed; the request may have been sent.
            TransportError: The connection has ended.
            ProtocolError: What came is not the protocol; the connection is closed.
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
        Send *request*, behind ``hello`` where it is the first; wait for no reply.

        Raises:
            RequestRefused: It is larger than the broker takes; it was not sent.
            TimedOut: The deadline has passed. The next call sends the rest
                first, so the stream stays whole.
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
        Have everything before the next request sent, and the broker's limit known.

        Raises:
            RequestRefused: The broker refused ``hello``.
            TimedOut: The deadline has passed; the next request has not begun.
            TransportError: The connection has ended.
            ProtocolError: What came is not the protocol; the connection is closed.
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
            # Perhaps over the broker's limit, which is in the reply to hello.
            self._session.take_back(request)
            self._await_welcome(deadline)
            payload = self._session.ask(request)
        if len(payload) > self.max_frame_bytes:
            # Sent, it would end the connection.
            self._session.take_back(request)
            reason = f"a frame of {len(payload)} bytes is over the broker's limit of {self.max_frame_bytes}"
            raise RequestRefused(SizeError.code, reason, getattr(request, "id", None))
        self._unsent = memoryview(b"".join((self._unsent, to_frame(payload))))
        self._flush(deadline)

    def _begin(self, deadline: Deadline | None) -> None:
        """Send the rest of an earlier call, and put ``hello`` before the first request."""
        self._flush(deadline)
        if self._ended is not None:
            raise TransportError(self._ended)
        if self._hello is None:
            # Not awaited, where the request is small: both leave in one send.
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
            # Reads too: a broker may wait for this side to read before it reads on.
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
            # The broker has closed; its last words may still be read.
            self._unsent = memoryview(b"")
        except OSError as error:
            self._lost(error)
        return True

    # Events

    def pump(self, deadline: Deadline | None) -> None:
        """
        Read one event and give it to its taker, or keep it.

        Raises:
            TimedOut: None came in time; what has come of it is kept.
            TransportError: The connection has ended.
            ProtocolError: What came is not the protocol; the connection is closed.
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
        """Take one frame, or else read once; None where that gave no event."""
        frame = self._buffer.take()
        if frame is not None:
            return self._understand(frame)
        if self._ended is not None:
            raise TransportError(self._ended)
        # The rest of a request that timed out: its outcome cannot come before it has gone out.
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
        elif event.error.error != InvalidState.code:  # that one: whoever had the socket before has said it
            self.end(f"the connection was closed, because hello was refused: {event.error}")
            raise event.error
        return None

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._buffer.room())
        except BlockingIOError:
            return  # half a record of TLS, or one that carries no bytes of ours
        except OSError as error:
            self._lost(error)
            return
        self._buffer.received(count)
        if not count:
            self.end(f"the broker closed the connection{self._buffer.cut_off()}")

    def _interrupted(self) -> None:
        """
        Go on after Ctrl-C only where it came while this waited.

        Anywhere else it may have come between a byte and the note of it: what
        is read or sent next would be out of step.
        """
        if self._waiting:
            self._waiting = False
        else:
            self.end("the connection was closed, because a call was interrupted half-way")

    def _lost(self, error: OSError) -> None:
        self.end(f"the connection to the broker is lost: {error.strerror}")

    def _wait(self, what: int, deadline: Deadline | None) -> int:
        """Wait until the socket is ready for one of *what*; return for which."""
        if not isinstance(self._socket, socket.socket) and self._socket.pending():
            return select.POLLIN
        self._poll.register(self._socket, what)
        milliseconds = None if deadline is None else deadline.milliseconds_left()
        self._waiting = True
        ready = self._poll.poll(milliseconds)
        self._waiting = False
        if deadline is not None and not ready:
            raise TimedOut(f"nothing came from the broker within {deadline.seconds:g} s")
        return ready[0][1]
