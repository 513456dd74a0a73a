"""
The broker, its protocols and its clients in a simulated world: docs/reliability.md, "Simulation".

`clock` and `network` are the world's time and TCP, `mirror` keeps an account
of its own between protocols and broker, `recount` holds the broker's counters
against it, `raw`, `rawmaster`, `rawslave` and `clients` are the peers, `world` lets things happen.
"""
