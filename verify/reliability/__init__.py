"""
The checks behind docs/reliability.md, one command each: ``python -m verify.reliability.fuzz``.

Each command prints its figures and exits with status 0 if every check passed.
"""
