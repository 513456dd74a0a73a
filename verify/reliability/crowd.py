"""Well-behaved peers of each kind, as processes (`verify.reliability.member`), seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from verify.reliability.nursery import environment

MASTERS = ("deferred-master", "blocking-master", "raw-master")
SLAVES = ("deferred-slave", "blocking-slave", "raw-slave")


class Member(subprocess.Popen[str]):
    """
    Parent-side handle of one peer process.

    Args:
        kind: One of `MASTERS` or `SLAVES`.
        port: The broker's port, on this host.
        heartbeat_seconds: The heartbeat announced to the broker.
        prefix: Start of the command line, before the interpreter.
        names: Additions to its environment.
    """

    def __init__(
        self,
        kind: str,
        port: int,
        heartbeat_seconds: float,
        prefix: Sequence[str] = (),
        names: dict[str, str] | None = None,
    ) -> None:
        self.kind = kind
        super().__init__(
            [*prefix, sys.executable, "-m", "verify.reliability.member", kind, str(port), str(heartbeat_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment() | (names or {}),
        )

    def wait_until_ready(self) -> None:
        """Wait until the peer has started."""
        assert self.stdout is not None
        assert self.stdout.readline() == "ready\n", f"{self.kind} did not begin"

    def finish(self) -> dict[str, Any]:
        """Stop a master; return its report."""
        assert self.stdin is not None
        assert self.stdout is not None
        self.stdin.close()
        line = self.stdout.readline()
        if not line:
            return {"submitted": 0, "failures": [f"the {self.kind} crashed"]}
        seen: dict[str, Any] = json.loads(line)
        return seen
