"""
The work of ``gloom demo``: a farm counts the words of the standard library.
"""

from __future__ import annotations

import sys
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from gloom.cli.connect import Place, connected_master
from gloom.cli.demo import job as demo_job
from gloom.cli.demo.farm import Farm
from gloom.cli.output import on_terminal, print_out, tell
from gloom.cli.progress import Bar, ProgressLines, Tally
from gloom.errors import GloomError
from gloom.reactor import IProcessReactor

_WORKERS = 2
_WINDOW = 32
_JOB = f"{demo_job.__name__}:{demo_job.count.__name__}"
# Folders beside the standard library that are no part of it.
_OTHERS = frozenset(("site-packages", "dist-packages"))


async def demonstrate(reactor: IProcessReactor, *, as_json: bool) -> int:
    """
    Have the standard library counted, and print the totals.

    Returns:
        The exit status.

    Raises:
        GloomError: A process did not start or ended early, a file cannot
            be read, or a job failed.
    """
    directory = Path(sysconfig.get_path("stdlib"))
    files = list(source_files(directory, _OTHERS))
    farm = Farm(reactor)
    try:
        totals = await farm.during(_counted(reactor, farm, directory, files))
    finally:
        await farm.stop()
    print_out(msgspec.json.encode(totals) + b"\n" if as_json else _table(totals))
    return 0


def source_files(directory: Path, others: AbstractSet[str] = frozenset()) -> Iterator[Path]:
    """
    Yield the Python source files under *directory*, sorted.

    Args:
        directory: The root of the search.
        others: Names of folders to leave out.
    """
    for path in sorted(directory.rglob("*.py")):
        if others.isdisjoint(path.relative_to(directory).parts) and path.is_file():
            yield path


def source_text(path: Path) -> str:
    """
    Return the text of a Python source file, in the encoding that it declares.

    Bytes that are wrong in this encoding (in some tests of the standard
    library) become replacement characters.

    Raises:
        GloomError: It cannot be read.
    """
    try:
        try:
            with tokenize.open(path) as file:
                return file.read()
        except (SyntaxError, UnicodeDecodeError):
            return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise GloomError(f"cannot read {path}: {error.strerror}") from None


async def _counted(reactor: IProcessReactor, farm: Farm, directory: Path, files: list[Path]) -> dict[str, Any]:
    pid = await farm.start_broker()
    _tell("broker", f"process {pid}: masters on {farm.master_address}, slaves on {farm.slave_address}")
    for _ in range(_WORKERS):
        _tell("worker", f"process {farm.start_worker(_JOB)}: gloom work {_JOB}")
    _tell("jobs", f"{len(files):,} Python source files of {directory}")
    totals: Counter[str] = Counter()
    workers: Counter[int] = Counter()
    async with connected_master(reactor, Place(farm.master_address)) as master:
        tally = Tally(reactor)
        with _progress(reactor, tally, len(files)):
            async for answer in master.map(demo_job.count.__name__, map(source_text, files), window=_WINDOW):
                if answer.error is not None:
                    raise GloomError(f"{files[answer.index]}: {answer.error}")
                counts = answer.value
                workers[counts.pop("worker")] += 1
                totals.update(counts)
                tally.count(failed=False)
    return {
        "files": tally.done,
        **totals,
        "seconds": round(tally.seconds, 2),
        "jobs_per_second": round(tally.jobs_per_second),
        "workers": {str(worker): jobs for worker, jobs in sorted(workers.items())},
    }


def _progress(reactor: IProcessReactor, tally: Tally, total: int) -> AbstractContextManager[Any]:
    if on_terminal(sys.stderr):
        return Bar(reactor, tally, lambda: tally.done, total)
    return ProgressLines(reactor, tally, total)


def _tell(name: str, text: str) -> None:
    tell(f"{name:8}{text}")


def _table(totals: dict[str, Any]) -> bytes:
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in totals.items() if name != "workers"]
    workers = [(f"jobs of worker {pid}", f"{jobs:,}") for pid, jobs in totals["workers"].items()]
    if not on_terminal(sys.stdout):
        return "".join(f"{name:24}{value:>12}\n" for name, value in counts + workers).encode()
    return _drawn_table(counts, workers).encode()


def _drawn_table(*sections: list[tuple[str, str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The standard library, counted", show_header=False)
    table.add_column()
    table.add_column(justify="right", style="bold")
    for rows in sections:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    console = Console()
    with console.capture() as drawn:
        console.print(table)
    return drawn.get()
