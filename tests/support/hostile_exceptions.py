"""Exceptions that harm the program that tells of them."""

from __future__ import annotations


class Silent(Exception):
    """It has no text."""

    def __str__(self) -> str:
        return ""


class Unspeakable(Silent):
    """Its representation raises, and what that raises does too."""

    def __repr__(self) -> str:
        raise Unspeakable


class Wordy(Exception):
    """Its text is no text that can be sent, and longer than a frame."""

    def __str__(self) -> str:
        return "\ud800\x00" * 5000


class Wrong(Exception):
    """Its text is no text."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class Interrupting(Exception):
    """Its text ends the program."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


KINDS: tuple[type[Exception], ...] = (Silent, Unspeakable, Wordy, Wrong, Interrupting)
