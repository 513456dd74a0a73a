"""Tests of gloom.host."""
