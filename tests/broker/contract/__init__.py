"""
The contract of `gloom.broker.interfaces.IBroker`: the rules of docs/protocol.md that the interface can show.

Each test runs against every kind of broker in `BROKERS`, and knows nothing of its
inside. A new broker adds its `Kind`; tests of its inside stand beside this package.
"""

from __future__ import annotations

from tests.support.floor import MEMORY, Kind

BROKERS: list[Kind] = [MEMORY]
