"""The parts of `gloom bench`: percentiles, the table, JSON, and each way to load a broker in memory."""

from __future__ import annotations

import json
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from math import ceil
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from gloom.cli.bench.figures import Figures, Histogram, Report
from gloom.cli.bench.load import Around, Bench, ClosedLoop, EchoSlave, Load, OfferedRate, only_failures
from gloom.cli.bench.plan import BenchOptions
from gloom.cli.connect import Place
from gloom.cli.main import command
from gloom.client.deferred import Master
from gloom.client.session import Assignment
from gloom.errors import GloomError, RequestRefused
from gloom.settings import Settings
from tests.support.farm import Farm

OPTIONS = BenchOptions(
    masters=2, slaves=1, slots=4, window=3, rate=None, body_bytes=10, seconds=None, jobs=20, as_json=False
)


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as one:
        yield one


# Percentiles


@given(st.lists(st.floats(1e-7, 1e6), min_size=1), st.sampled_from([0.1, 50, 99, 99.9, 100]))
def test_a_percentile_is_that_of_the_nearest_rank_within_half_a_percent(times: list[float], percent: float) -> None:
    """A percentile is a time that the given part of the values does not exceed, for any distribution."""
    histogram = Histogram()
    for seconds in times:
        histogram.record(seconds)
    exact = sorted(times)[ceil(len(times) * percent / 100) - 1]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.004)
    assert histogram.percentile(100) == pytest.approx(max(times), rel=0.004)
    assert (histogram.count, histogram.most) == (len(times), max(times))


def test_nothing_has_no_percentile_and_equal_times_have_theirs() -> None:
    """A part without answers shows no latency of 0; a clock that does not advance does no harm."""
    histogram = Histogram()
    assert histogram.percentile(50) is None
    histogram.record(0.0)
    assert histogram.percentile(99) == 0.0
    single = Histogram()
    single.record(0.003)
    assert single.percentile(50) == 0.003


def test_a_histogram_stays_small() -> None:
    """A bench overnight needs the memory of one over seconds."""
    histogram, chance = Histogram(), random.Random(7)
    for _ in range(50_000):
        histogram.record(10 ** chance.uniform(-5, 2))
    assert len(pickle.dumps(histogram)) < 20_000


# Output


def figures_of(*milliseconds: float, **known: Any) -> Figures:
    figures = Figures(**known)
    for each in milliseconds:
        figures.latency.record(each / 1000)
    return figures


def report_of(options: BenchOptions = OPTIONS, **parts: Figures) -> Report:
    report = Report("gloom-bench-1", "m:1", "s:2", options)
    for part, figures in parts.items():
        report.begin(part, figures)
    return report


def test_the_table_has_aligned_lines_without_a_terminal() -> None:
    """Each part is a column; failures stand by their codes, and a missing figure is a dash."""
    report = report_of(
        one_at_a_time=figures_of(0.25, submitted=1, seconds=1.0, submitting_seconds=1.0, cpu_seconds=0.5),
        closed_loop=Figures(failures=Counter(busy=1200), submitted=1200),
    )
    assert report.printed(drawn=False).decode() == (
        "2 masters, 1 slave of 4 slots, bodies of 10 bytes\n"
        "                    one at a time  3 in flight a master\n"
        "jobs answered                   1                     0\n"
        "jobs failed                     0                 1,200\n"
        "  busy                          0                 1,200\n"
        "seconds                       1.0                   0.0\n"
        "jobs/s answered                 1                     0\n"
        "latency p50, ms              0.25                     -\n"
        "latency p99, ms              0.25                     -\n"
        "latency p99.9, ms            0.25                     -\n"
        "latency max, ms              0.25                     -\n"
        "CPU of the load, %             50                     0\n"
    )
    assert report.failed


