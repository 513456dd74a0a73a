"""Options and checks that several verbs share."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

_PRIORITIES = range(-(2**63), 2**63)
_LONGEST_SECONDS = 1e9


def valid_short_text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """
    Return *value*, a job type or a job id, or None if it is absent.

    Raises:
        click.BadParameter: Its length is not 1 to 255 characters, or it is not UTF-8.
    """
    if value is None:
        return None
    text = _typed(value)
    if not 1 <= len(text) <= 255:
        raise click.BadParameter(f"must have 1 to 255 characters, got {len(text)}")
    return text


def _typed(value: str) -> str:
    """Return *value* as it was typed: in another locale than UTF-8, Python decodes UTF-8 to half surrogates."""
    with suppress(UnicodeEncodeError):
        value.encode()
        return value
    try:
        return os.fsencode(value).decode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise click.BadParameter(f"must be UTF-8: {error.reason}") from None


def valid_short_texts(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str | None, ...]:
    """Return *values*, each checked by `valid_short_text`, with its errors."""
    return tuple(valid_short_text(context, parameter, value) for value in values)


def valid_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """
    Return *value*, the name of a peer, or None if it is absent.

    Raises:
        click.BadParameter: As `valid_short_text`, or it holds a control character.
    """
    name = valid_short_text(context, parameter, value)
    if name is not None and any(unicodedata.category(one) == "Cc" for one in name):
        raise click.BadParameter("must have no control characters")
    return name


def valid_seconds(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """
    Return *value*, or None if it is absent.

    Raises:
        click.BadParameter: It is not above 0, or longer than a timer can wait.
    """
    if value is not None and not 0 < value <= _LONGEST_SECONDS:
        raise click.BadParameter(f"must be above 0 and at most {_LONGEST_SECONDS:.0f} seconds, got {value:g}")
    return value


def _valid_priority(_context: click.Context, _parameter: click.Parameter, value: int) -> int:
    if value not in _PRIORITIES:
        raise click.BadParameter(f"must be an integer of signed 64 bits, got {value}")
    return value


#: The job type; the parameter ``type``.
type_argument = click.argument("type", metavar="TYPE", callback=valid_short_text)

#: The parameter ``priority``.
priority_option = click.option(
    "-p",
    "--priority",
    metavar="INTEGER",
    type=int,
    callback=_valid_priority,
    default=0,
    show_default=True,
    help="Jobs of larger priority go first, equal ones in order of submission.",
)

#: The parameter ``text``.
text_option = click.option("--text", is_flag=True, help="Send the input as a string, even if it is valid JSON.")


def valid_wait(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """
    Return *value*, or None if it is absent.

    Raises:
        click.BadParameter: It is below 0, or longer than a timer can wait.
    """
    if value is not None and not 0 <= value <= _LONGEST_SECONDS:
        raise click.BadParameter(f"must be 0 to {_LONGEST_SECONDS:.0f} seconds, got {value:g}")
    return value


#: The parameter ``delay``.
delay_option = click.option(
    "--delay", metavar="SECONDS", type=float, callback=valid_wait, help="Start the job no earlier than this."
)

_TERMS = (
    click.option(
        "--job-timeout",
        metavar="SECONDS",
        type=float,
        callback=valid_seconds,
        help="End an attempt that runs longer; the job may be tried again.",
    ),
    click.option(
        "--expires",
        metavar="SECONDS",
        type=float,
        callback=valid_wait,
        help="Fail a job that no slave has started after this time.",
    ),
    click.option(
        "--retries",
        metavar="N",
        type=click.IntRange(0, 100),
        help="How often a job is tried again.  [default: the broker's --retries]",
    ),
    click.option("--require-slave", is_flag=True, help="Refuse a job if no slave has joined its type."),
)


def terms_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a job's terms: ``job_timeout``, ``expires``, ``retries`` and ``require_slave``."""
    for option in reversed(_TERMS):
        command = option(command)
    return command
