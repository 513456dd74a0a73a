"""
The type of a whole reactor, for the few places that wire a process together.

All other code asks for the narrowest interface of Twisted that serves:
`IReactorTime` for a clock, `IReactorCore` to stop the process. Nothing here is
imported for its behaviour: these interfaces are annotations.
"""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
)


class IReactor(IReactorCore, IReactorTime, IReactorFromThreads, IReactorFDSet, IReactorTCP, IReactorUNIX):
    """A reactor with start and stop, a clock, calls from signal handlers, descriptors and sockets."""


class IProcessReactor(IReactor, IReactorProcess):
    """A reactor that also starts processes."""
