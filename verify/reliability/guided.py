"""
Fuzzing guided by branch coverage: ``python -m verify.reliability.guided --inputs 100000``.

As `verify.reliability.fuzz`, with bytes from libFuzzer, through atheris. It is a separate
program, because atheris must instrument modules before their first import.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from verify.reliability.figures import show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ImportError as error:
        show(f"skipped: this Python, {sys.version.split()[0]}, has no atheris: {error}")
        return 0
    with atheris.instrument_imports(include=["gloom"]):
        from verify.reliability.fuzz import Fuzzer
    fuzzer = Fuzzer(options.inputs, ends_hangs=True)

    def one(data: bytes) -> None:
        fuzzer.one(data)
        if fuzzer.is_done:
            # libFuzzer does not return.
            os._exit(fuzzer.report("atheris"))

    atheris.Setup([sys.argv[0], f"-seed={options.seed}", "-max_len=1500", "-len_control=0", "-verbosity=0"], one)
    atheris.Fuzz()
    return 1


if __name__ == "__main__":
    sys.exit(main())
