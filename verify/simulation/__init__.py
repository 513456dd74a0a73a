"""
The broker, its protocols and its clients in a simulated world: docs/reliability.md, "Simulation".

`clock` and `network` simulate time and TCP. `mirror` keeps an independent account
between protocols and broker; `recount` checks the broker's counters
against it. `raw`, `rawmaster`, `rawslave` and `clients` are the peers; `world` schedules the events.
"""
