"""The command that measures how cost grows, on small numbers and against real brokers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.growth import command as growth
from bench.growth.broker import Broker
from bench.growth.load import Load, answer_all, join, wait_in
from bench.growth.parts import PARTS, ROOMY, Plan, Row

SMALL = ("--scale=0.001", "--jobs=200", "--rounds=1")


def row(measured: float, bar: float | None) -> Row:
    return Row("part", "what it is", measured, "times", bar, "why")


def test_a_figure_is_held_against_its_bar() -> None:
    """A figure at its bar is ok, one beyond it is over; a figure without a bar has no verdict."""
    assert [row(1.3, 1.3).verdict, row(1.31, 1.3).verdict, row(9, None).verdict] == ["ok", "OVER", ""]
    assert growth.line_of(row(1.31, 1.3)) == "     1.31 times    1.3 OVER  what it is (why)"


@pytest.mark.parametrize("part", PARTS)
def test_each_part_measures_and_says_so_in_json(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure is a line, and is in the file with machine and versions; the status says whether one is over."""
    file = tmp_path / "growth.json"
    status = growth.main([*SMALL, "--only", part, "--json", str(file)])
    written = json.loads(file.read_text())
    assert {"cores", "python", "gloom"} < written["about"].keys()
    rows = written["rows"]
    assert {row["part"] for row in rows} == {part}
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    # So few jobs and connections fit into pages that the process had already, and their processor time may be less
    # than a tick: some systems add it to a process's clock by ticks only.
    assert all(row["measured"] >= 0 for row in rows if row["unit"] != "B")
    assert status == any(row["verdict"] == "OVER" for row in rows)


def test_a_load_leaves_alone_what_waits_behind_it() -> None:
    """Queued jobs of lower priority and the load's own type mostly stay queued, and each has its outcome later."""
    with Broker(*ROOMY) as broker:
        master = wait_in(broker, 100, ["echo"])
        with Load(broker, [join("echo")] * 2, ["echo"]) as load:
            assert load.cpu_us_a_job(500) > 0
        answer_all(broker, master, "echo", 100)
        master.close()


def test_a_broker_that_refuses_ends_the_measurement() -> None:
    """A refused job ends the measurement, since its figure would be meaningless."""
    with Broker("--max-jobs=10") as broker, pytest.raises(SystemExit, match="busy"):
        wait_in(broker, 100, ["echo"])


def test_numbers_are_scaled_and_medians_taken_in_turn() -> None:
    """Numbers scale to at least one. Small and large ones alternate, so that both meet the same noise."""
    plan = Plan(rounds=3, scale=0.01)
    calls: list[str] = []
    times = iter(range(1, 7))

    def measured(name: str) -> float:
        calls.append(name)
        return next(times)

    assert plan.compare(lambda: measured("small"), lambda: measured("large")) == (3, 4)
    assert calls == ["small", "large"] * 3
    assert [plan.scaled(1_000_000), plan.scaled(10)] == [10_000, 1]


def test_the_curves_are_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size and round has a figure, printed and in the file; the drawing needs matplotlib, which dev lacks."""
    picture, file = tmp_path / "growth.svg", tmp_path / "growth.json"
    if not importlib.util.find_spec("matplotlib"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        monkeypatch.setattr(growth, "plot", lambda curves, about, path: path.write_text(curves[0].name))
    arguments = ["--scale=0.001", "--jobs=200", "--rounds=1"]
    assert growth.main([*arguments, "--plot", str(picture), "--json", str(file)]) == 0
    written = json.loads(file.read_text())
    assert {"processor", "cores", "time"} < written["about"].keys()
    curves = written["curves"]
    assert [curve["sizes"] for curve in curves] == [
        [0, 1, 10, 100, 1000], [1, 10], [1, 5], [100, 1000, 16_000, 64_000],
    ]  # fmt: skip
    for curve in curves:
        assert [len(figures) for figures in curve["cpu_us"]] == [1] * len(curve["sizes"])
        assert all(us >= 0 for figures in curve["cpu_us"] for us in figures)
    printed = capsys.readouterr().out
    assert all(f"{curve['name']}: " in printed for curve in curves)
    assert picture.stat().st_size > 0


def test_without_matplotlib_nothing_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without matplotlib the command says so at its start, not after three minutes."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        growth.main([*SMALL, "--plot", str(tmp_path / "growth.png")])
    captured = capsys.readouterr()
    assert "pip install --group bench" in captured.err
    assert captured.out == ""


def test_a_part_alone_and_the_curves_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for a part and for the curves is an error, since curves are measured instead of the parts."""
    with pytest.raises(SystemExit):
        growth.main(["--only", "large", "--plot", "growth.png"])
    assert "not allowed with" in capsys.readouterr().err
