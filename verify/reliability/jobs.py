"""The jobs of these commands; separate from the masters, so that a slave need not import one."""

#: Type of the ordinary jobs: the answer is the body plus one.
TYPE = "increment"
#: Type of the job that its slave holds forever.
HELD = "hold"
