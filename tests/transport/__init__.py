"""Tests of gloom.transport."""
