"""
What a job costs, and how long it takes: gloom beside other job servers, on this machine.

``python -m bench`` from the checkout. ``programs`` compiles the load generator
(load.c) and the limit (relay.c), ``systems`` starts what is compared,
``measure`` loads one of them once, ``run`` has the plan, ``report`` and ``plot``
show what came out. ``python -m bench.wire.show`` shows the JSON files of runs again,
``python -m bench.check`` is the part for CI.
"""