def test_the_table_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the load is above the table, and some cells exist in one part only."""
    monkeypatch.setenv("COLUMNS", "100")
    options = replace(OPTIONS, rate=1500)
    report = report_of(options, one_at_a_time=figures_of(1.0), offered_rate=figures_of(2.0, rate=1500))
    drawn = report.printed(drawn=True).decode()
    assert drawn.startswith("2 masters, 1 slave of 4 slots, bodies of 10 bytes\n")
    assert re.search(r"one at a time .* 1,500 jobs/s ", drawn)
    assert re.search(r"│ latency p50, ms +│ +1.00 │ +2.00 │", drawn)
    assert re.search(r"│ jobs/s submitted +│ +│ +0 │", drawn)
    assert not report.failed


def test_json_has_units_in_its_names() -> None:
    """A script reads one object: the settings of the bench, and the figures of each part."""
    offered = figures_of(1, 2, 3, rate=10, submitted=4, seconds=0.5, submitting_seconds=0.4, cpu_seconds=0.1)
    offered.failures["draining"] = 1
    offered.late.record(0.002)
    told = json.loads(report_of(replace(OPTIONS, rate=10, as_json=True), offered_rate=offered).printed(drawn=True))
    part = told.pop("offered_rate")
    assert told == {
        "master": "m:1",
        "slave": "s:2",
        "type": "gloom-bench-1",
        "masters": 2,
        "slaves": 1,
        "slots": 4,
        "window": None,
        "rate": 10,
        "body_bytes": 10,
        "seconds": None,
        "jobs": 20,
        "lost": None,
    }
    assert part == {
        "jobs": 3,
        "failed": 1,
        "failures": {"draining": 1},
        "seconds": 0.5,
        "jobs_per_second": 6.0,
        "latency_p50_ms": pytest.approx(2, rel=0.004),
        "latency_p99_ms": pytest.approx(3, rel=0.004),
        "latency_p99_9_ms": pytest.approx(3, rel=0.004),
        "latency_max_ms": 3.0,
        "load_cpu_percent": 25.0,
        "rate_jobs_per_second": 10,
        "submitted_jobs_per_second": 10.0,
        "late_p50_ms": 2.0,
        "late_p99_ms": 2.0,
        "rate_was_offered": True,
    }
    assert json.loads(report_of(replace(OPTIONS, as_json=True)).printed(drawn=False))["window"] == 3


def test_what_the_figures_do_not_say_is_remarked() -> None:
    """Remarks say that the load was the limit, that a rate could not be offered, or that a connection was lost."""
    calm = figures_of(1.0, submitting_seconds=1.0, cpu_seconds=0.5)
    assert list(report_of(one_at_a_time=calm).remarks()) == []
    hurried = figures_of(1.0, rate=5000, submitted=4000, submitting_seconds=1.0, cpu_seconds=0.97)
    hurried.late.record(0.5)
    report = report_of(replace(OPTIONS, rate=5000), one_at_a_time=calm, offered_rate=hurried)
    report.lost = "it is gone"
    late, busy, lost = report.remarks()
    assert late.startswith(
        "part 2: 5,000 jobs/s could not be offered in time: 4,000 jobs/s were submitted, 1 % of them"
    )
    assert late.endswith("more than 500 ms late")
    assert busy.startswith("part 2: this process had 97 % of a CPU: it was the limit")
    assert lost == "the broker is lost, and that ended the bench: it is gone"
    assert report.failed


def test_it_is_said_what_begins() -> None:
    """The introduction names the broker and warns of the load on it; each part is announced with its size."""
    report = report_of()
    assert "masters on m:1, slaves on s:2" in report.introduction()
    assert "gloom-bench-1: others are left alone, but the broker is under load meanwhile" in report.introduction()
    assert report.begin("one_at_a_time", Figures()) == "part 1  one at a time, 20 jobs"
    timed = report_of(replace(OPTIONS, jobs=1, seconds=2.5))
    assert timed.begin("closed_loop", Figures()) == "part 1  3 in flight a master, 1 job or 2.5 s"


# Loads


def around(farm: Farm, masters: list[Master], **known: Any) -> Around:
    clock = farm.gloom.clock
    fields: dict[str, Any] = {"now": clock.seconds, "seconds": None, "jobs": None}
    return Around(clock, masters=masters, type="echo", body="xxxxxxxx", **(fields | known))


def slow_echo(farm: Farm, seconds: float) -> Callable[[Any], Any]:
    return lambda body: deferLater(farm.gloom.clock, seconds, lambda: body)


def run(farm: Farm, load: Load, seconds: float) -> Figures:
    """Run *load*, which must end within *seconds* of the clock."""
    running = Deferred.fromCoroutine(load.run())
    farm.advance(seconds)
    farm.gloom.result(running)
    return load.figures


def test_a_closed_loop_keeps_its_window_full_and_no_fuller(farm: Farm) -> None:
    """A closed loop submits the number of jobs asked for, with one window in flight for each master."""
    masters, seen = [farm.master(), farm.master()], list[int]()

    def answer(body: str) -> Deferred[str]:
        seen.append(sum(master.unanswered for master in masters))
        return deferLater(farm.gloom.clock, 0.1, lambda: body)

    farm.slave("echo", answer, slots=100)
    load = ClosedLoop(around(farm, masters, jobs=20), 3)
    figures = run(farm, load, 1.0)
    assert (figures.latency.count, figures.submitted, figures.failures.total()) == (20, 20, 0)
    assert max(seen) == 6
    assert figures.latency.percentile(50) == pytest.approx(0.1)
    assert figures.seconds == pytest.approx(0.4)


def test_a_closed_loop_ends_after_its_time_with_every_answer(farm: Farm) -> None:
    """Jobs submitted in time are answered and counted; none is submitted later."""
    farm.slave("echo", slow_echo(farm, 0.3), slots=10)
    load = ClosedLoop(around(farm, [farm.master()], seconds=1.0), 2)
    figures = run(farm, load, 1.3)
    assert figures.latency.count == 8
    assert figures.submitting_seconds == pytest.approx(1.0)
    assert figures.seconds == pytest.approx(1.2)


def test_a_time_that_ends_between_jobs_ends_the_part(farm: Farm) -> None:
    """A part whose time ends with no job in flight ends at once."""
    farm.slave("echo", lambda body: body)
    load = OfferedRate(around(farm, [farm.master()], seconds=0.25), 10)
    assert run(farm, load, 0.25).latency.count == 3


def test_refused_jobs_are_counted_and_the_broker_is_not_flooded() -> None:
    """Each place in the window pauses after a refusal."""
    with Farm(Settings(max_jobs=2, master_share=1.0)) as farm:
        farm.slave("echo", slow_echo(farm, 0.2), slots=10)
        load = ClosedLoop(around(farm, [farm.master()], seconds=1.0), 4)
        figures = run(farm, load, 1.3)
    assert set(figures.failures) == {"busy"}
    assert 20 <= figures.failures["busy"] <= 42
    assert load.tally.failed == figures.failures["busy"]
    assert 8 <= figures.latency.count <= 12


def test_a_latency_at_an_offered_rate_counts_from_when_the_job_was_due(farm: Farm) -> None:
    """If the broker pauses for a second, every job due in that second has the pause in its latency."""
    masters = [farm.master(), farm.master()]
    load = OfferedRate(around(farm, masters, seconds=2.0), 10)
    running = Deferred.fromCoroutine(load.run())
    farm.advance(1.0)
    assert [master.unanswered for master in masters] == [6, 5]
    farm.slave("echo", lambda body: body)
    farm.advance(1.0)
    farm.gloom.result(running)
    figures = load.figures
    assert figures.latency.count == figures.submitted == 20
    assert figures.latency.most == pytest.approx(1.0)
    assert figures.latency.percentile(75) == pytest.approx(0.5, rel=0.01)
    assert figures.late.most == pytest.approx(0.0, abs=1e-6)
    assert figures.as_json()["rate_was_offered"] is True


def test_an_offered_rate_that_has_too_much_unanswered_says_how_late_it_is(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many unanswered jobs delay later ones, which bounds memory; their latency counts from their due time."""
    monkeypatch.setattr("gloom.cli.bench.load._MOST_UNANSWERED", 1)
    farm.slave("echo", slow_echo(farm, 0.2), slots=10)
    load = OfferedRate(around(farm, [farm.master()], jobs=6), 10)
    figures = run(farm, load, 3.0)
    assert figures.latency.count == 6
    assert figures.latency.most == pytest.approx(0.7, abs=0.01)
    assert figures.late.most == pytest.approx(0.5, abs=0.01)
    assert figures.as_json()["rate_was_offered"] is False


