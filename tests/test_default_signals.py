"""Tests behave the same in the background, under nohup, in a CI runner and in the foreground."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.default_signals import restore_default_signals

CHILD = """
import signal
usual = (signal.SIG_DFL, signal.default_int_handler)
print(all(signal.getsignal(number) in usual for number in (1, 2, 3)), signal.pthread_sigmask(0, ()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_children_have_the_default_signals(number: signal.Signals) -> None:
    """A program that a test starts reacts to Ctrl-C, even if the tests' parent ignores or blocks the signal."""
    before, mask = signal.signal(number, signal.SIG_IGN), signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        restore_default_signals()
        said = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    finally:
        signal.signal(number, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert said == "True set()\n"
