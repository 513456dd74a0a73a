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
from threading import Thread
from typing import Any, TypeVar

from msgspec import Raw

from gloom.wire.largebytes import Payload

#: How deep a body may be nested: ``1`` has no level, ``[]`` one.
BODY_LEVELS = 900
#: How deep a message may be nested: one level more than the body in it.
MESSAGE_LEVELS = BODY_LEVELS + 1
#: A message of so few bytes cannot be nested deeper: each level takes two.
NEVER_DEEP_BYTES = 2 * MESSAGE_LEVELS

# Of so small a block an honest value has too few opening brackets to be looked at any further. See `_is_over`, too.
_BLOCK_BYTES = 1 << 14
#: Opening brackets as "1", closing ones as "0".
_BITS = bytes.maketrans(b"[{]}", b"1100")
#: The same as numbers to the base of four, so that a quote has one between them. See `_without_strings`.
_PAIRS_OF_BITS = bytes.maketrans(b'[{]}"', b"33001")
_FIRST_BITS = bytes.maketrans(b"3", b"1")
_SECOND_BITS: int = (4 ** (_BLOCK_BYTES + 2) - 1) // 3
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[{]}")
_ALL_BUT_BRACKETS_AND_QUOTES = _ALL_BUT_BRACKETS.replace(b'"', b"")
# A backslash is followed by one of these letters. Without them it would stand before the next quote.
_NOT_IN_ESCAPES = bytes(byte for byte in _ALL_BUT_BRACKETS_AND_QUOTES if byte not in b"\\/bfnrtu")
#: The next bracket and what is before it, strings stepped over in C. It matches the end too: no place is tried twice.
_BRACKET = re.compile(rb'(?:[^"\[{\]}]++|"(?:[^"\\]++|\\.)*+"?)*+(?:([\[{\]}])|\Z)', re.DOTALL)

Result = TypeVar("Result")


def is_deeper(data: Payload | Raw, levels: int) -> bool:
    """Return whether *data* is nested more than *levels* deep; of what is not JSON, any answer."""
    if len(data) <= 2 * levels or not has_more(data, levels, b"[", b"{"):
        return False
    level = 0
    for bits, count, scale in _bits_of(data):
        opening = bits.bit_count()
        if level * scale + opening > levels * scale and _is_over(bits, count, level * scale, levels * scale):
            return True
        level += (2 * opening - count) // scale
    return False


def has_more(data: Payload | Raw, most: int, *characters: bytes) -> bool:
    """Return whether more than *most* of *characters* are in *data*, in strings or not."""
    left = most
    for block in _blocks(data):
        for character in characters:
            # Deleting hops from one to the next; bytes.count looks at each byte.
            left -= len(block) - len(block.replace(character, b"", left + 1))
            if left < 0:
                return True
    return False


def _blocks(data: Payload | Raw) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), _BLOCK_BYTES):
        yield bytes(view[start : start + _BLOCK_BYTES])


def _bits_of(data: Payload | Raw) -> Iterator[tuple[int, int, int]]:
    """Yield for each block the bits of its brackets, the first one highest; how many bits; how many a bracket has."""
    inside = 0
    for block in _without_escapes(memoryview(data)):
        if b'"' not in block and not inside:
            brackets = block.translate(_BITS, _ALL_BUT_BRACKETS)
            yield int(brackets or b"0", 2), len(brackets), 1
            continue
        kept = block.translate(_PAIRS_OF_BITS, _ALL_BUT_BRACKETS_AND_QUOTES)
        brackets = kept.translate(_FIRST_BITS, b"1")
        quotes = len(kept) - len(brackets)
        if inside or quotes % 2:
            # A string that two blocks share becomes two strings.
            ends_inside = (inside + quotes) % 2
            kept = b"1" * inside + kept + b"1" * ends_inside
            quotes += inside + ends_inside
            inside = ends_inside
        if 2 * kept.count(b"11") == quotes:
            # All quotes stand in pairs: no string has a bracket.
            yield int(brackets or b"0", 2), len(brackets), 1
        else:
            yield _without_strings(kept), 2 * len(kept), 2


def _without_strings(kept: bytes) -> int:
    """Return the bits of *kept*, two for each: 11 is an opening bracket, 00 a closing one, 01 raises nothing."""
    bits = int(kept, 4)
    first = bits >> 1 & _SECOND_BITS
    quotes = bits & _SECOND_BITS ^ first
    # A place is inside of a string if the quotes up to it are odd: of two, of four, of eight places together.
    inside, shift = quotes, 2
    while shift < 2 * len(kept):
        inside ^= inside >> shift
        shift *= 2
    return (bits | 3 * inside) ^ inside << 1


def _without_escapes(view: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(view):
        block = bytes(view[start : start + _BLOCK_BYTES])
        if b"\\" in block:
            # An escape stays whole: the backslash that begins one at the end goes to the next block.
            if (len(block) - len(block.rstrip(b"\\"))) % 2 and len(block) > 1:
                block = block[:-1]
            start += len(block)
            yield block.translate(None, _NOT_IN_ESCAPES).replace(b"\\\\", b"").replace(b'\\"', b"")
        else:
            start += len(block)
            yield block


def _is_over(bits: int, count: int, level: int, levels: int) -> bool:
    """
    Return whether the level is over *levels* somewhere within a block, all of it at once.

    Lane by lane of 16 bits, each for 16 brackets; integers of Python have any
    number of lanes. A block has so few brackets that a lane holds its level.

    Args:
        bits: The brackets, the first one in the highest bit.
        count: How many they are.
        level: The level before them.
        levels: How many are allowed.
    """
    lanes = (count + 15) // 16
    # Closing brackets to fill the last lane raise nothing.
    packed = (bits << 16 * lanes - count).to_bytes(2 * lanes, "big")
    opening = int.from_bytes(packed.translate(_OPENING), "little")
    peaks = int.from_bytes(packed.translate(_PEAKS), "little")
    ones = int.from_bytes(b"\x01\x00" * lanes, "little")
    low = 0xFF * ones
    rises = 2 * (opening & low) - 8 * ones
    # The rise of each lane is added to all lanes behind it: to the next one, then to three, to seven, and so on.
    before = level + ((rises + 2 * (opening >> 8 & low) - 8 * ones) << 16)
    shift = 16
    while shift < 16 * lanes:
        before += before << shift
        shift *= 2
    # The highest bit of a lane is set by a level over the limit.
    before += (0x7FFF - levels) * ones
    highest = 0x8000 * ones
    return bool((before + (peaks & low)) & highest or (before + rises + (peaks >> 8 & low)) & highest)


def _peak(byte: int) -> int:
    """Return how much the level rises at most within eight brackets."""
    return max(accumulate((1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)), initial=0))


_OPENING = bytes(byte.bit_count() for byte in range(256))
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
