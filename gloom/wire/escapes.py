"""
Text of peers with escapes, for log lines: no peer can forge a line or move the cursor.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return *text* with escapes for unprintable characters, such as a newline, ESC or a bidi control."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
