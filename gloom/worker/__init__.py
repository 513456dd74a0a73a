"""
The worker: jobs run in child processes, beside the process that talks to the broker.

    service     slots, each with one child after the other; starting, finishing, ending at once
    slave       the one connection of all slots: which child does a job, and what the broker is told
    pool        one child process, as its parent sees it
    pipe        what the two say to each other
    child       the child's own loop: a function or a program answers one job after the other
    forked      the processes that a job forks, which have no part in the worker
    telling     progress, told by a function while it runs
    awaiting    functions that return coroutines and Deferreds
    command     jobs answered by a program
    process     what a process does so that it ends with its parent, and not before

Above the pipe there is Twisted and no user's code; below it, a user's code and
no Twisted that the user's code does not bring.

For a function's code there is `progress`: ``from gloom.worker import progress``.
"""

from gloom.worker.telling import progress

__all__ = ["progress"]
