"""
The worker of ``gloom work``: it connects to the broker, and runs each job in a child process.

In the worker's own process, on Twisted and without any code of the user:

    service       the Twisted service; one slot per concurrent job, each with one child at a time
    slave         the connection to the broker: assigns jobs to free children and returns their outcomes
    childprocess  one child process, as the worker sees it: its pipes, its signals, its end

Between the two processes:

    pipe          the frames in both pipes

In the child process, with the code of the user and only the Twisted that this code imports:

    child         the main loop: read a job, answer it, write the outcome
    awaiting      functions that return a coroutine or a Deferred
    program       jobs that an external program answers
    jobprogress   progress reports of a running job
    forked        processes that a job forks, which do none of the worker's work
    lifetime      the child's signals, and its end when the worker ends

A job's function reports progress with `progress`: ``from gloom.worker import progress``.
"""

from gloom.worker.jobprogress import progress

__all__ = ["progress"]
