"""A broker that is killed and started again during a `gloom map`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.commands import SECONDS, Farm, pipe_of

# Many windows of a map (`--window`): the effect of a death does not depend on their number.
LINES = 4_000
# The broker is killed and restarted after these numbers of answers.
DEATHS = (500, 1_500)


def test_every_line_is_answered_exactly_once_though_the_broker_is_killed(tmp_path: Path) -> None:
    """A broker killed by SIGKILL twice, and restarted on its ports, delays a map, and costs no answer."""
    farm = Farm(tmp_path)
    writer = f"for n in range({LINES}): print(n)"
    try:
        with farm.running("map", "echo", stdin=subprocess.PIPE) as process:
            feeding = subprocess.Popen([sys.executable, "-c", writer], stdout=pipe_of(process.stdin).fileno())
            pipe_of(process.stdin).close()
            stdout = pipe_of(process.stdout)
            lines: list[str] = []
            for deaths in DEATHS:
                lines += [stdout.readline() for _ in range(deaths - len(lines))]
                farm.broker.kill()
                farm.broker.start_again()
            lines += stdout.readlines()
            assert process.wait(SECONDS) == 0
            said = pipe_of(process.stderr).read().splitlines()
            assert feeding.wait(SECONDS) == 0
    finally:
        farm.stop()
    outcomes = [json.loads(line) for line in lines]
    assert sorted(outcome["answer"] for outcome in outcomes) == list(range(LINES))
    assert all(outcome["line"] == outcome["answer"] + 1 for outcome in outcomes)
    assert sum("the connection to the broker ended" in line for line in said) == len(DEATHS)
    assert said[-1].startswith(f"gloom: {LINES:,} jobs in ")
