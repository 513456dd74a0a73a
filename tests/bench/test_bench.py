"""The bench: its plan, and the tables that it makes of the figures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.wire.measure import Measurement
from bench.wire.report import Spread, notes, ratio, row, write_json
from bench.wire.run import Case, Plan, Results
from bench.wire.show import markdown, read
from bench.wire.systems import SYSTEMS


def measurement(**figures: Any) -> Measurement:
    """Return a measurement of 1,000 jobs in a second at 20 us each, with *figures* replaced."""
    usual = {
        "jobs": 1000,
        "seconds": 1.0,
        "cpu_seconds": 0.02,
        "load_cpu_seconds": 0.5,
        "peak_bytes": 50 * 2**20,
        "p50_us": 100.0,
        "p99_us": 900.0,
        "p99_9_us": 2000.0,
        "max_us": 3000.0,
        "late_p99_us": 1.0,
    }
    return Measurement(**{**usual, **figures})


class TestFigures:
    def test_a_ratio_is_the_median_of_those_of_the_rounds(self) -> None:
        """The ratio is the median over the rounds: in a round on a busy machine both systems are slower."""
        measured = {
            "gloom": [measurement(cpu_seconds=seconds) for seconds in (0.02, 0.08, 0.03)],
            "relay": [measurement(cpu_seconds=seconds) for seconds in (0.01, 0.04, 0.01)],
        }
        assert ratio(measured, "gloom", "relay") == pytest.approx(2.0)

    def test_no_ratio_to_what_was_not_measured(self) -> None:
        """Without gearmand its column has a dash."""
        measured = {"gloom": [measurement()]}
        assert ratio(measured, "gloom", "gearmand") is None
        assert row(Case("A"), measured, "gloom")[2:4] == ["-", "-"]

    def test_a_row_has_medians_and_the_range_of_cpu(self) -> None:
        """Latencies and rates are medians of the rounds; memory is their maximum."""
        rounds = [
            measurement(cpu_seconds=0.02, p99_9_us=1000.0),
            measurement(cpu_seconds=0.03, p99_9_us=3000.0, peak_bytes=60 * 2**20),
            measurement(cpu_seconds=0.05, p99_9_us=9000.0),
        ]
        assert row(Case("A"), {"gearmand": rounds}, "gearmand") == [
            "gearmand",
            "30.0 (20.0-50.0)",
            "1.00",
            "-",
            "1,000",
            "100",
            "900",
            "3,000",
            "60",
            "",
        ]

    def test_what_failed_is_said(self) -> None:
        """A system without a measurement has a row that says so."""
        assert row(Case("A"), {"nats": []}, "nats")[:2] == ["nats", "failed"]

    def test_one_figure_has_no_range(self) -> None:
        """A single round is shown as one number."""
        assert Spread.of([1234.56]).text() == "1,234.6"

    @pytest.mark.parametrize(
        ("case", "figures", "note"),
        [
            (Case("A"), {}, ""),
            (Case("A"), {"load_cpu_seconds": 0.95}, "load busy"),
            (Case("A", rate=1000), {}, ""),
            (Case("A", rate=2000), {}, "rate not kept"),
            (Case("A", rate=1000), {"late_p99_us": 500.0}, "load late"),
        ],
    )
    def test_a_note_says_when_a_figure_is_not_the_systems(
        self, case: Case, figures: Mapping[str, float], note: str
    ) -> None:
        """A note says that the load generator was busy or late, or that the system answered less than was offered."""
        assert notes(case, [measurement(**figures), measurement(**figures), measurement()]) == note


class TestPlan:
    def test_the_first_body_goes_through_all_shapes(self) -> None:
        """The first body is measured in every shape; other bodies, queued jobs and rates in the first shape."""
        plan = Plan(shapes=["A", "B"], bodies=[100, 10_000], rates=[5000], queued=300, rounds=1, jobs=1)
        assert list(plan.cases()) == [
            Case("A"),
            Case("B"),
            Case("A", 10_000),
            Case("A", fill=300),
            Case("A", rate=5000),
        ]

    def test_large_bodies_come_in_small_numbers(self) -> None:
        """Large bodies run in small numbers: 64 of 1 MB in flight would measure memory, and 30,000 take minutes."""
        load = Case("A", 1_000_000).load(30_000)
        assert (load.window, load.jobs) == (8, 300)

    def test_a_rate_is_offered_for_some_seconds(self) -> None:
        """The number of jobs follows from the rate and the seconds."""
        assert Case("A", rate=5000).load(30_000).jobs == 15_000

    def test_only_what_has_job_types_gets_other_jobs(self) -> None:
        """Only systems with job types get queued jobs of another type; the relay would assign them."""
        assert [name for name, system in SYSTEMS.items() if Case("A", fill=1).takes(system)] == ["gloom", "gearmand"]


def test_a_system_that_is_not_installed_is_left_out_with_a_line() -> None:
    """A system that is not installed is left out, with a line that names the program and its package."""
    system = dataclasses.replace(SYSTEMS["gearmand"], program="no-such-program")
    assert system.missing() == (
        "gearmand is left out: no-such-program is not installed (Debian package gearman-job-server)"
    )
    assert SYSTEMS["gloom"].missing() is None


def test_the_json_file_has_every_measurement(tmp_path: Path) -> None:
    """Each measurement has its load, its round and the derived figures."""
    measured = {Case("A", rate=5000.0): {"gloom": [measurement(), measurement(cpu_seconds=0.03)]}}
    results = Results(measured, ["nats went away"])
    write_json(results, {"machine": {"cores": 2}}, tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["machine"] == {"cores": 2}
    second = content["measurements"][1]
    assert (second["shape"], second["rate"], second["system"], second["round"]) == ("A", 5000, "gloom", 2)
    assert (second["p99_9_us"], second["jobs_per_second"], second["load_is_busy"]) == (2000.0, 1000.0, False)
    assert second["cpu_us"] == pytest.approx(30.0)
    assert read([content]) == results


def test_of_several_files_the_first_counts() -> None:
    """A load in two files is shown as in the first, beside the loads that only one file has."""
    first = Results({Case("A"): {"gloom": [measurement()]}})
    second = Results({Case("A"): {"gloom": [measurement(cpu_seconds=9.0)]}, Case("B"): {"gloom": [measurement()]}})
    contents = [{"failures": [], "measurements": results.as_json()} for results in (first, second)]
    assert read(contents).measured == {**second.measured, **first.measured}


def test_markdown_has_a_table_for_each_load() -> None:
    """Markdown has a table for each load, with the cells of the table on the terminal."""
    lines = markdown(Results({Case("S"): {"gloom": [measurement()]}})).splitlines()
    assert lines[0] == "**S: 1 master, 1 slave, 100 B, window 1**"
    assert lines[4] == "| gloom | 20.0 | - | - | 1,000 | 100 | 900 | 2,000 | 50 |  |"
