"""
Cost and latency of a job: gloom beside other job servers, on this machine.

``python -m bench`` from the checkout. ``programs`` compiles the load generator
(load.c) and the baseline (relay.c), ``systems`` starts the systems compared,
``measure`` loads one of them once, ``run`` holds the plan, ``report`` and ``plot``
present the results. ``python -m bench.wire.show`` prints the JSON files of earlier runs,
``python -m bench.check`` is the part for CI.
"""
