"""What the verbs that submit jobs have in common on their command lines."""

from __future__ import annotations

import click

_PRIORITIES = range(-(2**63), 2**63)
_LONGEST_SECONDS = 1e9


def valid_short_text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """
    Return *value*, a job type or a job id, or None where it is absent.

    Raises:
        click.BadParameter: It has not 1 to 255 characters.
    """
    if value is not None and not 1 <= len(value) <= 255:
        raise click.BadParameter(f"must have 1 to 255 characters, got {len(value)}")
    return value


def valid_seconds(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """
    Return *value*, or None where it is absent.

    Raises:
        click.BadParameter: It is not above 0, or not a time that a clock can wait.
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
    help="Larger first; equal ones in the order of submission.",
)

#: The parameter ``text``.
text_option = click.option("--text", is_flag=True, help="Send a string, also where it could be read as JSON.")
