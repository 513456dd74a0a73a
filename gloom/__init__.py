"""
gloom distributes jobs: masters submit them, slaves take them one at a time.

    errors, settings    every exception; the broker's limits
    testing             a broker in memory, for the tests of programs that use gloom
    tap                 ``twistd gloom``
    client              clients on Deferreds (`gloom.client.deferred`) and blocking
                        ones (`gloom.client.blocking`), and for asyncio (`gloom.client.aio`)
    worker              ``gloom work``: jobs in child processes
    cli                 the command ``gloom``
    server              connections in front of a broker
    broker              jobs, queues and deadlines, in memory
    transport           frames on Twisted's connections
    host                signals, systemd, memory and descriptors of the daemon
    wire                messages as both ends write and read them

Imports go down, from `cli` to `errors`: docs/architecture.md has the floors.
"""

__version__ = "0.1.0"
