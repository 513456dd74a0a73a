"""
The progress of a verb: a bar on a terminal, lines elsewhere, and a hint while nothing happens.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from gloom.cli.output import on_terminal, say, tell

_REFRESH_SECONDS = 0.2
_RECENT_SECONDS = 3.0
_LINE_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0


class Tally:
    """
    Counts jobs that have ended.

    Attributes:
        done: Number of jobs that have ended.
        failed: Number of those without an answer.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.done = 0
        self.failed = 0
        self._clock = clock
        self._began = clock.seconds()
        self._recent: deque[tuple[float, int]] = deque([(self._began, 0)])

    def count(self, *, failed: bool) -> None:
        """Count one job."""
        self.done += 1
        self.failed += failed

    @property
    def seconds(self) -> float:
        """Seconds since the counting began."""
        return self._clock.seconds() - self._began

    @property
    def jobs_per_second(self) -> float:
        """The mean rate since the counting began."""
        return self.done / max(self.seconds, 1e-6)

    def recent_jobs_per_second(self) -> float:
        """Return the mean rate of the last seconds; call it at each refresh."""
        now = self._clock.seconds()
        self._recent.append((now, self.done))
        while len(self._recent) > 2 and now - self._recent[0][0] > _RECENT_SECONDS:
            self._recent.popleft()
        then, done = self._recent[0]
        return (self.done - done) / max(now - then, 1e-6)

    def jobs(self) -> str:
        """Return the number of jobs, in words."""
        return "1 job" if self.done == 1 else f"{self.done:,} jobs"

    def __str__(self) -> str:
        return f"{self.jobs()} in {self.seconds:.1f} s, {self.failed:,} failed, {self.jobs_per_second:,.0f} jobs/s"


class Bar:
    """
    A progress bar on standard error; a context manager.

    The reactor draws it: a thread would take CPU time from the work itself.

    Args:
        clock: Times the refreshes.
        tally: The jobs that have ended.
        position: Returns the progress in the unit of *total*; called at each refresh.
        total: The end, or None if it is unknown.
    """

    def __init__(self, clock: IReactorTime, tally: Tally, position: Callable[[], float], total: float | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._tally = tally
        self._position = position
        when = [TimeRemainingColumn(), TextColumn("left")] if total else [TimeElapsedColumn()]
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%" if total else ""),
            TextColumn("{task.description}"),
            *when,
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task(self._text(), total=total)
        self._drawing = LoopingCall(self._draw)
        self._drawing.clock = clock

    def __enter__(self) -> Bar:
        self._bar.start()
        self._drawing.start(_REFRESH_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._drawing.stop()
        self._bar.stop()

    def _draw(self) -> None:
        self._bar.update(self._task, description=self._text(), completed=self._position(), refresh=True)

    def _text(self) -> str:
        failed = f" [red]{self._tally.failed:,} failed[/]" if self._tally.failed else ""
        return f"{self._tally.jobs()}{failed} {self._tally.recent_jobs_per_second():,.0f} jobs/s"


class ProgressLines:
    """
    Progress without a terminal: a line a second on standard error; a context manager.

    Args:
        clock: Times the lines.
        tally: The jobs that have ended.
        total: Number of all jobs.
    """

    def __init__(self, clock: IReactorTime, tally: Tally, total: int) -> None:
        self._tally = tally
        self._total = total
        self._printing = LoopingCall(self._print)
        self._printing.clock = clock

    def __enter__(self) -> ProgressLines:
        self._printing.start(_LINE_SECONDS, now=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._printing.stop()

    def _print(self) -> None:
        rate = self._tally.recent_jobs_per_second()
        tell(f"{self._tally.done:,} of {self._total:,} jobs, {rate:,.0f} jobs/s")


class Patience:
    """
    Prints one hint on a terminal when the first answer takes long.

    Args:
        clock: Times the wait.
        type: The job type, for the hint.
    """

    def __init__(self, clock: IReactorTime, type: str) -> None:
        self._clock = clock
        self._type = type
        self._call: Any = None
        self._needed = on_terminal(sys.stderr)

    def begin(self) -> None:
        """Start the wait for the first answer, once: a job was submitted."""
        if self._needed:
            self._needed = False
            text = f"waiting for an answer; does a slave serve {self._type!r}? (Ctrl-C gives up)"
            self._call = self._clock.callLater(_PATIENCE_SECONDS, say, text)

    def end(self) -> None:
        """Cancel the hint: an answer has arrived, or the verb ends."""
        self._needed = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
