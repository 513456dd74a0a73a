"""What the jobs of these commands are; apart, so that a slave need not load a master."""

#: The type of the jobs that are many: their answer is one more than their body.
TYPE = "increment"
#: The type of the job that is held for ever.
HELD = "hold"
