"""``gloom bench``: the speed of a broker that runs somewhere, for a Python program."""

from gloom.cli.bench.verb import command

__all__ = ["command"]
