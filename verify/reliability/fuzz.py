"""
Fuzzing of messages and whole sessions: ``python -m verify.reliability.fuzz --inputs 1000000``.

An input is one frame, or one piece of bytes, passed to a decoder or sent to a port.
A seeded generator produces the bytes; in `verify.reliability.guided`, libFuzzer
does. A failure prints the bytes that reproduce it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import sys
from time import monotonic
from typing import Any

from gloom.client.failing import failure_of, fitted
from gloom.errors import BodyError, ProtocolError
from gloom.wire.bodies import decode_body, encode_body
from gloom.wire.messages import (
    MASTER,
    SLAVE,
    Vocabulary,
    decode_broker_message,
    decode_hello,
    decode_job,
    encode_request,
)
from tests.support import hostile_exceptions
from verify.reliability.draw import Draw
from verify.reliability.figures import MIB, resident_bytes, show, verdict
from verify.reliability.grammar import payload
from verify.reliability.sessions import Session, Violation

HANG_SECONDS = 60
SLOW_SECONDS = 5.0
# Depths of the Python stack below a client's call: that of a typical program, and almost the recursion limit.
STACKS = (20, 100, 700)
LEAST_FRAME_BYTES = 1024
MOST_GROWTH_BYTES = 16 * MIB
VOCABULARIES = [Vocabulary(role, extended=extended) for role in (MASTER, SLAVE) for extended in (False, True)]


def fuzz_messages(data: bytes) -> int:
    """
    Pass messages derived from *data* to every decoder; return the number of inputs.

    Raises:
        Exception: A decoder raised an undocumented exception.
    """
    draw, inputs = Draw(data), 0
    while draw.left:
        frame = payload(draw, draw.once_in(2))
        inputs += 1
        for vocabulary in VOCABULARIES:
            try:
                request = vocabulary.decode(frame)
                for job in getattr(request, "jobs", ()):
                    decode_job(job)
            except ProtocolError as error:
                _check_words(error)
        try:
            decode_hello(frame)
            decode_broker_message(frame)
        except ProtocolError as error:
            _check_words(error)
        _check_stacks(draw, frame)
        if draw.once_in(16):
            _check_failure(draw)
    return inputs


def _check_stacks(draw: Draw, frame: bytes) -> None:
    """Check that a client reads and writes a body on a deep stack exactly as on this one."""
    here, there = _body_of(frame), _on_stack_of(draw.of(STACKS), frame)
    if here != there:
        raise Violation(f"whether a body is read depends on the stack: {here[:100]!r} and {there[:100]!r}")


def _on_stack_of(frames: int, frame: bytes) -> str:
    return _on_stack_of(frames - 1, frame) if frames else _body_of(frame)


def _body_of(frame: bytes) -> str:
    """Return a client's reading of a body, and its re-encoding, as comparable text."""
    try:
        value: Any = decode_body(frame)
    except BodyError:
        return "not read"
    try:
        return bytes(encode_body(value)).decode()
    except BodyError:
        return "not sent"


def _check_failure(draw: Draw) -> None:
    """Let a slave's function raise exceptions that are hostile to the code that reports them."""
    try:
        raise draw.of(hostile_exceptions.KINDS)
    except Exception as error:
        said = fitted(failure_of(error, "id"), LEAST_FRAME_BYTES)
    frame = encode_request(said)
    if len(frame) > LEAST_FRAME_BYTES or not json.loads(frame)["reason"]:
        raise Violation(f"a failure without a reason, or too large: {frame[:200]!r}")


def _check_words(error: ProtocolError) -> None:
    reason = str(error)
    if not reason or len(reason) > 1000 or error.code == "internal_error":
        raise Violation(f"an error without a short reason: {error.code}: {reason[:200]}")
    reason.encode()


def run(data: bytes) -> int:
    """Fuzz with *data*; its first byte selects messages or a session. Return the number of inputs."""
    begun = monotonic()
    inputs = fuzz_messages(data[1:]) if data[:1] < b"\x30" else Session(data[1:]).run()
    if monotonic() - begun > SLOW_SECONDS:
        raise Violation(f"{inputs} inputs took {monotonic() - begun:.1f} s")
    return inputs


class Fuzzer:
    """
    Counts inputs, and stops at a failure or at the wanted number.

    Args:
        wanted: Number of inputs to reach.
        ends_hangs: Whether a hanging run ends the process, with a traceback.

    Attributes:
        inputs: Number of inputs so far.
        runs: Number of runs so far.
        failures: The failures.
    """

    def __init__(self, wanted: int, *, ends_hangs: bool = False) -> None:
        self.wanted = wanted
        self._ends_hangs = ends_hangs
        self.inputs = self.runs = 0
        self.failures: list[str] = []
        self._begun = monotonic()
        self._early_bytes = 0

    def one(self, data: bytes) -> None:
        """Run *data*."""
        if self._ends_hangs:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            self.inputs += run(data)
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}\n  replay with: --replay {data.hex()}")
        self.runs += 1
        if not self._early_bytes and self.inputs > self.wanted / 4:
            self._early_bytes = resident_bytes()

    @property
    def is_done(self) -> bool:
        return bool(self.failures) or self.inputs >= self.wanted

    def report(self, how: str) -> int:
        """Print the figures, and return the exit status."""
        if self._ends_hangs:
            faulthandler.cancel_dump_traceback_later()
        seconds, growth = monotonic() - self._begun, resident_bytes() - (self._early_bytes or resident_bytes())
        show(
            f"{self.inputs} inputs in {self.runs} runs ({how}), {seconds:.1f} s, {self.inputs / seconds:.0f} inputs/s, "
            f"memory grew by {growth / MIB:.1f} MiB after the first quarter"
        )
        if growth > MOST_GROWTH_BYTES:
            self.failures.append(f"memory grew by more than {MOST_GROWTH_BYTES // MIB} MiB")
        return verdict(self.failures)


def fuzz_at_random(inputs: int, seed: int, longest_bytes: int = 1500, *, ends_hangs: bool = False) -> int:
    """Run with the bytes of a seeded generator; return the exit status."""
    fuzzer, chance = Fuzzer(inputs, ends_hangs=ends_hangs), random.Random(seed)
    while not fuzzer.is_done:
        fuzzer.one(chance.randbytes(chance.randrange(longest_bytes)))
    return fuzzer.report(f"seed {seed}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", metavar="HEX", help="run these bytes only, with a traceback")
    options = parser.parse_args()
    if options.replay is not None:
        show(f"{run(bytes.fromhex(options.replay))} inputs")
        return 0
    return fuzz_at_random(options.inputs, options.seed, ends_hangs=True)


if __name__ == "__main__":
    sys.exit(main())
