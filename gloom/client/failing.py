"""
The ``fail`` of a job: any exception becomes a `Fail` that every broker takes.

Shared by the Deferred slave, the blocking slave and the child processes of
``gloom work``. Imports no Twisted.
"""

from __future__ import annotations

from collections.abc import Callable
from traceback import TracebackException

from gloom.errors import TryAgain
from gloom.wire.messages import Fail, encode_request

#: Characters; the beginning of a reason says most, and the end of a traceback.
LONGEST_REASON = 64 * 1024
LONGEST_TRACEBACK = 64 * 1024
LONGEST_KIND = 255

# JSON writes a character as 6 bytes at worst, and a failure has three texts.
_BYTES_A_CHARACTER = 18


def failure_of(
    error: BaseException, id: str | int | None = None, traceback_of: Callable[[], str | None] | None = None
) -> Fail:
    """
    Return the request that reports *error*; never raises, even if the methods of *error* do.

    Args:
        error: The exception of the job's function, or of gloom itself.
        id: The job's id, where the slave names it.
        traceback_of: Makes the text of the traceback; the exception's own when absent.
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
    """Return the text of *error*; its representation where that is empty, and its kind where there is neither."""
    try:
        return str(error) or repr(error) or _name_of(error)
    except BaseException as second:
        # Its own __str__ or __repr__ may raise anything: the job has failed either way.
        return f"{_name_of(error)}, whose text cannot be made: {_name_of(second)}"


def kind_of(error: BaseException) -> str | None:
    """Return the name of the class of *error* as ``kind`` takes it; None where it has none."""
    return beginning(_name_of(error), LONGEST_KIND) or None


def beginning(text: str, length: int) -> str:
    """Return at most *length* characters of *text*, all of them such as UTF-8 can carry."""
    return sendable(text[:length])[:length]


def end(text: str, length: int) -> str:
    """Return the last *length* characters of *text* at most, all of them such as UTF-8 can carry."""
    return sendable(text[-length:])[-length:] if length else ""


def sendable(text: str) -> str:
    """Return *text* as UTF-8 can carry it: file names hold lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _name_of(error: BaseException) -> str:
    # Not `type(error).__name__`: a metaclass may have its own idea of that.
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def _traceback(traceback_of: Callable[[], str | None]) -> str | None:
    try:
        text = traceback_of()
        return text and end(text, LONGEST_TRACEBACK)
    except Exception:
        return None  # the notes of an exception, or the attributes of a SyntaxError, may raise as well


def _own_traceback(error: BaseException) -> str:
    return "".join(TracebackException.from_exception(error).format())
