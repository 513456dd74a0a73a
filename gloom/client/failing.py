"""
The ``fail`` of a job: any exception becomes a `Fail` that every broker accepts.

Shared by the Deferred slave, the blocking slave and the child processes of
``gloom work``. Imports no Twisted.
"""

from __future__ import annotations

from collections.abc import Callable
from traceback import TracebackException

from gloom.errors import TryAgain
from gloom.wire.messages import Fail, encode_request

#: In characters. A longer reason loses its end, and a longer traceback its beginning.
LONGEST_REASON = 64 * 1024
LONGEST_TRACEBACK = 64 * 1024
LONGEST_KIND = 255

# JSON takes up to 6 bytes for a character, and a failure has three texts.
_BYTES_A_CHARACTER = 18


def failure_of(
    error: BaseException, id: str | int | None = None, traceback_of: Callable[[], str | None] | None = None
) -> Fail:
    """
    Return the request that reports *error*; never raises, even if a method of *error* does.

    Args:
        error: The exception of the job's function, or of gloom itself.
        id: The job's id; None on a connection with one slot, which need not name it.
        traceback_of: Returns the text of the traceback; None for the traceback of *error*.
    """
    return Fail(
        reason=beginning(text_of(error), LONGEST_REASON),
        kind=kind_of(error),
        traceback=_traceback(traceback_of or (lambda: _own_traceback(error))),
        retry=isinstance(error, TryAgain),
        id=id,
    )


def fitted(said: Fail, max_frame_bytes: int) -> Fail:
    """Return *said* with its texts cut to the broker's limits, for each text and for the frame."""
    cut = _cut(said, LONGEST_TRACEBACK)
    if len(encode_request(cut)) <= max_frame_bytes:
        return cut
    envelope_bytes = len(encode_request(Fail("", "", "", True, said.id)))
    return _cut(said, max(0, (max_frame_bytes - envelope_bytes) // _BYTES_A_CHARACTER))


def _cut(said: Fail, length: int) -> Fail:
    return Fail(
        reason=beginning(said.reason, min(length, LONGEST_REASON)),
        kind=beginning(said.kind or "", min(length, LONGEST_KIND)) or None,
        traceback=said.traceback and end(said.traceback, min(length, LONGEST_TRACEBACK)),
        retry=said.retry,
        id=said.id,
    )


def text_of(error: BaseException) -> str:
    """Return the text of *error*; if that is empty, its representation; if that is empty too, its class's name."""
    try:
        return str(error) or repr(error) or _name_of(error)
    except BaseException as second:
        # __str__ and __repr__ of a user's exception may raise anything: the job has failed all the same.
        return f"{_name_of(error)}, whose text cannot be made: {_name_of(second)}"


def kind_of(error: BaseException) -> str | None:
    """Return the name of the class of *error*, cut to the limit of ``kind``; None if the name is empty."""
    return beginning(_name_of(error), LONGEST_KIND) or None


def beginning(text: str, length: int) -> str:
    """Return the first *length* characters of *text* at most, in a form that UTF-8 can encode."""
    return sendable(text[:length])[:length]


def end(text: str, length: int) -> str:
    """Return the last *length* characters of *text* at most, in a form that UTF-8 can encode."""
    return sendable(text[-length:])[-length:] if length else ""


def sendable(text: str) -> str:
    """Return *text* with lone surrogates escaped: UTF-8 cannot encode them, and names of files may have them."""
    return text.encode(errors="backslashreplace").decode()


def _name_of(error: BaseException) -> str:
    # Not `type(error).__name__`, which a metaclass may override.
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def _traceback(traceback_of: Callable[[], str | None]) -> str | None:
    try:
        text = traceback_of()
        return text and end(text, LONGEST_TRACEBACK)
    except Exception:
        return None  # an exception's notes, or the attributes of a SyntaxError, may raise too


def _own_traceback(error: BaseException) -> str:
    return "".join(TracebackException.from_exception(error).format())
