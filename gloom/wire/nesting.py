"""
How deep JSON is nested, and reading it whatever the caller's stack.

Implements docs/protocol.md, section 1.3. JSON readers give up at a depth that
depends on the stack below them and on Python's version; so gloom counts for
itself. All brackets are looked at by C (decision 22). Nothing here reads a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import add
from threading import Thread
from typing import Any, TypeVar

from msgspec import Raw

#: How deep a body may be nested: ``1`` has no level, ``[]`` one.
BODY_LEVELS = 900
#: How deep a message may be nested: one level more than the body in it.
MESSAGE_LEVELS = BODY_LEVELS + 1
#: A message of so few bytes cannot be nested deeper: each level takes two.
NEVER_DEEP_BYTES = 2 * MESSAGE_LEVELS

_BLOCK_BYTES = 1 << 16
_FEW_BRACKETS = 1 << 10
#: Opening brackets as "1", closing ones as "0": eight make one byte.
_BITS = bytes.maketrans(b"[{]}", b"1100")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'"[{]}')
#: The next bracket and what is before it, strings stepped over in C. It matches the end too: no place is tried twice.
_BRACKET = re.compile(rb'(?:[^"\[{\]}]++|"(?:[^"\\]++|\\.)*+"?)*+(?:([\[{\]}])|\Z)', re.DOTALL)

Result = TypeVar("Result")


def is_deeper(data: bytes | Raw, levels: int) -> bool:
    """Return whether *data* is nested more than *levels* deep; of what is not JSON, any answer."""
    if len(data) <= 2 * levels or not has_more(data, levels, b"[", b"{"):
        return False
    level = 0
    for brackets in _brackets_of(data):
        opening = brackets.count(b"1")
        if level + opening > levels and _highest(brackets, level, levels) > levels:
            return True
        level += 2 * opening - len(brackets)
    return False


def has_more(data: bytes | Raw, most: int, *characters: bytes) -> bool:
    """Return whether more than *most* of *characters* are in *data*, in strings or not."""
    left = most
    for block in _blocks(data):
        for character in characters:
            # Deleting hops from one to the next; bytes.count looks at each byte.
            left -= len(block) - len(block.replace(character, b"", left + 1))
            if left < 0:
                return True
    return False


def _blocks(data: bytes | Raw) -> Iterator[bytes]:
    if isinstance(data, bytes) and len(data) <= _BLOCK_BYTES:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(view), _BLOCK_BYTES):
        yield bytes(view[start : start + _BLOCK_BYTES])


def _brackets_of(data: bytes | Raw) -> Iterator[bytes]:
    """Yield the brackets of *data* outside of strings, as "1" and "0", block by block."""
    inside = 0
    for block in _without_escapes(memoryview(data)):
        brackets = block.translate(_BITS, _NO_BRACKETS)
        if b'"' in brackets:
            # Two quotes without a bracket between them change nothing, whichever of them opens a string.
            pieces = brackets.replace(b'""', b"").split(b'"')
            brackets = b"".join(pieces[inside::2])
            inside ^= ~len(pieces) & 1
        elif inside:
            continue
        yield brackets


def _without_escapes(view: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(view):
        block = bytes(view[start : start + _BLOCK_BYTES])
        if b"\\" in block:
            # An escape stays whole: the backslash that begins one at the end goes to the next block.
            if (len(block) - len(block.rstrip(b"\\"))) % 2 and len(block) > 1:
                block = block[:-1]
            start += len(block)
            yield block.replace(b"\\\\", b"").replace(b'\\"', b"")
        else:
            start += len(block)
            yield block


def _highest(brackets: bytes, level: int, levels: int) -> int:
    """Return the highest level within *brackets* that is over *levels*, or some level that is not."""
    for start in range(0, len(brackets), _FEW_BRACKETS):
        few = brackets[start : start + _FEW_BRACKETS]
        opening = few.count(b"1")
        if level + opening > levels:
            highest = _highest_of_few(few, level)
            if highest > levels:
                return highest
        level += 2 * opening - len(few)
    return level


def _highest_of_few(brackets: bytes, level: int) -> int:
    # Closing brackets to fill the last byte raise nothing.
    packed = int(brackets + b"0" * (-len(brackets) % 8), 2).to_bytes((len(brackets) + 7) // 8, "big")
    before = accumulate(memoryview(packed.translate(_RISES)).cast("b"), initial=level)
    highest: int = max(map(add, before, packed.translate(_PEAKS)))
    return highest


def _peak(byte: int) -> int:
    """Return how much the level rises at most within eight brackets."""
    return max(accumulate((1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)), initial=0))


_RISES = bytes((2 * byte.bit_count() - 8) % 256 for byte in range(256))
_PEAKS = bytes(map(_peak, range(256)))


def cut(data: bytes, levels: int) -> bytes:
    """
    Return *data* with a 0 for each list and each object deeper than *levels*.

    One step of Python for each bracket: for data that has few.
    """
    pieces, kept, level = [], 0, 0
    for bracket in _BRACKET.finditer(data):
        if bracket.start(1) < 0:
            break
        byte = data[bracket.start(1)]
        if byte in b"[{":
            level += 1
            if level == levels + 1:
                pieces.append(data[kept : bracket.start(1)])
        elif byte in b"]}":
            if level == levels + 1:
                pieces.append(b"0")
                kept = bracket.end()
            level -= 1
    return b"".join((*pieces, data[kept:] if level <= levels else b""))


def with_room(call: Callable[..., Result], *arguments: Any) -> Result:
    """
    Return what *call* returns; if the stack is too full for it, from a thread, whose stack is empty.

    Raises:
        RecursionError: An empty stack is not enough either.
    """
    try:
        return call(*arguments)
    except RecursionError:
        return _on_an_empty_stack(call, arguments)


def _on_an_empty_stack(call: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, name="gloom reads")
    thread.start()
    thread.join()
    if errors:
        # Each refers to the other.
        raise errors.pop()
    return results.pop()
