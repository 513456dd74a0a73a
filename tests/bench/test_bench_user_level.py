"""The comparison at user level: its measurements, and its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from bench.clients.user_level import report
from bench.clients.user_level.echo import BODY, WrongAnswer, check
from bench.clients.user_level.environment import versions
from bench.clients.user_level.meter import Meter, in_order, one_at_a_time, percentile
from bench.clients.user_level.systems import SYSTEMS


def figures(rate: float, p50: float) -> dict[str, dict[str, float]]:
    return {
        "one": {"p50_ms": p50, "p99_ms": 2 * p50, "cpu_ms_per_job": 0.3},
        "many": {"jobs_per_second": rate, "cpu_ms_per_job": 0.1},
    }


def counting(seconds: list[float]) -> Callable[[], dict[str, float]]:
    return lambda: {"client": seconds.pop(0), "broker": 0.0}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([7.0], 50, 7.0), ([3.0, 1.0, 2.0], 50, 2.0), ([1.0, 2.0, 3.0, 4.0], 50, 2.0), (list(range(1, 101)), 99, 99)],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], percent: float, expected: float) -> None:
    """The p-th percentile is the least value that p percent of the values do not exceed."""
    assert percentile(values, percent) == expected


def test_neither_the_first_answer_nor_the_warm_up_counts() -> None:
    """The jobs of the start and of the warm-up count in no figure: jobs, latencies or CPU time."""
    meter = Meter(0, 0, counting([5.0, 7.0, 7.5]))
    assert [meter.answered(0.0) for _ in range(3)] == [True, True, False]
    assert meter.figures["jobs"] == 1
    assert meter.figures["cpu_ms_per_job"] == 500
    assert meter.figures["cpu_ms_per_job_of"] == {"client": 500, "broker": 0}


def test_one_at_a_time_has_latencies() -> None:
    """With one job at a time, each job's latency is measured."""
    meter = Meter(0, 0, counting([0.0, 0.0, 0.0]))
    one_at_a_time(lambda body: body, meter)
    assert 0 <= meter.figures["p50_ms"] <= meter.figures["p99_ms"]


def test_the_window_is_full_until_the_end_and_then_drained() -> None:
    """While jobs are counted exactly a window is in flight, and none is left behind."""
    in_flight, most = list[str](), list[int]()

    def wait(handle: str) -> str:
        most.append(len(in_flight))
        in_flight.remove(handle)
        return handle

    def submit(body: str) -> str:
        in_flight.append(body)
        return body

    in_order(submit, wait, 4, Meter(0, 0, counting([0.0, 0.0, 0.0])))
    assert most == [4, 4, 4, 3, 2, 1]
    assert in_flight == []


def test_a_wrong_answer_is_noticed() -> None:
    """A system that answers wrongly is not measured."""
    check(BODY)
    with pytest.raises(WrongAnswer):
        check(BODY[1:])


def test_a_row_has_medians_ranges_and_how_many_times_as_fast_gloom_is() -> None:
    """The table shows the middle round, the range of the others, and gloom's rate as a multiple."""
    celery = report.summary([figures(300, 4.0), figures(500, 2.0), figures(450, 3.0)])
    assert report.row(celery, {"gloom": 9_000, "gloom-16": 18_000}) == [
        "450 (300-500)",
        "20.0",
        "40.0",
        "0.1 (0.1-0.1)",
        "3 (2-4)",
        "6 (4-8)",
        "0.3 (0.3-0.3)",
    ]
    assert len(report.row(celery, {})) == 5


def test_a_document_has_the_table_the_notes_and_what_was_reached() -> None:
    """A document names its machine, and all rows of its table have the same columns."""
    summaries = {
        "gloom": report.summary([figures(9_000, 0.4)]),
        "gloom-16": report.summary([figures(18_000, 0.4)]),
        "rq": report.summary([figures(90, 9.0)]),
    }
    lines = report.markdown(summaries, 64, "A machine").splitlines()
    assert lines[0] == "A machine. Medians (least-most)."
    drawn = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in drawn}) == 1
    assert drawn[4].startswith("| RQ | 90 (90-90) | 100.0 | 200.0 |")
    assert "- met    gloom, -c 16: times RQ: 200 (wanted: at least 10)" in lines
    assert f"- {report.note(SYSTEMS['rq'])}" in lines


def test_the_table_names_every_system_that_was_measured() -> None:
    """A skipped system has no row, and the others have their names."""
    summaries = {"gloom": report.summary([figures(9_000, 0.4)]), "rq": report.summary([figures(90, 9.0)])}
    console = Console(width=120)
    with console.capture() as drawn:
        console.print(report.table(summaries, 64))
    assert "gloom" in drawn.get()
    assert "RQ" in drawn.get()
    assert "Celery" not in drawn.get()


@pytest.mark.parametrize(
    ("rate", "p50", "slowest", "met"),
    [(8_000, 0.49, 800, [True, True, True]), (7_999, 0.5, 800, [False, False, False])],
)
def test_what_gloom_shall_reach_is_said_beside_what_it_reached(
    rate: float, p50: float, slowest: float, met: list[bool]
) -> None:
    """A target is met at its value, and missed below it."""
    summaries: Any = {
        "gloom": report.summary([figures(rate, p50)]),
        "dramatiq": report.summary([figures(slowest, 3.0)]),
        "huey": report.summary([figures(rate, 3.0)]),
    }
    bars = report.bars(summaries)
    assert [bar["met"] for bar in bars] == met
    assert report.bar_line(bars[0]).startswith(
        f"{'met   ' if met[0] else 'missed'} gloom: answered jobs/s: {rate:,.0f} ("
    )
    assert report.bar_line(bars[2]).startswith("met " if met[2] else "missed gloom: times Dramatiq: 9.99")


def test_without_gloom_there_is_nothing_to_reach() -> None:
    """A run without gloom is no failure of gloom."""
    assert report.bars({"rq": report.summary([figures(90, 9.0)])}) == []


def test_the_lines_name_the_system() -> None:
    """The lines on a skipped system, a round and a note use the system's common name."""
    assert report.skip_line("rq-simple", "no Redis") == "skipped RQ, SimpleWorker: no Redis"
    assert report.round_line(1, 3, "celery", figures(1_234.5, 4.0)) == (
        "round 1/3  Celery: 1,234 jobs/s, one at a time p50 4.00 ms, p99 8.00 ms"
    )
    assert report.note(SYSTEMS["dask"]).startswith("dask.distributed: keeps nothing")


def test_the_version_of_every_system_is_pinned() -> None:
    """Every compared system has a pinned version, so that the comparison can be repeated."""
    assert {package for system in SYSTEMS.values() for package in system.packages} <= versions().keys()