def test_answers_are_read_between_many_jobs_that_are_due(farm: Farm) -> None:
    """After a pause of the process, due jobs are submitted a hundred a turn, with answers read in between."""
    master = farm.master()
    now = chain([0.0], repeat(1.0)).__next__
    load = OfferedRate(around(farm, [master], now=now, jobs=250), 1000)
    running = Deferred.fromCoroutine(load.run())
    assert master.unanswered == 100
    farm.slave("echo", lambda body: body, slots=1000)
    farm.advance(1.0)
    farm.gloom.result(running)
    assert load.figures.latency.count == 250


def test_a_job_without_an_answer_is_given_up(farm: Farm) -> None:
    """A stuck slave does not block the bench: its job is given up, and a later answer is not counted."""
    master = farm.master()
    stuck = farm.raw_slave("echo")
    load = ClosedLoop(around(farm, [master], seconds=0.5), 2)
    figures = run(farm, load, 10.5)
    assert figures.failures == {"no_answer": 2}
    stuck.send({"action": "respond", "body": 1})
    farm.stop(master)
    assert (figures.latency.count, figures.failures.total()) == (0, 2)


def test_a_load_that_is_cancelled_leaves_no_timer(farm: Farm) -> None:
    """Ctrl-C ends the load at once: unanswered jobs are dropped with their master."""
    master = farm.master()
    load = OfferedRate(around(farm, [master], seconds=5.0), 10)
    running = Deferred.fromCoroutine(load.run())
    farm.advance(1.0)
    running.cancel()
    with pytest.raises(CancelledError):
        farm.gloom.result(running)
    farm.stop(master)
    load.finish("late")
    assert load.figures.failures == {}


