"""
The answer of one job of many: an element of `Master.map` of the Deferred and of the asyncio client.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Answer(Struct, frozen=True):
    """
    How one job of a `Master.map` ended.

    Attributes:
        index: The place of its body among the bodies, from 0.
        value: The answer; None if the job failed.
        error: The reason why it failed, or None.
    """

    index: int
    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value
