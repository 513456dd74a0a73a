"""
Runs a verb: its coroutine in the reactor, until it ends or a signal ends it.

Every way out is an exit status (the table is in ``gloom --help``), and none of
a user's mistakes is a traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, cast

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, globalLogBeginner

from gloom.cli.loglines import LogLines
from gloom.cli.output import FAILED, STDOUT_CLOSED, StdoutClosed, leave_stdout, say
from gloom.errors import GloomError
from gloom.reactor import IProcessReactor
from gloom.transport.clock import make_monotonic

NO_ANSWER = 124  # as timeout(1) has it
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: A verb's coroutine function: takes the reactor, returns the exit status.
Verb = Callable[[IProcessReactor], Coroutine[Any, Any, int]]


def run(verb: Verb, log: ILogObserver | None = None) -> NoReturn:
    """
    Run *verb* in the global reactor, and exit with the status that it returns.

    SIGINT, SIGTERM and SIGHUP cancel the verb: its ``finally`` clauses end its
    work, and the status is 128 plus the signal's number. A second signal
    cancels these clauses too.

    Args:
        verb: Its `GloomError` becomes one line on standard error and status 1;
            click shows a `click.ClickException`.
        log: The log observer; `LogLines` if absent.

    Raises:
        SystemExit: Always.
    """
    from twisted.internet import reactor

    make_monotonic(reactor)
    globalLogBeginner.beginLoggingTo([LogLines() if log is None else log], redirectStandardIO=False)
    sys.exit(_Run(cast(IProcessReactor, reactor), verb).until_it_ends())


class _Run:
    """One verb, from the start of the reactor to its end."""

    def __init__(self, reactor: IProcessReactor, verb: Verb) -> None:
        self._reactor = reactor
        self._verb = verb
        self._running: Deferred[int] | None = None
        self._signal = 0
        self._status = FAILED

    def until_it_ends(self) -> int:
        self._reactor.callWhenRunning(self._start)
        self._reactor.run()
        return leave_stdout(self._status)

    def _start(self) -> None:
        # The reactor has just installed its own handlers, which would stop it at once.
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # else: nohup, or a shell's background job
                signal.signal(number, self._signalled)
        self._running = Deferred.fromCoroutine(self._guarded())
        self._running.addCallback(self._ended)

    def _signalled(self, number: int, _frame: object) -> None:
        self._reactor.callFromThread(self._cancel, number)

    def _cancel(self, number: int) -> None:
        self._signal = self._signal or number
        if self._running is not None:
            self._running.cancel()

    async def _guarded(self) -> int:
        try:
            return await self._verb(self._reactor)
        except StdoutClosed:
            return STDOUT_CLOSED
        except GloomError as error:
            if self._signal:
                # The signal may have ended the broker too: Ctrl-C reaches every process of the terminal.
                return 128 + self._signal
            say(str(error))
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except Exception as error:
            if self._signal and isinstance(error, CancelledError):
                return 128 + self._signal
            # A bug: its traceback is for a report.
            traceback.print_exc()
        return FAILED

    def _ended(self, status: int) -> None:
        self._running = None
        self._status = status
        self._reactor.stop()
