"""A host that can be cut off: a network namespace and a virtual link to it (needs root, and Linux)."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from types import TracebackType
from typing import Self

_MOST_A_PROCESS = 16
_NUMBERS = count()


class NotPermitted(Exception):
    """This process may not create a network; the text says why."""


class OtherHost:
    """
    A namespace with a link to this host; use it as a context manager.

    Attributes:
        here: This host's address on the link.
        prefix: Command prefix that runs a command in the namespace.

    Raises:
        NotPermitted: From entering it.
    """

    def __init__(self) -> None:
        # A deleted namespace keeps its link for a moment, so the next one needs names of its own.
        number = (os.getpid() * _MOST_A_PROCESS + next(_NUMBERS) % _MOST_A_PROCESS) % 16384
        # 198.18.0.0/15 is reserved for such tests (RFC 2544). Each namespace uses four of its addresses.
        self.here, self._there = (f"198.18.{number // 64}.{number % 64 * 4 + end}" for end in (1, 2))
        self._name = f"gloom{number}"
        self._link, self._far_link = f"gl{number}a", f"gl{number}b"
        self.prefix = ["ip", "netns", "exec", self._name]

    def __enter__(self) -> Self:
        if shutil.which("ip") is None:
            raise NotPermitted("there is no command ip (Debian: iproute2)")
        try:
            _ip("netns", "add", self._name)
            _ip("link", "add", self._link, "type", "veth", "peer", "name", self._far_link, "netns", self._name)
            _ip("address", "add", f"{self.here}/30", "dev", self._link)
            _ip("link", "set", self._link, "up")
            _ip("-netns", self._name, "address", "add", f"{self._there}/30", "dev", self._far_link)
            _ip("-netns", self._name, "link", "set", self._far_link, "up")
        except subprocess.CalledProcessError as error:
            self._remove()
            raise NotPermitted(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def cut(self) -> None:
        """Cut the link: packets are lost in both directions, and neither side is notified."""
        _ip("-netns", self._name, "link", "set", self._far_link, "down")

    def _remove(self) -> None:
        # Deleting the namespace removes its link.
        subprocess.run(["ip", "netns", "delete", self._name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True, text=True)
