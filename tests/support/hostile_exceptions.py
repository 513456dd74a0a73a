"""Exceptions that harm a program that reports them."""

from __future__ import annotations


class Silent(Exception):
    """An exception without text."""

    def __str__(self) -> str:
        return ""


class Unspeakable(Silent):
    """Its ``repr`` raises, and the ``repr`` of the raised exception raises too."""

    def __repr__(self) -> str:
        raise Unspeakable


class Wordy(Exception):
    """Its text cannot be encoded, and is longer than a frame."""

    def __str__(self) -> str:
        return "\ud800\x00" * 5000


class Wrong(Exception):
    """Its ``str`` returns no string."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Interrupting(Exception):
    """Its ``str`` raises an exception that ends the program."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


KINDS: tuple[type[Exception], ...] = (Silent, Unspeakable, Wordy, Wrong, Interrupting)