# The whole


class SlowEcho(EchoSlave):
    """Takes a tenth of a second."""

    def run(self, job: Assignment, max_answer_bytes: int) -> Any:
        return deferLater(self._reactor, 0.1, super().run, job, max_answer_bytes)


def echo_slave(farm: Farm, kind: type[EchoSlave] = EchoSlave, endpoint: Any = None) -> EchoSlave:
    address: Any = endpoint or farm.gloom.slave_endpoint
    return farm.add(kind(Place(address), "echo", 1, farm.gloom.clock))


def benched(farm: Farm, slaves: list[EchoSlave], options: BenchOptions = OPTIONS) -> tuple[Report, Bench]:
    report = Report("echo", "m:1", "s:2", options)
    masters = [farm.master() for _ in range(options.masters)]
    return report, Bench(farm.gloom.clock, masters, slaves, report, farm.gloom.clock.seconds)


@pytest.mark.parametrize(("rate", "part"), [(None, "closed_loop"), (50, "offered_rate")])
def test_a_bench_has_two_parts(farm: Farm, capsys: pytest.CaptureFixture[str], rate: int | None, part: str) -> None:
    """One job at a time first, then the window or the rate; jobs that warm up do not count."""
    report, bench = benched(farm, [echo_slave(farm)], replace(OPTIONS, rate=rate, as_json=True))
    running = Deferred.fromCoroutine(bench.run())
    farm.advance(30)
    farm.gloom.result(running)
    told = json.loads(report.printed(drawn=False))
    assert [told[name]["jobs"] for name in ("one_at_a_time", part)] == [20, 20]
    assert not report.failed
    assert re.findall(r"^part \d", capsys.readouterr().err, re.MULTILINE) == ["part 1", "part 2"]


def test_a_lost_connection_ends_the_bench_with_what_was_measured(farm: Farm) -> None:
    """Unanswered jobs count as failed, there is no second part, and the loss is reported once."""
    report, bench = benched(farm, [echo_slave(farm, SlowEcho)], replace(OPTIONS, jobs=None, seconds=60))
    running = Deferred.fromCoroutine(bench.run())
    farm.advance(1.05)
    farm.drop()
    farm.gloom.result(running)
    table = report.printed(drawn=False).decode()
    assert re.search(r"^jobs answered +8$", table, re.MULTILINE)
    assert re.search(r"^  connection_lost +1$", table, re.MULTILINE)
    assert "in flight" not in table
    assert [text for text in report.remarks() if "lost" in text] == [
        "the broker is lost, and that ended the bench: it has ended a connection"
    ]
    assert report.failed


@pytest.mark.parametrize("port", ["slaves", "masters"])
def test_a_broker_that_shuts_down_ends_the_bench_at_once(farm: Farm, port: str) -> None:
    """A shutdown ends the bench, whichever client learns of it first: others may only lose their connection."""
    report, bench = benched(farm, [echo_slave(farm, SlowEcho)], replace(OPTIONS, jobs=None, seconds=60))
    running = Deferred.fromCoroutine(bench.run())
    farm.advance(1.05)
    getattr(farm.gloom, port).quiet()
    farm.advance()
    farm.drop()
    farm.gloom.result(running)
    assert re.search(r"^  draining +1$", report.printed(drawn=False).decode(), re.MULTILINE)
    assert report.lost == "it shuts down"


