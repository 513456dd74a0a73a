"""
Checks of the clients' public parameters. Imports no Twisted.

Each check returns the value, or raises TypeError for a wrong type and ValueError
for a value out of range; the text names the parameter, its range and the value.
A member of an enumeration, or an instance of another subclass of str, int or
float, is returned as a plain value, because the encoder takes only those.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LONGEST_SECONDS = 1e9
MOST_RETRIES = 100
MOST_TYPES = 1000
MOST_SLOTS = 1000
_LONGEST_TEXT = 255
_MOST_PRIORITY = 2**63 - 1
_LONGEST_SHOWN = 60
# See docs/protocol.md, section 1.3.
_LONGEST_INTEGER = 4300
_MOST_ID = 10**_LONGEST_INTEGER - 1
_LEAST_ID = 1 - 10 ** (_LONGEST_INTEGER - 1)


def checked_string(name: str, value: Any, shown: bool = True) -> str:
    """Return *value*, any string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {_shown(value) if shown else type(value).__name__}")
    return str.__str__(value)


def checked_text(name: str, value: Any, shown: bool = True) -> str:
    """
    Return *value*, a string that UTF-8 can encode.

    Args:
        shown: Whether an error may quote the value; False for a token.
    """
    text = checked_string(name, value, shown)
    try:
        text.encode()
    except UnicodeEncodeError:
        got = f", got {_shown(value)}" if shown else ""
        raise ValueError(f"{name} must be text that UTF-8 can carry, without lone surrogates{got}") from None
    return text


def short_text(name: str, value: Any) -> str:
    """Return *value*, a string of 1 to 255 characters."""
    text = checked_text(name, value)
    if not 1 <= len(text) <= _LONGEST_TEXT:
        raise ValueError(f"{name} must be 1 to {_LONGEST_TEXT} characters, got {len(text)}")
    return text


def checked_token(value: Any) -> str | None:
    """Return *value*, a token or None; no error shows it."""
    return None if value is None else checked_text("token", value, shown=False)


def checked_id(value: Any) -> str | int:
    """Return *value*, a job id."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not _LEAST_ID <= value <= _MOST_ID:
            raise ValueError(f"id must be an integer of at most {_LONGEST_INTEGER} characters, its sign included")
        return int.__index__(value)
    if not isinstance(value, str):
        raise TypeError(f"id must be a string of 1 to {_LONGEST_TEXT} characters or an integer, got {_shown(value)}")
    return short_text("id", value)


def checked_type(value: Any) -> str | None:
    """Return *value*, a job type or None."""
    if value is None or isinstance(value, str):
        return None if value is None else short_text("type", value)
    raise TypeError(f"type must be a string of 1 to {_LONGEST_TEXT} characters or None, got {_shown(value)}")


def checked_types(value: Any) -> str | list[str] | None:
    """Return *value*, a job type or None; or a list of 1 to 1000 job types, without repetitions."""
    if value is None or isinstance(value, str):
        return checked_type(value)
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"type must be a string, a list of strings or None, got {_shown(value)}")
    types = list(dict.fromkeys(short_text("type", one) for one in value))
    if not 1 <= len(types) <= MOST_TYPES:
        raise ValueError(f"type must be one or a list of 1 to {MOST_TYPES}, got {len(types)}")
    return types


def checked_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return *value*, an integer from *least* to *most*."""
    allowed = f"{least} or more" if most is None else f"{least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, {allowed}, got {_shown(value)}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {allowed}, got {_shown(value)}")
    return int.__index__(value)


def checked_priority(value: Any) -> int:
    """Return *value*, an integer of signed 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be an integer, got {_shown(value)}")
    # Not `in range(...)`: for a member of an IntEnum, that compares each number in turn.
    if not -_MOST_PRIORITY - 1 <= value <= _MOST_PRIORITY:
        raise ValueError(f"priority must be -2**63 to 2**63 - 1, got {_shown(value)}")
    return int.__index__(value)


def seconds(name: str, value: Any) -> float:
    """Return *value*, a number of seconds from 0 to 1e9."""
    number = _number(name, value)
    if not 0 <= number <= LONGEST_SECONDS:
        raise ValueError(f"{name} must be 0 to 1e9 seconds, got {_shown(value)}")
    return number


def some_seconds(name: str, value: Any) -> float:
    """Return *value*, a number of seconds over 0, to 1e9."""
    number = _number(name, value)
    if not 0 < number <= LONGEST_SECONDS:
        raise ValueError(f"{name} must be over 0, to 1e9 seconds, got {_shown(value)}")
    return number


def checked_timeout(value: Any) -> float | None:
    """Return *value*, the time limit of a call in seconds, 0 or more; None for no limit."""
    if value is None:
        return None
    number = _number("timeout", value)
    if not number >= 0:
        raise ValueError(f"timeout must be 0 seconds or more, or None, got {_shown(value)}")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, got {_shown(value)}")
    return float.__float__(value) if isinstance(value, float) else int.__index__(value)


def checked_flag(name: str, value: Any) -> bool:
    """Return *value*, True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return value


def checked_function(name: str, value: Any) -> Any:
    """Return *value*, a callable."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Return the beginning of *value*, for the text of an error."""
    try:
        text = ascii(value)
    except Exception:  # an integer with too many digits for Python, or a class with a __repr__ that raises
        text = type(value).__name__
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
