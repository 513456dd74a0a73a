"""
The proof of what docs/reliability.md says, a command each: ``PYTHONPATH=tests python -m reliability.fuzz``.

Each ends with status 0 when all held, and prints its figures.
"""