def test_a_broker_that_is_lost_before_the_first_part_is_an_error(farm: Farm) -> None:
    """A broker lost before the first part is an error without figures, even if another takes its place."""
    _, bench = benched(farm, [echo_slave(farm)])
    farm.drop()
    running = Deferred.fromCoroutine(bench.run())
    farm.advance(1)
    with pytest.raises(GloomError, match="the broker is lost: it has ended a connection"):
        farm.gloom.result(running)
    lost = Report("echo", "m:1", "s:2", OPTIONS)
    Bench(farm.gloom.clock, [farm.master(start=False)], [], lost)
    assert lost.lost == "it has ended a connection"


def test_jobs_that_are_all_refused_are_an_error() -> None:
    """If every job is refused, for a body over the limit for example, the bench ends before it measures."""
    with Farm(Settings(max_frame_bytes=1024)) as farm:
        _, bench = benched(farm, [], replace(OPTIONS, body_bytes=2000))
        with pytest.raises(GloomError, match="the first job failed: size_error"):
            farm.gloom.result(Deferred.fromCoroutine(bench.run()))


def test_a_first_job_without_an_answer_is_an_error(farm: Farm) -> None:
    """A first job without an answer is an error: the slaves may have joined another broker than the masters'."""
    _, bench = benched(farm, [])
    running = Deferred.fromCoroutine(bench.run())
    farm.advance(10)
    with pytest.raises(GloomError, match="the first job failed: no answer within 10 s"):
        farm.gloom.result(running)


def test_an_echo_slave_tells_whether_it_has_joined(farm: Farm) -> None:
    """An echo slave answers with the body; one that the broker refuses reports the reason."""
    farm.gloom.result(echo_slave(farm).joined)
    with pytest.raises(RequestRefused, match="join is for the slave port"):
        farm.gloom.result(echo_slave(farm, endpoint=farm.gloom.master_endpoint).joined)
    assert farm.result(farm.master().submit("echo", "hello")) == "hello"
    farm.drop()
    assert farm.result(farm.master().submit("echo", "again")) == "again"


def test_only_bugs_are_said_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """When twelve peers lose one broker, the log has one line, not twelve."""
    only_failures({"log_format": "the connection ended"})
    assert capsys.readouterr().err == ""
    only_failures({"log_format": "a bug", "log_level": LogLevel.critical, "log_failure": Failure(ValueError("x"))})
    assert "gloom: a bug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--masters", "0"], "Invalid value for '--masters': 0 is not in the range 1<=x<=1000."),
        (["--slaves", "1001"], "Invalid value for '--slaves': 1001 is not in the range"),
        (["--slots", "0"], "Invalid value for '--slots': 0 is not in the range"),
        (["--window", "10001"], "Invalid value for '-w' / '--window': 10001 is not in the range"),
        (["--body-bytes", "1"], "Invalid value for '--body-bytes': 1 is not in the range"),
        (["--jobs", "0"], "Invalid value for '--jobs': 0 is not in the range"),
        (["--rate", "0.5"], "Invalid value for '--rate': '0.5' is not a valid integer"),
        (["--seconds", "0"], "Invalid value for '--seconds': must be above 0 and at most 1000000000 seconds, got 0"),
        (["--rate", "5", "--window", "5"], "either --window or --rate, not both"),
        (["--master", "nowhere"], "Invalid value for '--master'"),
        (["--slave", "nowhere"], "Invalid value for '--slave' (env var: 'GLOOM_SLAVE'): expected HOST:PORT"),
        (["--tls-ca", "/no/such"], "tls ca: cannot read /no/such"),
        (["type"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_status_2(arguments: list[str], complaint: str) -> None:
    """Wrong usage is one line, and puts no load on any broker."""
    result = CliRunner().invoke(command, ["bench", *arguments], prog_name="gloom")
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_help_is_quick_because_it_loads_no_twisted() -> None:
    """The help imports neither Twisted nor rich."""
    program = (
        "import sys; from gloom.cli.main import command\n"
        "try: command(['bench', '--help'])\n"
        "finally: sys.stderr.write(' '.join({'twisted', 'rich', 'asyncio'} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.startswith("Usage:")
    assert ended.stderr == ""
