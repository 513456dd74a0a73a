"""Tests of gloom.server."""
