"""Tests of gloom.cli."""
