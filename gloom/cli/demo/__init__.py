"""``gloom demo``: a broker and two workers at work on real input."""

from gloom.cli.demo.verb import command

__all__ = ["command"]
