"""
The proof of what docs/reliability.md says, a command each: ``python -m verify.reliability.fuzz``.

Each ends with status 0 when all held, and prints its figures.
"""
